"""Absorption: a unit that should stand for a feature is silent, and another stands in for it.

A unit for "starts with S" that does not fire for "snake", because the unit for "snake" writes that
letter too, has been absorbed (Chanin et al. 2024, arXiv 2409.14507).

    absorption       of each input with the feature: how much of it do other units write?
    main_units       which units the feature's are, where it is known which inputs have it

As SAEBench measures it (commit 8042bb3), for units with known directions: the latents of a sparse
autoencoder, with its decoder's rows, or neurons, with the rows that they write. `B` inputs, `n`
units, `D` dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from minimono import checks, sums
from minimono.backend import Array, array_module

SILENT = 1e-8  # a main unit below it does not fire
SHARE = 0.4  # of the feature, that other units write at least where it is absorbed
ABSORBERS, ALIGNED = 3, 0.1  # other units that are counted, and their cosine with the feature
ALIGNED_ALONE = 0.025  # the cosine of one that absorbs all


class Absorption(NamedTuple):
    """What `absorption` finds, for each input and as rates over the inputs with the feature."""

    fraction: Array  # (B,), the share of the feature that other units write, 0..1
    full: Array  # (B,), booleans: no main unit fires, and one other writes most of the feature
    mean_fraction: float  # over the inputs with the feature; nan if none has it
    full_rate: float


def absorption(
    z: Array, write: Array, x: Array, direction: Array, main: Iterable[int], *,
    present: Array | None = None, bias: Array | None = None,
) -> Absorption:
    """Return how much of a known feature other units write in place of its own.

        fraction   0 if m >= t or A/t < 0.4;  1 if m <= 0 otherwise;  else u/(u + m)
        full       no main unit is above 1e-8, and the unit that writes most has a cosine of at
                   least 0.025 with d and writes at least 0.4 t, t > 0

    Authors' code. d is the feature's direction at length 1, t = x · d what there is of it, and unit
    i writes a_i w_i · d of that. m is what the main units write, A the sum of the three others that
    write most, with a cosine of at least 0.1, and u = min(A, t - m). For rows w of length 1 that is
    the authors' a_i cos(w_i, d); other lengths, those of neurons, are our choice, and so are that
    `bias`, which no unit writes, is taken off x, and that nothing is absorbed where t is 0.

    z: activations a, (B, n).   write: (n, D), a row for each unit; one that is 0 writes nothing.
    x: what they write into, (B, D).   direction: (D,), not 0.   main: numbers of the feature's
    units, one at least, say from `main_units`.   present: booleans (B,), which inputs have the
    feature; by default all.   bias: (D,).

    >>> write = np.array([[1.0, 0.0], [0.8, 0.6]])
    >>> z = np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.5]])
    >>> absorption(z, write, z @ write, np.array([1.0, 0.0]), [0]).fraction.round(3)
    array([1.   , 0.444, 0.   ])
    """
    z, write, x, d, main, present = _checked(z, write, x, direction, main, present, bias)
    xp = array_module(z, write, x, d, present)
    cosine = sums.unit(write) @ d  # (n,), nan for a unit that writes nothing
    written = z * (write @ d)  # (B, n): a_i w_i · d
    t, m = x @ d, written[:, main].sum(axis=1)  # (B,)

    absorbs = cosine >= ALIGNED  # nan does not
    absorbs[main] = False
    others = xp.where(absorbs & (written > 0), written, 0.0)
    A = xp.sort(others, axis=1)[:, -ABSORBERS:].sum(axis=1)
    u = xp.minimum(A, t - m)
    with np.errstate(divide="ignore", invalid="ignore"):
        partly = xp.where(m <= 0, 1.0, u / (u + m))
        absorbed = (t > 0) & (m < t) & (A / t >= SHARE)
        fraction = xp.where(absorbed, partly, 0.0)
        top = written.argmax(axis=1)
        most = written.max(axis=1) / t
    full = (z[:, main] < SILENT).all(axis=1)
    full &= (cosine[top] >= ALIGNED_ALONE) & (t > 0) & (most >= SHARE)

    there = int(present.sum())
    if there == 0:
        return Absorption(fraction, full, np.nan, np.nan)
    return Absorption(
        fraction, full, float(sums.mean(fraction[present])), int(full[present].sum()) / there
    )


def main_units(z: Array, present: Array, *, gain: float = 0.03) -> Array:
    """Return the units that stand for a feature: the best detector, and what adds to it.

        F1 of {unit fires} for {input has the feature}; then of {any of the units fires}

    The unit with the highest F1 comes first, then the one that raises the F1 of all together most,
    as long as it is by more than `gain`. Our choice; SAEBench does so with the F1 of sparse linear
    probes. A unit fires above 0. Of equals the first is taken.

    z: activations, (B, n).   present: booleans (B,), true for one input at least (ValueError).
    Returns whole numbers, the first chosen first.

    >>> z = np.array([[1.0, 0.0, 3.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    >>> main_units(z, np.array([True, True, True, False]))
    array([0, 1])
    """
    z = checks.matrix(z, "main_units: z", "(B, n)")
    present = checks.mask(present, "main_units: present", (len(z),))
    gain = checks.number(gain, "main_units: gain", least=0.0)
    xp = array_module(z, present)
    if not present.any():
        raise ValueError("main_units: present is False everywhere, expected an input at least")
    fires, detected = z > 0, xp.zeros((len(z), 1), dtype=bool)
    chosen: list[int] = []
    best = -np.inf
    while True:
        either = fires | detected  # (B, n)
        # 2 TP / (2 TP + FP + FN), whose denominator is all that is there or detected
        f1 = 2 * either[present].sum(axis=0) / (either.sum(axis=0) + present.sum())
        unit = int(f1.argmax())
        if not float(f1[unit]) > best + gain:
            return xp.asarray(chosen)
        chosen.append(unit)
        best, detected = float(f1[unit]), either[:, unit : unit + 1]


def _checked(
    z: Array, write: Array, x: Array, direction: Array, main: Iterable[int],
    present: Array | None, bias: Array | None,
) -> tuple[Array, Array, Array, Array, list[int], Array]:
    name = "absorption"
    z = checks.matrix(z, f"{name}: z", "(B, n)")
    write = checks.matrix(write, f"{name}: write", "(n, D)")
    checks.shaped(write, f"{name}: write", (z.shape[1], write.shape[1]), "a row for each unit of z")
    x = checks.matrix(x, f"{name}: x", "(B, D)")
    checks.shaped(x, f"{name}: x", (len(z), write.shape[1]), "a row for each input of z")
    d = checks.values(direction, f"{name}: direction")
    checks.shaped(d, f"{name}: direction", x.shape[1:])
    checks.number(float(abs(d).max()), f"{name}: direction: largest entry", above=0.0)
    units = checks.whole_numbers(main, f"{name}: main", least=0)
    highest = max(checks.several(units, f"{name}: main", "one unit"))
    checks.whole_number(highest, f"{name}: main", least=0, most=len(write) - 1, of="the last unit")
    if bias is not None:
        b = checks.values(bias, f"{name}: bias")
        x = x - checks.shaped(b, f"{name}: bias", x.shape[1:])
    if present is None:
        present = array_module(z).ones(len(z), dtype=bool)
    present = checks.mask(present, f"{name}: present", (len(z),))
    return z, write, x, sums.unit(d), sorted(set(units)), present

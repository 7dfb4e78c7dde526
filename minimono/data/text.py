"""Text for a character-level language model: read, numbered, split, cut into batches.

Shapes: `B` batch, `T` time (position).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator

import numpy as np

from minimono import files
from minimono.backend import Array
from minimono.checks import Rng, generator, share, sizes

LARGEST = 2**30  # bytes of a text; as numbers it takes some fifteen times as many

Batches = Iterator[tuple[Array, Array]]  # inputs (B, T), targets (B, T): the next characters


def read_text(path: str | os.PathLike[str] | None = None) -> str:
    """Read a UTF-8 text file, with line ends as "\\n"; without a path, Python's own help topics.

    The topics (`pydoc_data.topics`, the text behind `help("while")`) are joined in the order of
    their names. They differ between versions of Python.

    Raises FileNotFoundError or PermissionError for a file that cannot be opened, ValueError for one
    that is not a regular file, is empty, no text or larger than 2^30 bytes.
    """
    if path is None:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
        return _unix_lines("\n\n".join(topics[name] for name in sorted(topics)))
    data = files.read(path, f"text: {os.fspath(path)}", most=LARGEST)
    try:
        text = data.decode("utf-8-sig")  # -sig: a byte-order mark is not part of the text
    except UnicodeDecodeError as error:
        raise files.FileError(
            f"text: {path} is not UTF-8 text (byte {error.start} is 0x{data[error.start]:02x}); "
            "convert it first"
        ) from error
    if "\0" in text:
        raise files.FileError(
            f"text: {path} contains zero bytes: binary, or UTF-16; expected UTF-8"
        )
    if not text.strip():
        raise files.FileError(f"text: {path} is empty")
    return _unix_lines(text)


class Characters:
    """The distinct characters of a text, sorted and numbered 0, 1, ...

    >>> characters = Characters("hello")
    >>> characters.size, characters.encode("hole"), characters.decode(np.array([1, 2]))
    (4, array([1, 3, 2, 0]), 'hl')
    """

    def __init__(self, text: str):
        if not text:
            raise ValueError("Characters: text is empty")
        self._codes = np.unique(_code_points(text))

    @property
    def size(self) -> int:
        return len(self._codes)

    def encode(self, text: str) -> Array:
        """Return the number of each character, int64; ValueError for one that has no number."""
        codes = _code_points(text)
        ids = np.searchsorted(self._codes, codes)
        unknown = self._codes[np.minimum(ids, self.size - 1)] != codes
        if unknown.any():
            place = int(unknown.argmax())
            raise ValueError(
                f"encode: character {text[place]!r} (place {place}) is not one of the "
                f"{self.size} characters of the text that this was made from"
            )
        return ids.astype(np.int64)

    def decode(self, ids: Array) -> str:
        """Return the text of an array of numbers, of any shape, read row by row."""
        ids = np.asarray(ids)
        if ids.dtype.kind not in "iu":
            raise TypeError(f"decode: ids has dtype {ids.dtype}, expected integers")
        if ids.size and not 0 <= ids.min() <= ids.max() < self.size:
            raise ValueError(
                f"decode: ids is from {ids.min()} to {ids.max()}, expected 0..{self.size - 1}"
            )
        return self._codes[ids].tobytes().decode("utf-32-le", "surrogatepass")


def split(ids: Array, fraction: float = 0.1) -> tuple[Array, Array]:
    """Split a text into all but its last `fraction`, and that: (training, validation)."""
    fraction = float(share(fraction, "split: fraction", above=0, below=1))
    at = len(ids) - round(len(ids) * fraction)
    if at in (0, len(ids)):
        raise ValueError(f"split: {len(ids)} characters are too few to take {fraction} of them off")
    return ids[:at], ids[at:]


def random_batches(ids: Array, *, batch: int, context: int, rng: Rng) -> Batches:
    """Yield endless batches of windows that start at random: inputs (B, T) and targets (B, T).

    A target is the character after its input. A batch draws `batch` numbers from `rng` when it is
    asked for, and not before: the generator's state between two batches makes the next one.
    """
    sizes("random_batches", batch=batch, context=context)
    ids = np.asarray(ids)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"random_batches: ids has dtype {ids.dtype} and shape {ids.shape}, expected integers, "
            "one axis"
        )
    if len(ids) <= context:
        raise ValueError(
            f"random_batches: ids has {len(ids)} characters, a context of {context} needs at least "
            f"{context + 1}; take a longer text or a shorter context"
        )
    source = generator(rng, "random_batches: rng")

    def draw() -> Batches:
        while True:
            starts = source.integers(0, len(ids) - context, size=batch)  # (B,)
            windows = ids[starts[:, None] + np.arange(context + 1)]  # (B, T + 1)
            yield windows[:, :-1], windows[:, 1:]

    return draw()


def _code_points(text: str) -> Array:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _unix_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")

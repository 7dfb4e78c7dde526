"""A generator's state goes into an array and back, for every kind that NumPy has."""

import numpy as np
import pytest

from minimono.nn.randomness import pack_rng, unpack_rng

KINDS = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]


def generator(kind: str, seed: int) -> np.random.Generator:
    return np.random.Generator(getattr(np.random, kind)(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str) -> None:
    rng, other = generator(kind, 0), generator(kind, 1)
    rng.random(3, dtype=np.float32)  # leaves half a random number behind, which counts too
    unpack_rng(pack_rng(rng), into=other)
    np.testing.assert_array_equal(other.integers(0, 1 << 30, 99), rng.integers(0, 1 << 30, 99))
    np.testing.assert_array_equal(other.standard_normal(99), rng.standard_normal(99))


@pytest.mark.parametrize(
    "packed",
    [
        b"[]",
        b"\xff",
        b'{"bit_generator": "PCG64"}',
        b'{"bit_generator": "PCG64", "state": {"state": -1, "inc": 1}, "has_uint32": 0, '
        b'"uinteger": 0}',
        pack_rng(generator("MT19937", 0)).tobytes(),
    ],
)
def test_what_is_no_state_is_one_kind_of_error(packed: bytes) -> None:
    with pytest.raises(ValueError, match="generator state cannot be read"):
        unpack_rng(np.frombuffer(packed, dtype=np.uint8), into=np.random.default_rng(0))


@pytest.mark.parametrize("bad", [0, None, np.random.RandomState(0), "seed"])
def test_only_a_generator_has_a_state(bad: object) -> None:
    with pytest.raises(TypeError, match=r"^pack_rng: rng is"):
        pack_rng(bad)
    with pytest.raises(TypeError, match=r"^unpack_rng: rng is"):
        unpack_rng(pack_rng(generator("PCG64", 0)), into=bad)

"""Images: scikit-learn's digits, idx files good and bad, splits and batches."""

import gzip
import math
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minimono as mm
from minimono import functional as F
from minimono.data import Images, image_batches, load_digits, load_idx, shuffled_split, split
from minimono.nn.models import ConvNet
from minimono.nn.training import train

FILES = {
    "train-images-idx3-ubyte": (7, 4, 5), "train-labels-idx1-ubyte": (7,),
    "t10k-images-idx3-ubyte": (3, 4, 5), "t10k-labels-idx1-ubyte": (3,),
}


def idx(array: Any) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write(folder: Path, zipped: bool = False) -> dict[str, Any]:
    """The four files, and what they hold."""
    rng, held = np.random.default_rng(0), {}
    for name, shape in FILES.items():
        top = 10 if len(shape) == 1 else 256
        held[name] = rng.integers(0, top, shape).astype(np.uint8)
        put(folder, name, idx(held[name]), zipped)
    return held


def put(folder: Path, name: str, data: bytes, zipped: bool = False) -> None:
    if zipped:
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    else:
        (folder / name).write_bytes(data)


# ---- idx files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_read_as_they_are(tmp_path: Path, zipped: bool) -> None:
    held = write(tmp_path, zipped)
    for part, name in zip(load_idx(tmp_path), ("train", "t10k"), strict=True):
        levels, labels = held[f"{name}-images-idx3-ubyte"], held[f"{name}-labels-idx1-ubyte"]
        assert part.images.shape == (len(levels), 1, 4, 5)
        assert (part.images.dtype, part.labels.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(np.round(part.images[:, 0] * 255.0), levels)
        assert 0.0 <= part.images.min() <= part.images.max() <= 1.0
        np.testing.assert_array_equal(part.labels, labels)


def test_a_plain_file_wins_over_a_zipped_one(tmp_path: Path) -> None:
    held = write(tmp_path)
    put(tmp_path, "train-labels-idx1-ubyte", b"not looked at", zipped=True)
    np.testing.assert_array_equal(
        load_idx(str(tmp_path))[0].labels, held["train-labels-idx1-ubyte"]
    )


GOOD = idx(np.zeros((7, 4, 5), np.uint8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "train-images-idx3-ubyte.* starts with 0x, which no idx file does"),
        (b"\x00\x00\x08", "starts with 0x000008, which no idx file does"),
        (b"\x89PNG" + GOOD[4:], "starts with 0x89504e47, which no idx file does"),
        (idx(np.zeros(7, np.uint8)), "magic number 0x00000801, expected 0x00000803"),
        (b"\0\0\x0d\x03" + GOOD[4:], "magic number 0x00000d03, expected 0x00000803 .*right file"),
        (GOOD[:10], "is truncated: it has 10 bytes$"),
        (GOOD[:-1], r"is truncated: it has 155 bytes, \[7, 4, 5\] needs 156"),
        (GOOD + b"\0", r"goes on after the 156 bytes of \[7, 4, 5\]"),
        (b"\0\0\x08\x03" + b"\xff" * 12, r"is truncated or too large: \[4294967295, .* needs"),
        (idx(np.zeros((0, 4, 5), np.uint8)), r"holds nothing, its sizes are \[0, 4, 5\]"),
        (idx(np.zeros((6, 4, 5), np.uint8)), "has 6 images, train-labels-idx1-ubyte.* has 7"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_wrong_file_is_named(tmp_path: Path, data: bytes, message: str, zipped: bool) -> None:
    write(tmp_path, zipped)
    put(tmp_path, "train-images-idx3-ubyte", data, zipped)
    with pytest.raises(ValueError, match=message):
        load_idx(tmp_path)


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, zipped=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for damaged in (whole[:-9], GOOD, whole[:12] + b"\xff" * 8 + whole[20:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz is damaged or no gzip"):
            load_idx(tmp_path)


@given(st.integers(0, len(GOOD) - 1))
def test_no_truncation_is_taken_for_data(tmp_path_factory: Any, length: int) -> None:
    folder = tmp_path_factory.mktemp("idx")
    write(folder)
    put(folder, "train-images-idx3-ubyte", GOOD[:length])
    with pytest.raises(ValueError, match="load_idx: "):
        load_idx(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        load_idx(tmp_path / "nowhere")
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither t10k-labels-idx1-ubyte nor .*\.gz"):
        load_idx(tmp_path)


# ---- splits and batches ------------------------------------------------------------------------


def numbered(n: int) -> Images:
    """Each image says its number, as does its label."""
    return Images(np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1), np.arange(n))


@given(st.integers(2, 60), st.floats(0.05, 0.95), st.integers(0, 2**32 - 1))
def test_a_split_keeps_every_image_once_with_its_label(n: int, fraction: float, seed: int) -> None:
    if round(n * fraction) in (0, n):
        return
    rng = np.random.default_rng(seed)
    training, test = shuffled_split(*numbered(n), fraction=fraction, rng=rng)
    assert len(test.labels) == round(n * fraction)
    for part in (training, test):
        np.testing.assert_array_equal(part.images[:, 0, 0, 0], part.labels)
    assert sorted([*training.labels, *test.labels]) == [*range(n)]


def test_one_seed_gives_one_split_and_the_same_batches() -> None:
    def run(seed: int) -> list[int]:
        rng = np.random.default_rng(seed)
        training, _ = shuffled_split(*numbered(50), rng=rng)
        batches = image_batches(*training, batch=8, rng=rng)
        return [int(i) for _ in range(3) for i in next(batches)[1]]

    assert run(0) == run(0) != run(1)


def test_batches_hold_no_image_twice_and_go_on_from_the_generators_state() -> None:
    rng = np.random.default_rng(0)
    batches = image_batches(*numbered(10), batch=10, rng=rng)
    images, labels = next(batches)
    np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
    assert sorted(labels) == [*range(10)]
    state = rng.bit_generator.state
    _, second = next(batches)
    rng.bit_generator.state = state
    np.testing.assert_array_equal(next(image_batches(*numbered(10), batch=10, rng=rng))[1], second)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, r: shuffled_split(d.images, d.labels[:3], rng=r), "expected a label for each"),
        (lambda d, r: shuffled_split(*d, fraction=1.0, rng=r), "fraction is 1.0, expected 0 <"),
        (lambda d, r: shuffled_split(*d, fraction=math.nan, rng=r), "fraction is nan"),
        (lambda d, r: shuffled_split(*d, fraction=0.01, rng=r), "5 images are too few"),
        (lambda d, r: image_batches(*d, batch=0, rng=r), r"image_batches: batch is 0"),
        (lambda d, r: image_batches(*d, batch=6, rng=r), "batch is 6, expected at most 5"),
        (lambda d, r: image_batches(d.images, d.labels[:, None], batch=2, rng=r), "a label"),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(numbered(5), np.random.default_rng(0))


# ---- the digits --------------------------------------------------------------------------------


def test_without_scikit_learn_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(RuntimeError, match=r"load_digits needs sklearn.*pip install scikit-learn"):
        load_digits()


def test_the_digits_are_scikit_learns() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits, theirs = load_digits(), datasets.load_digits()
    assert digits.images.shape == (1797, 1, 8, 8)
    assert (digits.images.dtype, digits.labels.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(digits.images.reshape(1797, 64) * 16.0, theirs.data)
    np.testing.assert_array_equal(digits.labels, theirs.target)


def test_a_conv_net_learns_the_digits() -> None:
    pytest.importorskip("sklearn.datasets")
    rng = np.random.default_rng(0)
    training, test = shuffled_split(*load_digits(), rng=rng)
    model = ConvNet(image=(1, 8, 8), channels=(16, 32), classes=10, rng=rng)

    def loss(model: Any, images: Any, labels: Any) -> mm.Tensor:
        return F.cross_entropy(model(mm.tensor(images)), labels)

    batches = image_batches(*training, batch=64, rng=rng)
    for _ in train(model, batches, loss, mm.optim.Adam(model.parameters(), 3e-3), steps=150):
        pass
    guesses = model.eval()(mm.tensor(test.images)).data.argmax(axis=1)
    assert (guesses == test.labels).mean() > 0.9


def test_shares_are_taken_as_they_are_written() -> None:
    ids = np.arange(100)
    images, labels = np.zeros((100, 1, 2, 2)), np.zeros(100, int)
    for share in (Decimal("0.07"), Fraction(7, 100), np.float32(0.07), 0.07):
        assert len(split(ids, share)[1]) == 7
        assert len(shuffled_split(images, labels, fraction=share, rng=0)[1].labels) == 7

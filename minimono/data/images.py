"""Images with labels: scikit-learn's digits, idx files (MNIST), a split, batches.

Shapes: images (N, C, Y, X), float32 from 0 to 1; labels (N,), int64.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minimono import files
from minimono.backend import Array
from minimono.checks import Rng, generator, share, whole_number
from minimono.lazy import required

LARGEST = 2**30  # bytes of an idx file, zipped or not; MNIST has 47 million


class Images(NamedTuple):
    """Images (N, C, Y, X), float32 from 0 to 1, and their labels (N,), int64."""

    images: Array
    labels: Array


def load_digits() -> Images:
    """Load the 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn, in order.

    Its 17 grey levels 0..16 become 0..1. The data set: Alpaydin & Kaynak 1998, UCI repository,
    the test part. Raises RuntimeError where scikit-learn is not installed.
    """
    datasets = required("sklearn.datasets", by="load_digits", install="scikit-learn")
    digits = datasets.load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]  # (N, 8, 8) -> (N, 1, 8, 8)
    return Images(images, digits.target.astype(np.int64))


def load_idx(folder: str | os.PathLike[str]) -> tuple[Images, Images]:
    """Load MNIST, Fashion-MNIST and their like from a local folder: (training, test).

    The folder holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`
    and `t10k-labels-idx1-ubyte`, each plain or with `.gz` (plain wins). Grey levels 0..255 become
    0..1, and an axis for the channel is put in: (N, 1, Y, X).

    Raises FileNotFoundError for a folder or file that is missing, ValueError for one that is not
    what it should be: not idx, of another kind, truncated, too long, without images, or images and
    labels of different number. No more is read or unpacked than a file's own sizes ask for, and
    those may ask for 2^30 bytes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"load_idx: {folder} is not a folder")
    return _part(folder, "train"), _part(folder, "t10k")


def shuffled_split(
    images: Array, labels: Array, *, fraction: float = 0.2, rng: Rng
) -> tuple[Images, Images]:
    """Split off a random `fraction` of the images, for a test: (training, test)."""
    _check_pairs("shuffled_split", images, labels)
    fraction = float(share(fraction, "shuffled_split: fraction", above=0, below=1))
    n = len(images) - round(len(images) * fraction)
    if n in (0, len(images)):
        raise ValueError(
            f"shuffled_split: {len(images)} images are too few to take {fraction} of them off"
        )
    order = generator(rng, "shuffled_split: rng").permutation(len(images))
    training, test = order[:n], order[n:]
    return Images(images[training], labels[training]), Images(images[test], labels[test])


def image_batches(
    images: Array, labels: Array, *, batch: int, rng: Rng
) -> Iterator[tuple[Array, Array]]:
    """Yield endless batches of random images, (B, C, Y, X) and (B,), none twice in one batch.

    A batch draws from `rng` when it is asked for, and not before: the generator's state between
    two batches makes the next one.
    """
    _check_pairs("image_batches", images, labels)
    source = generator(rng, "image_batches: rng")
    whole_number(batch, "image_batches: batch", least=1, most=len(images), of="the images")

    def draw() -> Iterator[tuple[Array, Array]]:
        while True:
            chosen = source.choice(len(images), size=batch, replace=False)
            yield images[chosen], labels[chosen]

    return draw()


# ---- idx files ---------------------------------------------------------------------------------


def _part(folder: Path, part: str) -> Images:
    image_file = _find(folder, f"{part}-images-idx3-ubyte")
    label_file = _find(folder, f"{part}-labels-idx1-ubyte")
    images, labels = _read_idx(image_file, axes=3), _read_idx(label_file, axes=1)
    if len(images) != len(labels):
        raise files.FileError(
            f"load_idx: {image_file} has {len(images)} images, {label_file.name} has "
            f"{len(labels)} labels, expected as many; do they belong together?"
        )
    scaled = images.astype(np.float32) / np.float32(255.0)
    return Images(scaled[:, None], labels.astype(np.int64))  # (N, Y, X) -> (N, 1, Y, X)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise FileNotFoundError(f"load_idx: {folder} has neither {name} nor {name}.gz")


def _read_idx(path: Path, *, axes: int) -> Array:
    """Read the array of bytes in an idx file.

    The file holds 0, 0, the type (8: unsigned bytes), the number of axes; then each axis's size in
    four bytes, the highest first; then the values (Y. LeCun, "The MNIST database").
    """
    content = files.read(path, f"load_idx: {path}", most=LARGEST)
    zipped = path.suffix == ".gz"
    start = 4 + 4 * axes
    data = _unpacked(content, start, path) if zipped else content[:start]
    if len(data) < 4 or data[:2] != b"\0\0":
        raise files.FileError(
            f"load_idx: {path} starts with 0x{data[:4].hex()}, which no idx file does"
        )
    if data[2] != 8 or data[3] != axes:
        raise files.FileError(
            f"load_idx: {path} has magic number 0x{data[:4].hex()}, expected 0x0000080{axes} "
            f"(unsigned bytes, {axes} axes); is it the right file?"
        )
    if len(data) < start:
        raise files.FileError(f"load_idx: {path} is truncated: it has {len(data)} bytes")
    sizes = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    needed = start + math.prod(sizes)
    if needed == start:
        raise files.FileError(f"load_idx: {path} holds nothing, its sizes are {sizes}")
    if needed > LARGEST:
        raise files.FileError(
            f"load_idx: {path} is truncated or too large: {sizes} needs {needed} bytes, expected "
            f"at most {LARGEST}"
        )
    data = _unpacked(content, needed + 1, path) if zipped else content
    if len(data) < needed:
        raise files.FileError(
            f"load_idx: {path} is truncated: it has {len(data)} bytes, {sizes} needs {needed}"
        )
    if len(data) > needed:
        raise files.FileError(f"load_idx: {path} goes on after the {needed} bytes of {sizes}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(sizes)


def _unpacked(content: bytes, most: int, path: Path) -> bytes:
    """Return the first bytes of a gzip file: no more than `most`, however many there are."""
    gzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        data = gzip.decompress(content, most)
    except zlib.error as error:
        raise files.FileError(
            f"load_idx: {path} is damaged or no gzip file: {error}"
        ) from error
    if len(data) < most and not gzip.eof:
        raise files.FileError(f"load_idx: {path} is damaged or no gzip file: it ends too early")
    if gzip.unused_data:
        raise files.FileError(f"load_idx: {path} is damaged or no gzip file: more follows its end")
    return data


def _check_pairs(name: str, images: Array, labels: Array) -> None:
    if len(images) != len(labels) or labels.ndim != 1:
        raise ValueError(
            f"{name}: images have shape {tuple(images.shape)}, labels {tuple(labels.shape)}, "
            "expected a label for each image"
        )

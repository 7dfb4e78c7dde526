"""Files of weights in the safetensors layout, one or several, each array read by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from minimono import files
from minimono.backend import Array
from minimono.lazy import required
from minimono.nn.models.pretrained import settings
from minimono.nn.models.pretrained.arrays import FLOATS

NAME, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_INDEX = 100_000_000  # bytes
MOST_FILES = 1000

HOW_TO_CONVERT = (
    "which can run any program when it is read, and so is not read here. Convert it where you "
    "trust it, with transformers: AutoModel...from_pretrained(folder).save_pretrained(new_folder)"
)


def missing(folder: Path) -> str:
    """Say what else is there, if model.safetensors is not."""
    pickles = sorted(
        p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern)
    )
    return f": there is {pickles[0]}, a pickle, {HOW_TO_CONVERT}" if pickles else ""


class Safetensors:
    """The arrays of some files: opened once to see what is there, and again for each array."""

    def __init__(self, config: dict[str, Any], opened: dict[str, Callable[[], Any]]):
        """opened: by its name, what opens each file."""
        self.config, self.opened = config, opened
        self.known: dict[str, tuple[str, tuple[int, ...], str]] = {}  # file, shape, kind
        for file, open_again in opened.items():
            with open_again() as weights:
                for name in weights.keys():
                    if name in self.known:
                        raise ValueError(f"{self.known[name][0]} and {file} both have {name}")
                    part = weights.get_slice(name)
                    self.known[name] = file, tuple(part.get_shape()), part.get_dtype()

    def names(self) -> Iterator[str]:
        return iter(self.known)

    def where(self, name: str) -> str:
        return self.known[name][0] if name in self.known else next(iter(self.opened))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.known[name][1]

    def kind(self, name: str) -> str:
        return self.known[name][2]

    def read(self, name: str) -> Array:
        file, _, kind = self.known[name]
        if kind == "BF16":  # teaches NumPy the type
            by = f"load_pretrained, for bfloat16 in {name},"
            required("ml_dtypes", by=by, install="ml_dtypes")
        with self.opened[file]() as weights:
            array: Array = weights.get_tensor(name).astype(FLOATS[kind], copy=False)
        return array

    def rope_factors(self) -> Array | None:
        """Return None: what divides the frequencies stands in config.json."""
        return None


@contextmanager
def safetensors_of(folder: Path) -> Iterator[Safetensors]:
    """Open the file or files of a folder; they stay the very files that were found regular."""
    library = required("safetensors", by="load_pretrained", install="safetensors")
    config = settings.read_config(folder / "config.json")
    names, index = [NAME], None
    if not (folder / NAME).exists() and (folder / INDEX).exists():
        index = _index(folder / INDEX)
        names = sorted(set(index.values()))
    with ExitStack() as stack:
        opened: dict[str, Callable[[], Any]] = {}
        for name in names:
            file = stack.enter_context(files.RegularFile(folder / name, name))
            by_number = Path(f"/dev/fd/{file.fileno()}")  # where the system has such names
            path = by_number if by_number.exists() else folder / name
            opened[name] = _opener(library, path, name)
        weights = Safetensors(config, opened)
        if index is not None:
            for name, place in index.items():
                if name not in weights.known or weights.where(name) != place:
                    raise files.FileError(
                        f"{INDEX} says that {settings.short(name)} is in {place}, which lacks it"
                    )
        yield weights


def _opener(library: Any, path: Path, name: str) -> Callable[[], Any]:
    def open_again() -> Any:
        try:
            return library.safe_open(path, "numpy")
        except Exception as error:  # the library raises kinds of its own
            reason = str(error)[:300]  # it may name an array, however long the name is
            raise files.FileError(f"{name} cannot be read: {reason}") from error

    return open_again


def _index(path: Path) -> dict[str, str]:
    """Return which file has which array, by the index: names of files in this folder."""
    found = files.parse_json(files.read(path, INDEX, most=LARGEST_INDEX), INDEX)
    places = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(places, dict) or not places:
        raise files.FileError(f"{INDEX} has weight_map = {settings.short(places)}, expected arrays")
    for name, file in places.items():
        plain = isinstance(file, str) and len(file) <= 200 and file.endswith(".safetensors")
        if not plain or any(sign in file for sign in "/\\:\0"):
            raise files.FileError(
                f"{INDEX} has {settings.short(name)} in {settings.short(file)}, expected the name "
                "of a file .safetensors beside it"
            )
    if len(set(places.values())) > MOST_FILES:
        raise files.FileError(f"{INDEX} names more than {MOST_FILES} files")
    return places

"""Checkpoints: all that a run needs to go on as if it had never stopped, in one npz file.

    version                    int          of this layout
    step                       int          updates done
    config                     text         JSON: whatever the caller needs to build the model again
    model/NAME                 arrays       parameters, running moments, dropout's generators
    optimiser/NAME             arrays       running means, update counts, learning rate
    rng                        bytes        the generator that draws the batches

`numpy.load` opens it, so anybody can look. A file is written whole under another name and then
renamed: a crash at any moment leaves the old checkpoint or the new one. Nothing in it is executed,
and since nothing in it is compressed, it cannot unpack to more than its own size.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from minimono import atomic, describe, files, lazy
from minimono.backend import Array, to_host
from minimono.nn.module import Module
from minimono.nn.randomness import pack_rng, unpack_rng

__all__ = ["Checkpoint", "CheckpointError", "load", "save"]
__dir__ = lazy.only(__name__, __all__)

VERSION = 1
NUMBERS = "fiub"  # kinds of dtype: float, int, unsigned, bool


class CheckpointError(files.FileError):
    """A checkpoint cannot be written, is damaged, or does not fit. Nothing has been changed."""


class Stateful(Protocol):
    """An optimiser, or several as one."""

    def state_dict(self) -> dict[str, Array]:
        """Return all that changes from step to step."""

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take it back."""


@dataclass(frozen=True)
class Checkpoint:
    """What `load` found: checked for damage, not yet for whether it fits a model."""

    version: int
    config: dict[str, Any]
    step: int
    model: dict[str, Array]
    optimiser: dict[str, Array] | None
    rng: Array | None

    def __repr__(self) -> str:
        settings = describe.plain(vars(self)) | {"config": self.config}
        optimiser = "none" if self.optimiser is None else describe.amount(self.optimiser.values())
        model = describe.amount(self.model.values())
        return f"Checkpoint({describe.named(settings)}; model: {model}; optimiser: {optimiser})"

    def restore(
        self,
        model: Module,
        optimiser: Stateful | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        """Set model, optimiser and generator to the saved state.

        They must have been built as those that were saved. Raises CheckpointError, with everything
        as it was, if a name, shape or dtype does not fit, or if the file lacks what is asked for.
        """
        self._check_dtypes(model)
        undo: list[Callable[[], None]] = []
        try:
            before = model.state_dict()
            undo.append(lambda: model.load_state_dict(before))
            model.load_state_dict(self.model)
            if optimiser is not None:
                running = optimiser.state_dict()
                undo.append(lambda: optimiser.load_state_dict(running))
                optimiser.load_state_dict(_present(self.optimiser, "optimiser"))
            if rng is not None:
                state = pack_rng(rng)
                undo.append(lambda: unpack_rng(state, into=rng))
                unpack_rng(_present(self.rng, "rng"), into=rng)
        except BaseException as error:
            for put_back in undo:
                put_back()
            if not isinstance(error, Exception):  # a Ctrl-C
                raise
            raise CheckpointError(f"restore: {error}") from error

    def _check_dtypes(self, model: Module) -> None:
        for name, p in model.named_parameters():
            if name in self.model and self.model[name].dtype != p.dtype:
                raise CheckpointError(
                    f"restore: {name} was saved as {self.model[name].dtype}, the model has "
                    f"{p.dtype}; to convert on purpose: model.load_state_dict(checkpoint.model)"
                )


def save(
    path: str | os.PathLike[str],
    model: Module,
    *,
    optimiser: Stateful | None = None,
    rng: np.random.Generator | None = None,
    config: Mapping[str, Any] | None = None,
    step: int = 0,
) -> None:
    """Write a checkpoint, or raise CheckpointError and leave an older one as it is.

    `config` is anything that JSON can hold. `rng` is the generator that draws the batches. What
    is at `path` is replaced as a whole; a link there stays a link, and who may read it may still.
    """
    try:
        text = json.dumps(dict(config or {}), allow_nan=False)
        files.parse_json(text.encode(), "its text")  # or `load` would refuse it
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"save: config cannot be written as JSON: {error}") from error
    members: dict[str, Any] = {"version": np.array(VERSION), "step": np.array(step)}
    members |= {f"model/{name}": to_host(array) for name, array in model.state_dict().items()}
    if optimiser is not None:
        state = optimiser.state_dict()
        members |= {f"optimiser/{name}": to_host(array) for name, array in state.items()}
    if rng is not None:
        members["rng"] = pack_rng(rng)
    for name, array in members.items():
        if array.dtype.kind not in NUMBERS:
            raise CheckpointError(f"save: {name} has dtype {array.dtype}, expected numbers")
    _whole_number(members, "step")
    members["config"] = np.array(text)

    try:
        # As `np.savez` does it; but that of NumPy 2.0 forgets to close what it could not write.
        with atomic.replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in members.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
    except OSError as error:
        raise CheckpointError(f"save: {path} cannot be written: {error}") from error


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint and check it whole; whatever is wrong raises CheckpointError."""
    try:
        return _checkpoint(_read_members(path))
    except OSError as error:
        raise CheckpointError(f"load: {path} cannot be read: {error}") from error
    except files.FileError as error:
        raise CheckpointError(f"load: {path}: {error}") from error
    except Exception as error:  # damaged files raise almost anything, at any length
        reason = str(error)[:300]
        raise CheckpointError(f"load: {path} is damaged, or no checkpoint: {reason}") from error


def _read_members(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays by name. Sizes are checked before anything of that size is made."""
    members: dict[str, Array] = {}
    with files.RegularFile(path, "the file") as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > file.size:
            raise CheckpointError("its members claim to be larger than the file")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            shown = describe.short(name)
            if name == entry.filename or name in members:
                raise CheckpointError(f"unexpected member {describe.short(entry.filename)}")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"member {shown} is compressed; minimono compresses nothing")
            members[name] = _array_from(archive.read(entry), shown)  # checks the checksum
    return members


def _array_from(data: bytes, name: str) -> Array:
    """The array in an npy file, if its header agrees with its size."""
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise CheckpointError(f"member {name} has another npy version than 1.0")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.kind not in NUMBERS + "U" or not dtype.itemsize:  # a copy of empty texts is not empty
        raise CheckpointError(f"member {name} has dtype {dtype}, expected numbers or text")
    body = data[file.tell() :]
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size != len(body):
        raise CheckpointError(f"member {name} is {dtype} {shape}, but has {len(body)} bytes")
    array = np.ndarray(shape, dtype, body, order="F" if fortran_order else "C")
    return array.astype(dtype.newbyteorder("="), order="C", copy=True)


def _checkpoint(members: dict[str, Array]) -> Checkpoint:
    version = _whole_number(members, "version")
    if version != VERSION:
        raise CheckpointError(f"its version is {version}, this minimono reads version {VERSION}")
    groups: dict[str, dict[str, Array]] = {"model": {}, "optimiser": {}}
    for member, array in members.items():
        group, _, name = member.partition("/")
        if name and group in groups and array.dtype.kind != "U":
            groups[group][name] = array
        elif member not in ("version", "step", "config", "rng"):
            raise CheckpointError(f"unexpected member {describe.short(member)}")
    rng = members.get("rng")
    if rng is not None and (rng.dtype != np.uint8 or rng.ndim != 1):
        raise CheckpointError(f"rng is {rng.dtype} {rng.shape}, expected bytes")
    text = _present(members.get("config"), "config")
    config = files.parse_json(str(text).encode(), "config") if text.dtype.kind == "U" else text
    if not isinstance(config, dict):
        raise CheckpointError(f"config is {describe.short(config)}, expected names and values")
    return Checkpoint(
        version=version,
        config=config,
        step=_whole_number(members, "step"),
        model=groups["model"],
        optimiser=groups["optimiser"] or None,
        rng=rng,
    )


def _whole_number(members: Mapping[str, Array], name: str) -> int:
    array = _present(members.get(name), name)
    if array.shape != () or array.dtype.kind not in "iu" or array < 0:
        raise CheckpointError(f"{name} is {array!r}, expected 0, 1, 2, ...")
    return int(array)


def _present(found: Any, name: str) -> Any:
    if found is None:
        raise CheckpointError(f"the checkpoint holds no {name}")
    return found

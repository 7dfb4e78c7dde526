"""Something else in the place of a file: nothing hangs, nothing is large, one kind of error."""

import ast
import gzip
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from loaders import LOADERS, Loader, bounded, idx

from minimono import files
from minimono.experiments.run_folder import RECORDS, RunFolder
from minimono.files import FileError, RegularFile, parse_json

PACKAGE = Path(files.__file__).parent
posix = pytest.mark.skipif(sys.platform == "win32", reason="has pipes and devices elsewhere")
MEGABYTE = 2**20


@pytest.fixture(params=LOADERS)
def loader(request: pytest.FixtureRequest, tmp_path: Path) -> Loader:
    """Each of them, in a folder that it reads well."""
    found = LOADERS[request.param]
    found.make(tmp_path)
    found.load(tmp_path)  # also imports what it needs, which would count as its memory
    return found


def refused(loader: Loader, folder: Path, *expected: type[Exception]) -> str:
    """The message of the error, which came soon and took little."""
    with pytest.raises(expected or FileError) as error, bounded(seconds=5, memory=8 * MEGABYTE):
        loader.load(folder)
    message = str(error.value)
    assert loader.file.removesuffix(".gz") in message
    assert len(message) < 1000
    return message


# ---- no regular file ---------------------------------------------------------------------------


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the whole path is too long for a socket
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


OTHERS: dict[str, Callable[[Path], None]] = {
    "a pipe": lambda path: os.mkfifo(path),
    "a socket": a_socket,
    "a folder": lambda path: path.mkdir(),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@posix
@pytest.mark.parametrize("kind", OTHERS)
def test_no_regular_file(loader: Loader, kind: str, tmp_path: Path) -> None:
    (tmp_path / loader.file).unlink()
    OTHERS[kind](tmp_path / loader.file)
    assert f"is {kind}, expected a regular file" in refused(loader, tmp_path)


@posix
def test_standard_input_is_what_it_leads_to(loader: Loader, tmp_path: Path) -> None:
    end, other = os.pipe()
    standard = os.dup(0)
    os.dup2(end, 0)
    try:
        (tmp_path / loader.file).unlink()
        (tmp_path / loader.file).symlink_to("/dev/stdin")
        assert "is a pipe, expected a regular file" in refused(loader, tmp_path)
    finally:
        os.dup2(standard, 0)
        for number in (end, other, standard):
            os.close(number)


@posix
@pytest.mark.parametrize("target", ["nowhere", "."], ids=["dangling", "loop"])
def test_a_link_that_leads_nowhere(loader: Loader, target: str, tmp_path: Path) -> None:
    path = tmp_path / loader.file
    path.unlink()
    path.symlink_to(path if target == "." else tmp_path / target)
    refused(loader, tmp_path, FileNotFoundError, FileError)


@posix
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may read everything")
def test_no_permission(loader: Loader, tmp_path: Path) -> None:
    (tmp_path / loader.file).chmod(0)
    refused(loader, tmp_path, PermissionError, FileError)


@posix
@pytest.mark.parametrize("swapped", [None, *OTHERS])
def test_swapped_once_it_was_looked_at(
    loader: Loader, swapped: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is opened is looked at again, and opening it does not wait."""
    path, look = tmp_path / loader.file, files.check_regular

    def look_and_swap(status: os.stat_result, name: str) -> None:
        look(status, name)
        if os.path.basename(name.split(": ")[-1]) in (loader.file, "the file") and path.exists():
            monkeypatch.setattr(files, "check_regular", look)
            path.unlink()
            if swapped:
                OTHERS[swapped](path)

    monkeypatch.setattr(files, "check_regular", look_and_swap)
    message = refused(loader, tmp_path, FileNotFoundError, FileError)
    if swapped in ("a pipe", "a device"):  # the others cannot be opened
        assert f"is {swapped}, expected a regular file" in message
    assert files.check_regular is look


def test_a_file_that_vanishes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"here")
    with RegularFile(path, "text") as file:
        if sys.platform != "win32":  # it does not let go of an open file
            path.unlink()
        assert file.read() == b"here"
        assert file.read() == b""


def test_a_file_that_grows_or_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"here")
    with RegularFile(path, "text") as file:
        path.write_bytes(b"here and there")
        assert file.read() == b"here"
    with RegularFile(path, "text") as file:
        path.write_bytes(b"he")
        assert file.read() == b"he"


@posix
@pytest.mark.parametrize("kind", OTHERS)
def test_the_records_of_a_run(kind: str, tmp_path: Path) -> None:
    LOADERS["checkpoint"].make(tmp_path)
    OTHERS[kind](tmp_path / RECORDS)
    with pytest.raises(FileError, match=f"{RECORDS} is {kind}"):
        with bounded(seconds=5, memory=MEGABYTE):
            RunFolder(tmp_path, resume=True)


def test_a_state_may_not_claim_records_that_are_not_there(tmp_path: Path) -> None:
    LOADERS["checkpoint"].make(tmp_path)
    (tmp_path / RECORDS).write_bytes(b"[" * MEGABYTE)
    with RunFolder(tmp_path, resume=True) as folder:
        found = replace(folder.load(), config={"run": {"bytes": 2**60, "seconds": 1.0}})
        with bounded(seconds=5, memory=8 * MEGABYTE):
            assert "is damaged after 0 of" in folder.go_on(found, lambda record: True)


# ---- sizes -------------------------------------------------------------------------------------


def test_an_empty_file(loader: Loader, tmp_path: Path) -> None:
    (tmp_path / loader.file).write_bytes(b"")
    refused(loader, tmp_path)


@posix
def test_a_terabyte_of_nothing(loader: Loader, tmp_path: Path) -> None:
    os.truncate(tmp_path / loader.file, 2**40)
    refused(loader, tmp_path)


@pytest.mark.parametrize("zeros", [b"\0", b" ", b"[", b'{"a":'], ids=repr)
def test_megabytes_of_one_thing(loader: Loader, zeros: bytes, tmp_path: Path) -> None:
    (tmp_path / loader.file).write_bytes(zeros * (MEGABYTE // len(zeros)))
    if zeros.strip(b"\0 ") and loader.file == "text.txt":
        loader.load(tmp_path)  # which is a text like any other
    else:
        refused(loader, tmp_path)


ZEROS = bytes(32 * MEGABYTE)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("axis", [None, 2**19, 2**32 - 1], ids=["honest", "huge", "beyond"])
def test_a_gzip_bomb_unpacks_to_what_its_sizes_need(
    name: str, axis: int | None, tmp_path: Path
) -> None:
    loader, shape = LOADERS["images"], (7, 4, 5) if "images" in name else (7,)
    loader.make(tmp_path)
    for old in tmp_path.glob(f"{name}*"):
        old.unlink()
    head = idx(np.zeros(shape, np.uint8))
    if axis is not None:
        head = head[:4] + axis.to_bytes(4, "big") * len(shape)
    bomb = gzip.compress(head + ZEROS, 1)
    assert len(bomb) < MEGABYTE
    (tmp_path / f"{name}.gz").write_bytes(bomb)
    with pytest.raises(FileError, match=rf"{name}\.gz (goes on after|is truncated or too large)"):
        with bounded(seconds=5, memory=8 * MEGABYTE):
            loader.load(tmp_path)


def test_a_name_that_no_file_has(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 10_000), tmp_path / "a\0b", f"{tmp_path}/text/of/a/folder"):
        with pytest.raises((FileError, FileNotFoundError), match=r"^text: .*(be read|not exist)"):
            files.read(path, "text: it", most=10)
    for path in (None, 3, ["x"]):
        with pytest.raises(TypeError):
            files.read(path, "text: it", most=10)  # type: ignore[arg-type]


# ---- JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not JSON"), (b"\xff", "is not JSON"), (b"\xef\xbb\xbf{}", "is not JSON"),
        (b"{'a': 1}", "is not JSON"), (b"1" * 5000, "is not JSON"), (b'"\xed\xa0\x80"', "not JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        (b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64 deep"),
        (b"[" * 10**6, "is not JSON: maximum recursion"),
        (b'{"' + b"a" * 10**6 + b'":1,"' + b"a" * 10**6 + b'":1}', "is there twice"),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_json_that_is_none(text: bytes, message: str) -> None:
    with pytest.raises(FileError, match=f"^load: config .*{message}") as error:
        parse_json(text, "load: config")
    assert len(str(error.value)) < 300


def test_json() -> None:
    deep = b"[" * 64 + b"]" * 64
    assert str(parse_json(deep, "it")).encode() == deep
    assert parse_json('{"a": [1, {"b": "ö"}, null, 1e3]}'.encode(), "it") == {
        "a": [1, {"b": "ö"}, None, 1000.0]
    }
    assert str(parse_json(b"[NaN, -Infinity]", "it")) == "[nan, -inf]"


# ---- nobody else opens files -------------------------------------------------------------------

READS = {
    "open", "read_bytes", "read_text", "fromfile", "loadtxt", "genfromtxt", "memmap", "mmap",
    "open_memmap", "ZipFile", "GzipFile", "safe_open", "load_file", "loads", "Unpickler",
}
LOADS = ("np.load", "json.load", "pickle.load")
# What reads without `files.py`, and why it may.
OWN = {
    ("files.py", "loads"): "is what the others call",
    ("files.py", "open"): "is what the others call",
    ("nn/checkpoint.py", "ZipFile"): "gets a RegularFile; the other one writes",
    ("nn/checkpoint.py", "open"): "writes, and a member of the archive",
    ("nn/models/pretrained/safetensors.py", "safe_open"): "gets what a RegularFile has opened",
    ("atomic.py", "open"): "writes a new file",
    ("console.py", "open"): "the null device, by its name",
    ("experiments/records.py", "open"): "appends to the records too, and checks what it opened",
    ("kernels/cpu/compiling.py", "read_bytes"): "the machine code that minimono itself keeps",
    ("kernels/cpu/compiling.py", "open"): "writes it",
    ("kernels/cpu/compiling.py", "loads"): "machine code, from the user's own cache",
    ("oracle/accuracy.py", "read_text"): "/proc/cpuinfo, by its name",
    ("oracle/vectors.py", "read_bytes"): "the vectors that come with minimono, to write them",
    ("oracle/vectors.py", "read_text"): "their schema",
    ("oracle/program.py", "loads"): "a line of a program's, of bounded length",
    ("experiments/page.py", "read_text"): "the page that comes with minimono",
}


def calls(source: str) -> Iterator[str]:
    """The functions and methods called in a source that read, or make something of what is read."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            name = function.rpartition(".")[2]
            if function != "read_text" and (name in READS or function in LOADS):  # it is ours
                yield name


def test_whatever_reads_a_file_goes_through_one_room() -> None:
    """A new loader uses `files.py`, and has its line in `loaders.py`."""
    found = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in calls(path.read_text(encoding="utf-8"))
    }
    assert found == set(OWN)


def test_everything_that_goes_through_it_is_listed() -> None:
    """Each file that calls on it is swept above: by the loader that is beside it here."""
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "files.read(" in (source := path.read_text(encoding="utf-8"))
        or "files.RegularFile(" in source
    }
    assert users == {
        "nn/checkpoint.py", "nn/models/pretrained/safetensors.py", "nn/models/pretrained/gguf.py",
        "nn/models/pretrained/settings.py", "data/images.py", "data/text.py", "oracle/vectors.py",
    }

"""Good files with something wrong in them, made by Hypothesis, and what has to come of them.

A target is a loader with a strategy that knows how its file is built: it changes a number in a
header, a value in a tree of JSON, a member of an archive, and only sometimes bytes. What comes of
it is a thing that is whole, or an error of `minimono.files`: soon, in bounded memory.
"""

import gzip
import hashlib
import io
import json
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from loaders import LOADERS, SUITE, Loader, bounded, network

import minimono as mm
from minimono.files import FileError
from minimono.nn.checkpoint import CheckpointError
from minimono.nn.randomness import pack_rng, unpack_rng
from minimono.oracle import program, runner, vectors
from minimono.oracle import suite as suites
from minimono.oracle.case import encode

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
SECONDS, MEMORY = 5.0, 2**24  # that a small file may take
Draw = Callable[[st.SearchStrategy[Any]], Any]


class Good(bytes):
    """A good file, in few words: Hypothesis shows what it changes."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


# ---- bytes -------------------------------------------------------------------------------------


@st.composite
def cut_and_flipped(draw: Draw, data: bytes) -> bytes:
    """One place of it: cut off there, a bit flipped, bytes put in, written over or left out."""
    place = draw(st.integers(0, max(0, len(data) - 1)))
    length = draw(st.sampled_from([1, 2, 4, 8, 50]))
    kind = draw(st.sampled_from(["cut", "flip", "insert", "write", "leave out", "double"]))
    if kind == "cut":
        return data[:place]
    if kind == "flip":
        bit = bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) if data else b""
        return data[:place] + bit + data[place + 1 :]
    new = draw(st.sampled_from([b"\0", b"\xff", b"\x80", b"\x7f"])) * length
    if kind == "insert":
        return data[:place] + new + data[place:]
    if kind == "write":
        return data[:place] + new + data[place + length :]
    if kind == "leave out":
        return data[:place] + data[place + length :]
    return data[: place + length] + data[place:]


def seldom(draw: Draw, change: st.SearchStrategy[bytes], data: bytes) -> bytes:
    return draw(change) if draw(st.integers(0, 5)) == 0 else data


# ---- JSON --------------------------------------------------------------------------------------

VALUES: list[Any] = [
    None, True, False, 0, 1, 2, 3, 7, -1, 0.0, -0.0, 0.5, 1e-320, 1e308, 2**31, 2**32, 2**53, 2**63,
    2**64, -(2**63), 10**9, 10**30, 10**400, "", "0", "x", "ö", "\ud800", "\0", "../../x", "nan",
    "x" * 3000, [], {}, [[]], [0], [-1], [1, 2, 3], ["x"], [None] * 100, {"": 0}, {"shape": [2]},
    {"dtype": "float64", "shape": [10**12], "bits": []},
    {"dtype": "O", "shape": [1], "values": [1]},
    {"dtype": "U900000000", "shape": [1], "values": ["x"]}, {"bits": "7ff0000000000000"},
    {"dtype": "integer", "shape": [1], "text": ["9" * 9999]}, "F64", "I8", "BF16", "F8_E4M3",
    "PCG64", "MT19937", "gpt2", "bert", "gelu",
]
# What no Python value becomes.
RAW = [
    "NaN", "-Infinity", "1e999", "01", "'x'", "9" * 5000, "[" * 70 + "]" * 70, "[" * 2000,
    '{"a":' * 70 + "1" + "}" * 70, '{"a": 1, "a": 2}', "1.0e+10000000", '"\\ud800"', "", "\ufeff1",
]
Place = tuple[Any, ...]  # keys and indices


def places(tree: Any, above: Place = ()) -> list[Place]:
    """Everything in a tree, by the way to it."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = [above]
    if isinstance(tree, dict | list):
        for key, value in list(inner):
            found += places(value, (*above, key)) if isinstance(value, dict | list) else [
                (*above, key)
            ]
    return found


def at(tree: Any, place: Place) -> Any:
    for key in place:
        tree = tree[key]
    return tree


@st.composite
def changed(draw: Draw, tree: Any) -> str:
    """A tree's JSON text with one to three things changed."""
    tree, raw = json.loads(json.dumps({"root": tree})), {}
    for _ in range(draw(st.integers(1, 3))):
        everything = places(tree)[1:]
        if not everything:  # the root itself was left out
            break
        place = draw(st.sampled_from(everything))
        parent, key = at(tree, place[:-1]), place[-1]
        kinds = ["value", "value", "raw", "leave out", "other", "number", "double", "unknown"]
        kind = draw(st.sampled_from(kinds))
        if kind == "value":
            parent[key] = deepcopy(draw(st.sampled_from(VALUES)))
        elif kind == "raw":
            mark = f"<raw {len(raw)}>"
            raw[mark] = draw(st.sampled_from(RAW))
            parent[key] = mark
        elif kind == "leave out":
            del parent[key]
        elif kind == "other":  # of the tree's own values
            parent[key] = deepcopy(at(tree, draw(st.sampled_from(everything))))
        elif kind == "number" and type(parent[key]) in (int, float):
            with suppress(OverflowError):
                parent[key] = draw(st.sampled_from([-1, 2, 10, 2**20, 2**40, 0.5])) * parent[key]
        elif kind == "double" and isinstance(parent, list):
            parent.insert(key, parent[key])
        elif isinstance(parent, dict):
            parent[draw(st.sampled_from(["x", "", "dtype", "__class__", "constructor", "pos"]))] = 1
    text = json.dumps(tree.get("root"))
    for mark, instead in raw.items():
        text = text.replace(json.dumps(mark), instead)
    return text


# ---- checkpoints -------------------------------------------------------------------------------

DESCRIPTIONS = [
    "<f8", ">f8", "<f4", "<f2", "<i8", "<u1", "|b1", "|O", "<U0", "<U1", "<U4000000000", "|S3",
    "|V8", "|V0", "<M8[s]", "<c16", "f8,f8", "(2,)f8", "x" * 300, "", [("a", "<f8")], None, 3,
]
SHAPES = [
    (), (0,), (1,), (3,), (-1,), (4, 3), (3, 4), (2**62,), (2**32, 2**32), (0, 2**62), (2**70,),
    (10**8,), (True,), (1.5,), ("3",), [3], None, (1,) * 40, (-1, -12), (0, -1),
]
NAMES = [
    "../x.npy", "/tmp/x.npy", "x", "model/.npy", "model/0.weight.npy", "step.npy", ".npy",
    "rng.npy", "optimiser/x.npy", "model/" + "x" * 3000 + ".npy", "con.npy", "ö.npy", "a\\b.npy",
]


def npy(description: Any, fortran: Any, shape: Any, body: bytes) -> bytes:
    header = {"descr": description, "fortran_order": fortran, "shape": shape}
    text = f"{header!r}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


@cache
def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {entry: archive.read(entry) for entry in archive.namelist()}


def array(member: bytes) -> Any:
    """What a member holds; nothing, once it was changed to hold nothing that can be read."""
    try:
        return np.lib.format.read_array(io.BytesIO(member), max_header_size=2000)
    except Exception:
        return np.zeros(0)


@st.composite
def checkpoints(draw: Draw, good: bytes) -> bytes:
    held = dict(members(good))
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(held)))
        kind = draw(st.sampled_from(["header", "header", "body", "JSON", "JSON", "name", "none"]))
        old = array(held[name])
        if kind == "header":
            held[name] = npy(
                draw(st.sampled_from([old.dtype.str, *DESCRIPTIONS])),
                draw(st.sampled_from([False, True, 1, None])),
                draw(st.sampled_from([old.shape, *SHAPES])),
                draw(st.sampled_from([old.tobytes(), b"", bytes(96)])),
            )
        elif kind == "body":
            held[name] = draw(cut_and_flipped(held[name]))
        elif kind == "JSON":  # in the settings, or in one of the generators
            name = draw(st.sampled_from([n for n in sorted(held) if "rng" in n] + ["config.npy"]))
            packed = array(held.get(name, b""))
            text = str(packed) if packed.dtype.kind == "U" else packed.tobytes().decode("latin-1")
            with suppress(ValueError):  # it was changed before, and is no JSON now
                text = draw(changed(json.loads(text)))
                raw = text.encode("utf-8", "surrogatepass")
                held[name] = io_array(text if name == "config.npy" else raw)
        elif kind == "name":
            held[draw(st.sampled_from(NAMES))] = held.pop(name)
        else:
            del held[name]
        if not held:
            break
    written = io.BytesIO()
    compression = draw(st.sampled_from([zipfile.ZIP_STORED] * 9 + [zipfile.ZIP_DEFLATED]))
    with warnings.catch_warnings(), zipfile.ZipFile(written, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of two members of one name
        for name, content in held.items():
            archive.writestr(name, content)
        if draw(st.integers(0, 20)) == 0:
            archive.writestr(draw(st.sampled_from(sorted(held) or ["x"])), b"again")
    data = written.getvalue()
    if draw(st.integers(0, 3)) == 0:
        data = draw(patched(data))
    return seldom(draw, cut_and_flipped(data), data)


@st.composite
def patched(draw: Draw, data: bytes) -> bytes:
    """An archive with one field of one of its records changed."""
    records = {b"PK\x01\x02": 46, b"PK\x03\x04": 30, b"PK\x05\x06": 22}
    starts = [
        (found.start(), size) for mark, size in records.items()
        for found in re.finditer(re.escape(mark), data)
    ]
    start, size = draw(st.sampled_from(starts))
    width = draw(st.sampled_from([2, 4]))
    place = start + draw(st.integers(2, size // 2 - width // 2)) * 2
    value = draw(st.sampled_from([0, 1, 8, 64, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
    return data[:place] + (value % 256**width).to_bytes(width, "little") + data[place + width :]


def io_array(content: str | bytes) -> bytes:
    """A text, or bytes, as a file of NumPy's."""
    file = io.BytesIO()
    value = np.array(content) if isinstance(content, str) else np.frombuffer(content, np.uint8)
    np.lib.format.write_array(file, value, version=(1, 0))
    return file.getvalue()


@cache
def waiting() -> Any:
    """What checkpoints are restored to, and its state as arrays."""
    model, optimiser, rng = network(1)
    return model, optimiser, rng, (model.state_dict(), optimiser.state_dict(), pack_rng(rng))


def restores(found: mm.checkpoint.Checkpoint) -> None:
    """It fits and goes on, or everything is as it was."""
    model, optimiser, rng, before = waiting()
    try:
        found.restore(model, optimiser, rng)
    except CheckpointError as error:
        too_long = len(str(error)) >= 2000
        assert not too_long
        now = model.state_dict(), optimiser.state_dict(), pack_rng(rng)
        np.testing.assert_equal(now, before)
        return
    rng.random(700)
    with np.errstate(all="ignore"):
        out = model.eval()(mm.tensor(np.ones((2, 3))))
    assert out.shape == (2, 2)
    model.load_state_dict(before[0])
    optimiser.load_state_dict(before[1])
    unpack_rng(before[2], into=rng)


# ---- other files -------------------------------------------------------------------------------


@st.composite
def weights(draw: Draw, good: bytes) -> bytes:
    size = struct.unpack("<Q", good[:8])[0]
    header, data = good[8 : 8 + size], good[8 + size :]
    kind = draw(st.sampled_from(["JSON", "JSON", "JSON", "length", "numbers", "bytes"]))
    if kind == "JSON":
        header = draw(changed(json.loads(header))).encode("utf-8", "surrogatepass")
    elif kind == "numbers":
        place = 4 * draw(st.integers(0, len(data) // 4 - 1))
        number = draw(st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 1e-45, 0.0]))
        data = data[:place] + np.float32(number).tobytes() + data[place + 4 :]
    length = len(header)
    if kind == "length":
        lengths = [0, 1, length - 1, length + 1, 10**8, 2**40, 2**63, 2**64 - 1]
        length = draw(st.sampled_from(lengths))
    whole = struct.pack("<Q", length) + header + data
    return draw(cut_and_flipped(whole)) if kind == "bytes" else whole


@st.composite
def idx_files(draw: Draw, good: bytes) -> bytes:
    """An idx file, plain, or zipped if the good one is."""
    zipped = good[:2] == b"\x1f\x8b"
    plain = gzip.decompress(good) if zipped else good
    kind = draw(st.sampled_from(["size", "size", "axes", "data", "longer", "whole"]))
    if kind == "size":
        place = 4 + 4 * draw(st.integers(0, plain[3] - 1))
        size = draw(st.sampled_from([0, 1, 2, 5, 7, 2**16, 2**24, 2**31, 2**32 - 1]))
        plain = plain[:place] + size.to_bytes(4, "big") + plain[place + 4 :]
    elif kind == "axes":
        kind_and_axes = draw(st.sampled_from([(8, 1), (8, 3), (13, 3), (8, 255)]))
        plain = plain[:2] + bytes(kind_and_axes) + plain[4:]
    elif kind == "data":
        plain = draw(cut_and_flipped(plain))
    elif kind == "longer":
        plain += bytes(draw(st.sampled_from([1, 1000, 2**20, 2**23])))
    data = gzip.compress(plain, 1) if zipped else plain
    return draw(cut_and_flipped(data)) if kind == "whole" else data


@st.composite
def texts(draw: Draw, good: bytes) -> bytes:
    part = st.sampled_from([
        good, b"\xef\xbb\xbf", b"\xff\xfea\0", b"\0", b"\r\n\r", b" \t\n", "ö\u2028𝔸".encode(),
        b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"a" * 3000, b"\x1b[2J", b"",
    ])
    return b"".join(draw(st.lists(part, max_size=4)))


def json_files(good: bytes) -> st.SearchStrategy[bytes]:
    text = changed(json.loads(good)).map(lambda text: text.encode("utf-8", "surrogatepass"))
    return st.one_of(text, text, text, cut_and_flipped(good))


# ---- targets -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A loader, how its file is changed, and whether what it then loads is whole."""

    loader: Loader
    changed: Callable[[bytes], st.SearchStrategy[bytes]]
    whole: Callable[[Any], object]
    signed: bool = False  # after the change, as its author would

    def write(self, folder: Path, data: bytes) -> None:
        (folder / self.loader.file).write_bytes(data)
        if self.signed:
            lines = [
                f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
                for name in (f"{SUITE}.json", f"{SUITE}.catches.json")
            ]
            (folder / vectors.MANIFEST).write_text("".join(lines))


def short_vectors(folder: Path) -> None:
    """Three cases of a suite, and what they catch."""
    LOADERS["cases"].make(folder)
    document = json.loads((folder / f"{SUITE}.json").read_bytes())
    document["groups"] = document["groups"][:3]
    for group in document["groups"]:
        del group["cases"][1:]
    kept = {group["cases"][0]["id"] for group in document["groups"]}
    catches = json.loads((folder / f"{SUITE}.catches.json").read_bytes())
    catches["catches"] = {k: v for k, v in catches["catches"].items() if k in kept}
    (folder / f"{SUITE}.catches.json").write_text(json.dumps(catches))
    (folder / f"{SUITE}.json").write_text(json.dumps(document))
    TARGETS["cases"].write(folder, (folder / f"{SUITE}.json").read_bytes())


def whole_model(model: Any) -> None:
    """It computes, whatever it computes."""
    with np.errstate(all="ignore"):
        assert model(np.zeros((1, 1), dtype=int)).shape == (1, 1, len(model.token.weight.data))
    assert all(np.isfinite(p.data).all() for p in model.parameters())


def whole_images(parts: Any) -> None:
    for images, labels in parts:
        assert images.ndim == 4
        assert images.min() >= 0.0
        assert images.max() <= 1.0
        assert labels.shape == images.shape[:1]


def whole_cases(cases: Any) -> None:
    for case in cases:
        json.dumps(mm.oracle.case.to_json(case))
        case.fits("float32")


def whole_catches(found: dict[str, list[str]]) -> None:
    assert all(isinstance(name, str) for names in found.values() for name in names)


def whole_text(text: str) -> None:
    assert text.strip()
    assert not {"\0", "\r"} & {*text}


# What a program replies is no file: it has the error of its case.
CASE = next(case for case in vectors.load("moments") if case.call == "merge")


def reply_file(folder: Path) -> None:
    result = [encode(np.asarray(output.value)) for output in CASE.expected.values()]
    (folder / "reply").write_text(json.dumps({"id": CASE.id, "result": result}))


def read_reply(folder: Path) -> Any:
    reply = program.parse((folder / "reply").read_bytes(), CASE.id)
    return program.read_result(reply.get("result"), CASE, "float64")


def judged(result: Any) -> None:
    runner.judge(CASE, suites.get(CASE.suite).call(CASE.call), result)


REPLY = Loader("reply", reply_file, read_reply, (program.NoReply, ValueError))

TARGETS = {
    "checkpoint": Target(LOADERS["checkpoint"], checkpoints, restores),
    "settings": Target(LOADERS["settings"], json_files, whole_model),
    "weights": Target(LOADERS["weights"], weights, whole_model),
    "index": Target(LOADERS["index"], json_files, whole_model),
    "gguf": Target(LOADERS["gguf"], cut_and_flipped, whole_model),
    "images": Target(LOADERS["images"], idx_files, whole_images),
    "zipped labels": Target(LOADERS["zipped labels"], idx_files, whole_images),
    "text": Target(LOADERS["text"], texts, whole_text),
    "cases": Target(LOADERS["cases"], json_files, whole_cases, signed=True),
    "catches": Target(LOADERS["catches"], json_files, whole_catches, signed=True),
    "manifest": Target(LOADERS["manifest"], cut_and_flipped, whole_cases),
    "reply": Target(REPLY, json_files, judged),
}


def prepare(name: str, folder: Path) -> Good:
    """Fill a folder with what a target reads; its good file."""
    target = TARGETS[name]
    make = short_vectors if "vector" in target.loader.make.__name__ else target.loader.make
    make(folder)
    good = Good((folder / target.loader.file).read_bytes())
    target.whole(target.loader.load(folder))  # also imports what it needs
    return good


def judge(name: str, folder: Path, data: bytes) -> str:
    """What became of a file: it was "loaded" or "refused"; all else raises."""
    target = TARGETS[name]
    target.write(folder, data)
    with bounded(seconds=SECONDS, memory=MEMORY + 8 * len(data)):
        try:
            found = target.loader.load(folder)
        except target.loader.errors as error:
            message = str(error)
            assert len(message) < 2000
            assert folder.name in message or target.loader.errors is not FileError
            return "refused"
        target.whole(found)
    return "loaded"

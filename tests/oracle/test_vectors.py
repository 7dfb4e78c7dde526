"""The files of vectors: made anew byte for byte, by their schema, and refused when edited."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from minimono import oracle
from minimono.oracle import suite as suites
from minimono.oracle import vectors
from minimono.oracle.case import decode, encode, to_json

ROOT = Path(__file__).resolve().parents[2]
SUITES = list(suites.SUITES)


@pytest.mark.parametrize("name", SUITES)
def test_made_anew_the_files_are_the_same(name: str) -> None:
    """If this fails: `make vectors`, look at what `git diff` shows, and only then commit it."""
    suite = suites.get(name)
    kept = (vectors.FOLDER / f"{name}.json").read_bytes()
    same = vectors.document(suite, suite.cases()).encode() == kept
    assert same, f"minimono/oracle/vectors/{name}.json is not what the suite makes: make vectors"


@pytest.mark.parametrize("name", SUITES)
def test_files_are_as_the_schema_says(name: str) -> None:
    schema = json.loads((vectors.FOLDER / vectors.SCHEMA).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    document = json.loads((vectors.FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)
    assert document["suite"] == name
    assert [call["name"] for call in document["calls"]] == list(suites.SUITES[name])


@pytest.mark.parametrize("name", SUITES)
def test_cases_fit_their_calls(name: str) -> None:
    suite, cases = suites.get(name), oracle.load(name)
    assert {case.call for case in cases} == set(suites.SUITES[name])
    assert len({case.id for case in cases}) == len(cases)
    for case in cases:
        call = suite.call(case.call)
        assert [a for a in call.arguments if a != "*"] == list(case.arguments), case.id
        assert list(call.outputs) == list(case.expected), case.id
        assert case.superseded is None or case.superseded in {c.id for c in cases}, case.id
    assert (vectors.FOLDER / f"{name}.json").stat().st_size < 400_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d["groups"][0]["cases"][0].pop("notes"),
        lambda d: d["groups"][0]["cases"][0].update(note="more"),
        lambda d: d["groups"][0]["cases"][0].update(id="scale/1"),
        lambda d: d["groups"][0]["cases"][0]["arguments"]["z"].update(dtype="float32"),
        lambda d: d["groups"][0]["cases"][0]["arguments"]["z"]["bits"].append("3ff"),
        lambda d: d["groups"][0]["cases"][0]["expected"]["phi"].pop("value"),
        lambda d: d["groups"][0]["cases"][0]["expected"]["phi"]["linear"].append(-1.0),
        lambda d: d["groups"][0].pop("conventions"),
        lambda d: d.update(version=2),
    ],
    ids=["no notes", "unknown key", "id", "dtype", "bits", "no value", "linear", "no conventions",
         "version"],
)
def test_the_schema_finds_damage(damage: Any) -> None:
    schema = json.loads((vectors.FOLDER / vectors.SCHEMA).read_text(encoding="utf-8"))
    document = json.loads((vectors.FOLDER / "scale.json").read_text(encoding="utf-8"))
    damage(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(document)


def test_the_manifest_names_every_file() -> None:
    lines = (vectors.FOLDER / vectors.MANIFEST).read_text(encoding="utf-8").splitlines()
    files = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in vectors.FOLDER.iterdir()}
    files.pop(vectors.MANIFEST)
    assert sorted(lines) == sorted(f"{digest}  {name}" for name, digest in files.items())


def test_bits_and_text_are_the_same_numbers() -> None:
    def compare(entry: Any) -> int:
        if isinstance(entry, list):
            return sum(map(compare, entry))
        if not isinstance(entry, dict):
            return 0
        if "bits" not in entry:
            return sum(map(compare, entry.values()))
        bits = entry["bits"] if isinstance(entry["bits"], list) else [entry["bits"]]
        text = entry["text"] if isinstance(entry["text"], list) else [entry["text"]]
        values = np.array([int(b, 16) for b in bits], dtype=np.uint64).view(np.float64)
        np.testing.assert_array_equal(values, [float(t) for t in text])
        return len(bits)

    document = json.loads((vectors.FOLDER / "scale.json").read_text(encoding="utf-8"))
    assert compare(document["groups"]) > 1000


def test_there_and_back() -> None:
    for case in suites.get("scale").cases():
        entry = json.loads(json.dumps(to_json(case)))
        again = vectors.from_json(entry, {})
        assert to_json(again) == to_json(case)


@pytest.mark.parametrize(
    "value",
    [
        np.array([0.1, -0.0, np.nan, np.inf, 5e-324]), np.zeros((2, 0, 3)), np.array(1.5),
        np.array([True, False]), np.array([2**62, -1]), np.array([10**40, 3], dtype=object),
        np.array(10**40, dtype=object), np.array([], dtype=object), 0.1, 3, 2**70, "paper", None,
        True, [np.array([1.0]), np.array([2.0])], [1, 2],
    ],
    ids=repr,
)
def test_encode_and_decode(value: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value), allow_nan=False)))
    assert type(back) is type(value)
    for got, want in zip(back, value, strict=True) if type(value) is list else [(back, value)]:
        if isinstance(want, np.ndarray):
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            assert repr(got.tolist()) == repr(want.tolist())
        else:
            assert repr(got) == repr(want)


def test_dump_and_load(tmp_path: Path) -> None:
    files = oracle.dump(tmp_path / "vectors")
    assert {f.name for f in files} == {f.name for f in vectors.FOLDER.iterdir()}
    assert oracle.dump(tmp_path / "vectors") == files  # again: they are there already
    here, there = oracle.load("scale"), oracle.load("scale", tmp_path / "vectors")
    assert [to_json(c) for c in there] == [to_json(c) for c in here]


def test_dump_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "scale.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"scale\.json is there and differs; choose another"):
        oracle.dump(tmp_path)
    assert (tmp_path / "scale.json").read_text() == "mine"


PLACES: dict[str, Callable[[Path], object]] = {
    "dangling link": lambda place: place.symlink_to(place.parent.parent / "elsewhere"),
    "link to itself": lambda place: place.symlink_to(place),
    "folder": Path.mkdir,
    "other file": lambda place: place.write_text("mine"),
    "as long": lambda place: place.write_bytes((vectors.FOLDER / place.name).read_bytes()[::-1]),
    "pipe": os.mkfifo,
}


@pytest.mark.parametrize("put", PLACES.values(), ids=PLACES)
def test_dump_writes_nothing_where_one_place_is_taken(
    tmp_path: Path, put: Callable[[Path], object]
) -> None:
    folder = tmp_path / "vectors"
    folder.mkdir()
    put(folder / "scale.json")
    with pytest.raises(FileExistsError, match=r"oracle dump: .*scale\.json is there and "):
        oracle.dump(folder)
    assert [f.name for f in folder.iterdir()] == ["scale.json"]
    assert [f.name for f in tmp_path.iterdir()] == ["vectors"]


@pytest.mark.parametrize("place", ["dangling link", "other file", "pipe"])
def test_dump_where_the_folder_should_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "here").mkdir()
    PLACES[place](tmp_path / "here/vectors")
    with pytest.raises(FileExistsError, match="vectors is there and is no folder; choose another"):
        oracle.dump(tmp_path / "here/vectors")
    assert [f.name for f in tmp_path.rglob("*")] == ["here", "vectors"]


def test_dump_through_a_link_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert len(oracle.dump(tmp_path / "link")) == len(list((tmp_path / "real").iterdir()))


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_dump_that_fails_leaves_whole_files_and_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    work, calls = getattr(os, fails), []

    def full(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        work(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, fails, full)
        with pytest.raises(OSError, match=r"oracle dump: .* cannot be written: .*No space"):
            oracle.dump(tmp_path)
    written = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    assert len(written) == 2
    assert vectors.MANIFEST not in written
    assert all((vectors.FOLDER / n).read_bytes() == content for n, content in written.items())
    with pytest.raises(ValueError, match="is not a folder of vectors"):
        oracle.load("scale", tmp_path)
    oracle.dump(tmp_path)  # goes on
    assert oracle.load("scale", tmp_path)


def test_dump_into_what_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"oracle dump: .* cannot be written: .*Not a directory"):
        oracle.dump(tmp_path / "file/vectors")


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write anywhere")
def test_dump_into_a_folder_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=r"oracle dump: .* cannot be written: .*Permission"):
        oracle.dump(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes().replace(b'"paper"', b'"PAPER"', 1)),
         r"scale\.json is not the file that MANIFEST\.sha256 names: it was edited or damaged"),
        (lambda f: f.write_bytes(f.read_bytes()[:-2]), "edited or damaged"),
        (lambda f: f.write_bytes(f.read_bytes().replace(b"\n", b"\r\n")), "edited or damaged"),
        (lambda f: f.unlink(), r"is not a folder of vectors .*scale\.json"),
        (lambda f: (f.parent / "MANIFEST.sha256").unlink(), "is not a folder of vectors"),
        (lambda f: (f.parent / "MANIFEST.sha256").write_text(""), "edited or damaged"),
    ],
    ids=["edited", "cut off", "line ends", "missing", "no manifest", "empty manifest"],
)
def test_an_edited_folder_is_refused(tmp_path: Path, edit: Any, message: str) -> None:
    oracle.dump(tmp_path)
    edit(tmp_path / "scale.json")
    with pytest.raises(ValueError, match=message):
        oracle.load("scale", tmp_path)
    with pytest.raises(ValueError, match=message):
        oracle.check(len, "scale", folder=tmp_path)


def test_neither_locale_nor_line_ends_of_the_machine_matter(tmp_path: Path) -> None:
    script = (
        "import os\n"
        "os.linesep = '\\r\\n'\n"
        "from minimono.oracle import suite, vectors\n"
        "suite.SUITES = {'scale': suite.SUITES['scale']}\n"
        f"vectors.write({str(tmp_path)!r})\n"
    )
    subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", script], check=True, timeout=60,
        env={**os.environ, "LC_ALL": "C", "PYTHONHASHSEED": "7"},
    )
    for name in ("scale.json", vectors.SCHEMA):
        assert (tmp_path / name).read_bytes() == (vectors.FOLDER / name).read_bytes()
    digest = hashlib.sha256((tmp_path / "scale.json").read_bytes()).hexdigest()
    assert f"{digest}  scale.json\n" in (tmp_path / vectors.MANIFEST).read_text()


def test_reading_them_needs_nothing_that_only_making_them_needs() -> None:
    script = (
        "import sys\n"
        "from minimono import oracle\n"
        "assert all(oracle.load(name) for name in oracle.SUITES)\n"
        "print(*{'mpmath', 'jsonschema', 'hypothesis', 'pytest', 'torch'} & sys.modules.keys())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == ""


def test_git_leaves_their_bytes_alone() -> None:
    attributes = (ROOT / ".gitattributes").read_text(encoding="utf-8").splitlines()
    assert "minimono/oracle/vectors/* -text" in attributes


def test_unknown_suite() -> None:
    with pytest.raises(ValueError, match="no suite is named 'scales'; there are moments, scale"):
        oracle.load("scales")


@pytest.mark.parametrize("suite", suites.SUITES)
def test_the_documentation_counts_cases_and_mistakes_rightly(suite: str) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/oracle.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith(f"| `{suite}` |")]
    mistakes = sum(map(len, suites.get(suite).mistakes.values()))
    ends = f" {len(vectors.load(suite))} | {mistakes} |"
    assert [row.endswith(ends) for row in rows] == [True], (
        f"docs/oracle.md, table of suites: the row of `{suite}` has to end with{ends}"
    )

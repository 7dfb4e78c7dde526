"""The cases as files: JSON that ships with minimono, checked against a manifest when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minimono import atomic, files
from minimono.describe import short
from minimono.oracle import catches
from minimono.oracle import suite as suites
from minimono.oracle.case import Case, from_json, to_json

FOLDER = Path(__file__).parent / "vectors"
MANIFEST = "MANIFEST.sha256"
SCHEMA = "schema.json"
VERSION = 1
LARGEST = 2**24  # bytes of a file of vectors; ours have at most 400,000


def load(suite: str, folder: Path | str | None = None) -> list[Case]:
    """Return the cases of a suite, from the files that come with minimono or from another folder.

    Raises ValueError for a file that is not the one the folder's manifest names, and for one that
    holds no cases of this suite.
    """
    calls = {call.name: call for call in suites.get(suite).calls}
    document = _verified(folder, name := f"{suite}.json")
    try:
        cases = [
            from_json(entry, group["conventions"])
            for group in document["groups"]
            for entry in group["cases"]
        ]
        for case in cases:
            call = calls[case.call]
            if not case.id.startswith(f"{suite}/") or [*case.expected] != [*call.outputs]:
                raise ValueError(f"{short(case.id)} is not a case of {case.call}")
            if [*case.arguments] != [a for a in call.arguments if a != "*"]:
                raise ValueError(f"{short(case.id)} has other arguments than {case.call}")
        if len({case.id for case in cases}) < len(cases):
            raise ValueError("an id is there twice")
    except Exception as error:  # what somebody else wrote and signed raises almost anything
        raise _misunderstood(folder, name, f"no cases of {suite}", error) from error
    return cases


def load_catches(suite: str, folder: Path | str | None = None) -> catches.Catches:
    """Return the names of the mistakes that each case catches, by the case's name.

    Raises ValueError for a file that is not the one the folder's manifest names, and for one that
    does not say it.

    >>> load_catches("scale")["scale/given/1"][-1]
    'averaged over samples'
    """
    calls = {case.id: case.call for case in load(suite, folder)}
    found = _verified(folder, name := f"{suite}.catches.json")
    try:
        mistakes = {call: dict(enumerate(named)) for call, named in found["mistakes"].items()}
        return {
            case: [str(mistakes[calls[case]][number]) for number in numbers]
            for case, numbers in found["catches"].items()
        }
    except Exception as error:
        raise _misunderstood(folder, name, "not what cases catch", error) from error


def dump(folder: Path | str) -> list[Path]:
    """Copy the vectors, the schema and the manifest to a folder; returns the files.

    Each file appears whole, and the manifest last, without which `load` takes nothing from the
    folder. Raises FileExistsError, and writes nothing, if something else is there: a file with
    other contents, a folder, a link to nothing. Raises OSError if it cannot write.
    """
    folder = Path(folder)
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise FileExistsError(f"oracle dump: {folder} is there and is no folder; choose another")
    sources = sorted(FOLDER.iterdir(), key=lambda file: (file.name == MANIFEST, file.name))
    contents = {folder / source.name: source.read_bytes() for source in sources}
    missing = [target for target in contents if not _is_there(target, contents[target])]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for target in missing:
            with atomic.replacing(target) as file:
                file.write(contents[target])
    except OSError as error:
        raise OSError(f"oracle dump: {folder} cannot be written: {error}") from error
    return sorted(contents)


def _is_there(target: Path, contents: bytes) -> bool:
    """Whether a file has these contents already. What else is in its place is not touched."""
    if not (target.exists() or target.is_symlink()):
        return False
    if not target.is_file():
        raise FileExistsError(f"oracle dump: {target} is there and is no file; choose another")
    if target.stat().st_size != len(contents) or target.read_bytes() != contents:
        raise FileExistsError(f"oracle dump: {target} is there and differs; choose another")
    return True


def document(suite: suites.Suite, cases: Iterable[Case]) -> str:
    """Return a suite's file: its cases by group, each on one line, the same bytes each time."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.id.rpartition("/")[0], []).append(case)
    calls = [
        {"name": c.name, "arguments": list(c.arguments), "outputs": list(c.outputs), "text": c.text}
        for c in suite.calls
    ]
    head = {"version": VERSION, "suite": suite.name, "text": suite.text, "calls": calls}
    lines = [_compact(head)[:-1] + ',"groups":[']
    for number, (name, members) in enumerate(groups.items()):
        conventions = {**suite.conventions, **members[0].conventions}
        group = {"name": name, "conventions": conventions}
        lines.append(("," if number else "") + _compact(group)[:-1] + ',"cases":[')
        lines += [_compact(to_json(c)) + ("," if c is not members[-1] else "") for c in members]
        lines.append("]}")
    return "\n".join([*lines, "]}"]) + "\n"


def document_of_catches(suite: suites.Suite, cases: list[Case]) -> str:
    """Return the file beside it: mistakes by function, and the numbers that each case catches."""
    mistakes = {call: list(named) for call, named in suite.mistakes.items()}
    head = {"version": VERSION, "suite": suite.name, "mistakes": mistakes}
    caught = catches.find(suite, cases)
    entries = [
        f"{_compact(c.id)}:{_compact([mistakes[c.call].index(name) for name in caught[c.id]])}"
        for c in cases
        if c.id in caught
    ]
    return _compact(head)[:-1] + ',"catches":{\n' + ",\n".join(entries) + "\n}}\n"


def write(folder: Path | str = FOLDER) -> list[Path]:
    """Make all vectors anew, with their exact truth (needs mpmath), what each case catches, and
    the manifest.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {SCHEMA: (FOLDER / SCHEMA).read_text(encoding="utf-8")}
    for name in suites.SUITES:
        suite = suites.get(name)
        cases = list(suite.cases())
        contents[f"{name}.json"] = document(suite, cases)
        contents[f"{name}.catches.json"] = document_of_catches(suite, cases)
    sums = (f"{_sha256(text.encode())}  {name}\n" for name, text in sorted(contents.items()))
    contents[MANIFEST] = "".join(sums)
    for name, text in contents.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return [folder / name for name in contents]


def _verified(folder: Path | str | None, name: str) -> Any:
    """Return the JSON in a file, if the file is that of the manifest."""
    folder = FOLDER if folder is None else Path(folder)
    try:
        manifest = files.read(folder / MANIFEST, MANIFEST, most=LARGEST)
        contents = files.read(folder / name, name, most=LARGEST)
    except (OSError, files.FileError) as error:
        how = "`make vectors`" if folder == FOLDER else "`minimono oracle dump FOLDER`"
        raise files.FileError(
            f"oracle: {folder} is not a folder of vectors ({error}); {how} writes one"
        ) from error
    if f"{_sha256(contents)}  {name}".encode() not in manifest.splitlines():
        raise files.FileError(
            f"oracle: {folder / name} is not the file that {MANIFEST} names: it was edited or "
            "damaged; write the vectors again with `minimono oracle dump FOLDER`"
        )
    return files.parse_json(contents, f"oracle: {folder / name}")


def _misunderstood(
    folder: Path | str | None, name: str, what: str, error: Exception
) -> files.FileError:
    reason = f"{type(error).__name__}: {str(error)[:200]}"
    return files.FileError(f"oracle: {Path(folder or FOLDER) / name} holds {what} ({reason})")


def _sha256(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

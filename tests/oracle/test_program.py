"""Programs in any language: here in plain Python, with everything a program can do wrong."""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minimono import oracle
from minimono.oracle import process, program
from minimono.oracle.case import Case, Expected

# The scale of the case at hand in `phi`; what is printed is the test's business.
SCALE = """
import json, os, struct, subprocess, sys, time

def floats(entry):
    bits = entry["bits"]
    return [struct.unpack(">d", bytes.fromhex(b))[0] for b in ([bits] if isinstance(bits, str) else bits)]

def nested(values, shape):
    if not shape:
        return values[0]
    size = len(values) // shape[0]
    return [nested(values[i * size:(i + 1) * size], shape[1:]) for i in range(shape[0])]

def say(value):
    print(json.dumps(value) if not isinstance(value, str) else value, flush=True)

for number, line in enumerate(sys.stdin, start=1):
    case = json.loads(line)
    if case["call"] != "monosemantic_scale":
        say({"id": case["id"], "skip": "not written yet"})
        continue
    z, mean, variance, c = (floats(case["arguments"][n]) for n in ("z", "mean", "variance", "compensation"))
    extra = c[0] * sum(variance) / len(variance)
    below = [v + extra for v in variance]
    phi = [(x - mean[i % len(mean)]) ** 2 / b if (b := below[i % len(mean)]) else float("nan")
           for i, x in enumerate(z)]
    shape = case["arguments"]["z"]["shape"]
    text = [repr(p) for p in phi]
    bits = [struct.pack(">d", p).hex() for p in phi]
    single = [struct.pack(">f", p).hex() for p in phi]
    good = {"id": case["id"], "result": [{"shape": shape, "bits": bits}]}
    THIRD = case["id"] == "scale/given/3"
"""  # noqa: E501
GOOD = "    say(good)\n"
Write = Callable[..., list[str]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(rest: str = GOOD, before: str = "") -> list[str]:
        file = tmp_path / "impl.py"
        file.write_text(before + SCALE + rest, encoding="utf-8")
        return [sys.executable, "-I", "-S", str(file)]

    return write


def failures(report: oracle.Report) -> dict[str, str]:
    return {f.case: f.message for f in report.failures}


@pytest.mark.parametrize(
    "reply",
    [
        GOOD,
        '    say({"id": case["id"], "result": [{"shape": shape, "text": text}]})\n',
        '    say({"id": case["id"], "result": [{"shape": shape, "values": phi}]})\n',
        '    say({"id": case["id"], "result": [nested(text, shape)]})\n',
        '    say({"id": case["id"], "result": [nested(phi, shape)]})\n',  # NaN, which Python writes
        '    say({"id": case["id"], "result": [nested([p.hex() for p in phi], shape)]})\n',
        '    say({"id": case["id"], "result": [nested([int(p) if p == p // 1 else str(p).upper()\n'
        '        for p in phi], shape)]})\n',
        '    good["result"][0].update(text=text, dtype="float64"); say(good)\n',
    ],
    ids=["bits", "text", "values", "nested text", "nested", "hexadecimal", "whole", "as sent"],
)
def test_ways_to_reply(write: Write, reply: str) -> None:
    report = oracle.check_program(write(reply), "scale")
    assert failures(report) == {}
    assert len(report.passed) == 14
    assert report.skipped["scale/stream/1"] == "skipped by the program: not written yet"
    assert len(report.skipped) == 18


@pytest.mark.parametrize(
    "reply",
    [
        '    say({"id": case["id"], "result": [{"shape": shape, "bits": single}]})\n',
        '    say({"id": case["id"], "result": [nested([float("%.9g" % struct.unpack(">f",\n'
        '        bytes.fromhex(s))) for s in single], shape)]})\n',
    ],
    ids=["bits", "decimals"],
)
def test_float32(write: Write, reply: str) -> None:
    report = oracle.check_program(write(reply), "scale", dtype="float32")
    assert failures(report) == {}
    assert len(report.passed) == 14
    assert report.notes == []


def test_float32_bits_where_float64_was_sent_are_judged_as_float32(write: Write) -> None:
    reply = '    say({"id": case["id"], "result": [{"shape": shape, "bits": single}]})\n'
    report = oracle.check_program(write(reply), "scale")
    assert failures(report) == {}
    assert "returned float32" in report.notes[0]


def test_a_wrong_program_is_told_what_is_wrong(write: Write) -> None:
    reply = (
        "    phi = [abs(x - mean[i % len(mean)]) / below[i % len(mean)] ** 0.5\n"
        "           if below[i % len(mean)] else float('nan') for i, x in enumerate(z)]\n"
        '    say({"id": case["id"], "result": [nested(phi, shape)]})\n'
    )
    report = oracle.check_program(write(reply), "scale")
    assert len(report.failures) > 10
    named = [f for f in report.failures if f.diagnosis is not None]
    assert len(named) > 10
    assert {f.diagnosis for f in named} == {'"the square is missing (a z-score)" to 15 digits'}


@pytest.mark.parametrize(
    ("third", "message"),
    [
        ("time.sleep(60)", "no reply within 1 s"),
        ("subprocess.run(['sleep', '60'])", "no reply within 1 s"),
        ("sys.exit(3)", "ended without a reply (exit code 3)"),
        ("os.kill(os.getpid(), 11)", "ended without a reply (signal SIGSEGV)"),
        ("os.close(1)", "closed its standard output without a reply"),
        ("say('')", "replied with what is not JSON (Expecting value: line 2 column 1 (char 1))"),
        ("say('phi = 1')", "replied with what is not JSON (Expecting value"),
        ("say('{\"id\": ')", "replied with what is not JSON (Expecting value"),
        ("sys.stdout.buffer.write(b'\\xff\\xfe\\n'); say(good)", "replied with what is not JSON"),
        ("say('[' * 3900)", "replied with "),  # what is not JSON, or is nested too deeply
        ("say([1, 2])", "replied with '[1, 2]', expected an object with \"id\""),
        ("say({'result': []})", "expected an object with \"id\""),
        ("say({'id': 'scale/given/2', 'result': good['result']})",
         "replied to 'scale/given/2' instead"),
        ("say({'id': 7, 'result': []})", "replied to '7' instead"),
        ("say({'id': case['id']})", 'replied without one of "result", "error" and "skip"'),
        ("say({**good, 'error': 'no'})", 'replied without one of "result", "error" and "skip"'),
        ("say('x' * 5000)", "replied with a line of more than 4000 bytes"),
        ("print('x' * 5000, end='', flush=True); time.sleep(60)",
         "replied with a line of more than 4000 bytes"),
        ("sys.stdout.write('x'); sys.stdout.flush(); time.sleep(60)", "no reply within 1 s"),
        ("raise ValueError('shape')", "ended without a reply (exit code 1)\n  "),
        # These are lines as agreed: the program goes on.
        ("say({'id': case['id'], 'error': 'no such mode'})", "replied with an error: no such mode"),
        ("say({'id': case['id'], 'result': 1})",
         "replied with a result that cannot be read: result is a number, expected an array of 1"),
        ("say({'id': case['id'], 'result': []})", "result is a array of 0, expected an array of 1"),
        ("say({'id': case['id'], 'result': [None]})", "phi: a number was expected, not null"),
        ("say({'id': case['id'], 'result': [[[1], [1, 2]]]})",
         "phi: arrays of different lengths beside each other"),
        ("say({'id': case['id'], 'result': [['one']]})", "phi: 'one' is no number"),
        ("say({'id': case['id'], 'result': [10**400]})", "phi: int too large to convert to float"),
        ("say({'id': case['id'], 'result': [{'shape': [2], 'bits': ['3ff']}]})",
         "phi: shape [2] holds 2 numbers, \"bits\" 1"),
        ("say({'id': case['id'], 'result': [{'shape': [1], 'bits': ['3ff']}]})",
         'phi: "bits" are strings of 16 hex digits each (float64), or of 8 (float32)'),
        ("say({'id': case['id'], 'result': [{'shape': [1], 'bits': ['3ff000000000000g']}]})",
         "phi: invalid literal"),
        ("say({'id': case['id'], 'result': [{'shape': [-1], 'bits': []}]})",
         'phi: "shape" is [-1], expected an array of whole numbers'),
        ("say({'id': case['id'], 'result': [{'bits': []}]})", 'phi: "shape" is None, expected an'),
        ("say({'id': case['id'], 'result': [{'shape': [1]}]})",
         'phi: an object without "bits", "text" and "values"'),
        ("say({'id': case['id'], 'result': [[1.0, 2.0]]})", "has shape (2,), expected (3, 4, 2)"),
        ("say({'id': case['id'], 'result': [nested([True] * 24, shape)]})",
         "has dtype bool, expected floats"),
        ("say({'id': case['id'], 'result': [[True, 2.0]]})",
         "phi: true and false are mixed with numbers"),
        ("good['result'][0]['bits'][5] = '7ff8000000000000'; say(good)",
         "1 of 24 values outside tolerance\n  worst at [0, 2, 1]: got nan, want"),
    ],
    ids=lambda value: value.encode("unicode_escape").decode(),
)
def test_a_case_that_goes_wrong_fails_by_name_and_the_run_goes_on(
    write: Write, third: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LONGEST", 4000)
    command = write(f"    if THIRD:\n        {third}\n    else:\n        say(good)\n")
    report = oracle.check_program(command, "scale", timeout=1.0)
    assert list(failures(report)) == ["scale/given/3"]
    assert message in failures(report)["scale/given/3"]
    assert len(report.passed) == 13


def test_the_end_of_standard_error_is_shown(write: Write) -> None:
    command = write(
        "    if THIRD:\n        print('x' * 10**6, *range(9), sep='\\n', file=sys.stderr)\n"
        "        raise RuntimeError('singular')\n" + GOOD
    )
    message = failures(oracle.check_program(command, "scale"))["scale/given/3"]
    assert "stderr: RuntimeError: singular" in message
    assert len(message) < 1000


def test_much_standard_error_does_not_block(write: Write) -> None:
    command = write("    print('x' * 10**6, file=sys.stderr)\n" + GOOD)
    assert failures(oracle.check_program(command, "scale")) == {}


def test_a_program_that_reads_nothing(tmp_path: Path) -> None:
    report = oracle.check_program(
        [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"], "scale", timeout=0.05
    )
    assert set(failures(report).values()) == {"no reply within 0.05 s"}
    assert len(report.failures) == 30


def test_what_the_program_started_ends_with_it(write: Write, tmp_path: Path) -> None:
    file = tmp_path / "child"
    command = write(
        "    if THIRD:\n"
        "        child = subprocess.Popen(['sleep', '60'])\n"
        f"        open({str(file)!r}, 'w').write(str(child.pid))\n"
        "        time.sleep(60)\n" + GOOD
    )
    report = oracle.check_program(command, "scale", timeout=0.5)
    assert failures(report) == {"scale/given/3": "no reply within 0.5 s"}
    deadline = time.monotonic() + 5
    while Path(f"/proc/{file.read_text()}").exists() and time.monotonic() < deadline:
        state = Path(f"/proc/{file.read_text()}/stat").read_text().split()[2]
        if state == "Z":  # ended; whoever inherited it has not noticed
            break
        time.sleep(0.01)
    assert time.monotonic() < deadline


def test_a_program_that_handles_one_case_only(write: Write) -> None:
    report = oracle.check_program(write(GOOD + "    break\n"), "scale")
    assert failures(report)["scale/given/2"] == "ended without a reply (exit code 0)"
    assert "scale/given/3" in report.passed


def test_the_program_ends_by_itself_when_its_input_does(write: Write, tmp_path: Path) -> None:
    done = tmp_path / "done"
    command = write(GOOD + f"open({str(done)!r}, 'w').close()\n")
    oracle.check_program(command, "scale")
    assert done.exists()


def test_a_command_as_one_string(write: Write) -> None:
    assert failures(oracle.check_program(shlex.join(write()), ["scale"])) == {}


def test_no_suite_is_not_every_suite(write: Write) -> None:
    report = oracle.check_program(write(), [])
    assert [report.passed, report.failures, report.skipped] == [[], [], {}]
    assert "nothing was checked" in str(report)


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("./no-such-program", {}, "cannot start ./no-such-program: .*No such file"),
        (os.path.dirname(__file__), {}, "cannot start .*Permission denied"),
        ("", {}, "the command is empty"),
        ("'impl", {}, "No closing quotation"),
        ("true", {"suite": "scales"}, "no suite is named 'scales'"),
        ("true", {"dtype": "float16"}, "dtype is 'float16'"),
        ("true", {"timeout": 0}, "timeout is 0, expected seconds above 0"),
        ("true", {"timeout": float("nan")}, "timeout is nan"),
        ("true", {"folder": "/nowhere"}, "not a folder of vectors"),
    ],
)
def test_bad_input(command: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oracle.check_program(command, **{"suite": "scale", **options})


def test_the_request() -> None:
    case = next(c for c in oracle.load("scale") if c.id == "scale/stream/1")
    line = program.request(case)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert line.startswith(b'{"id":"scale/stream/1","call":"score_batches","arguments":{"batches":')
    content = json.loads(line)
    assert list(content["arguments"]) == ["batches", "convention", "forget_after", "compensation"]
    assert content["arguments"]["convention"] == "paper"
    assert content["arguments"]["batches"][0]["dtype"] == "float64"


WHOLE, FLAGS = Expected(np.array([2**70, 3], dtype=object)), Expected(np.array([True, False]))


@pytest.mark.parametrize(
    ("entry", "expected", "value"),
    [
        ([str(2**70), "3"], WHOLE, [2**70, 3]),
        ([2**70, 3], WHOLE, [2**70, 3]),
        ({"shape": [2], "text": [str(2**70), "+3"]}, WHOLE, [2**70, 3]),
        ([3.0, 2.0], WHOLE, [3.0, 2.0]),  # floats: the judge will say so
        ([True, False], FLAGS, [True, False]),
        ({"shape": [2], "values": [True, False]}, FLAGS, [True, False]),
        (["true", "False"], FLAGS, [True, False]),
        ([1, 0], FLAGS, [1, 0]),
        ({"bits": "3fe0000000000000"}, Expected(np.array(0.5)), 0.5),
        (0.5, Expected(np.array(0.5)), 0.5),
        ("-Infinity", Expected(np.array(0.5)), -np.inf),
        ({"shape": [0, 3], "bits": []}, Expected(np.zeros((0, 3))), []),
        ([], Expected(np.zeros(0)), []),
    ],
    ids=repr,
)
def test_entries(entry: Any, expected: Expected, value: Any) -> None:
    array = program.read_output(entry, expected)
    assert array.tolist() == value
    assert array.dtype.kind == np.array(value, dtype=None if np.size(value) else float).dtype.kind


def test_lists_of_outputs() -> None:
    case = Case("scale/stream/1", "score_batches", {}, {"phi": [Expected(np.zeros(2))] * 2}, "")
    got = program.read_result([[[1, 2], {"shape": [2], "text": ["3", "4"]}]], case, "float64")
    assert [g.tolist() for g in got] == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(ValueError, match="phi: expected an array of 2 entries, one for each call"):
        program.read_result([[[1, 2]]], case, "float64")
    with pytest.raises(ValueError, match="phi: expected an array of 2 entries"):
        program.read_result([{"shape": [2], "bits": []}], case, "float64")


OWN = """
import json, sys
import numpy as np
from minimono.oracle import suite
from minimono.oracle.case import decode, encode

def entry(value):
    if isinstance(value, list | tuple):
        return [entry(v) for v in value]
    array = np.asarray(getattr(value, "data", value) if type(value).__name__ == "Tensor" else value)
    return array.tolist() if sys.argv[1] == "nested" and array.size else encode(array)

for line in sys.stdin:
    case = json.loads(line)
    own = suite.get(suite.suite_of(case["call"]))
    call = own.call(case["call"])
    positional, named = call.bind({n: decode(v) for n, v in case["arguments"].items()})
    with np.errstate(all="ignore"):
        result = own.own[call.name](*positional, **named)
    outputs = [result] if len(call.outputs) == 1 else result
    print(json.dumps({"id": case["id"], "result": [entry(o) for o in outputs]}), flush=True)
"""


@pytest.mark.parametrize("form", ["encoded", "nested"])
def test_every_suite_over_the_wire(tmp_path: Path, form: str) -> None:
    """minimono's own functions, as a program: every kind of argument and output gets through."""
    file = tmp_path / "own.py"
    file.write_text(OWN)
    report = oracle.check_program([sys.executable, str(file), form], timeout=60)
    assert failures(report) == {}
    assert len(report.passed) > 400

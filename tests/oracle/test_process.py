"""Programs that hold on to their pipes, die oddly or flood us: a check ends, and leaves nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimono import oracle
from minimono.oracle import process, program, runner
from minimono.oracle import suite as suites
from minimono.oracle.case import Case
from minimono.oracle.process import Process, words

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")

# Replies rightly to each case, by heart, but for what it does at the third.
PROGRAM = """
import json, os, signal, subprocess, sys, time
answers = json.load(open(sys.argv[1]))
pids = open(sys.argv[1] + ".pids", "a")

def note(pid):
    print(pid, file=pids, flush=True)

def say(text):
    sys.stdout.write(text); sys.stdout.flush()

note(os.getpid())
for line in sys.stdin:
    case = json.loads(line)["id"]
    good = answers[case]
    if case == "scale/given/3":
        {third}
    else:
        say(good)
"""
Check = Callable[..., oracle.Report]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def reply(case: Case) -> str:
        if case.call != "monosemantic_scale":
            return json.dumps({"id": case.id, "skip": "not here"}) + "\n"
        phi = case.expected["phi"]
        assert not isinstance(phi, list)
        text = [repr(float(v)) for v in phi.value.reshape(-1)]
        result = [{"shape": list(phi.value.shape), "text": text}]
        return json.dumps({"id": case.id, "result": result}) + "\n"

    file = tmp_path_factory.mktemp("answers") / "answers.json"
    file.write_text(json.dumps({c.id: reply(c) for c in oracle.load("scale")}))
    return file


@pytest.fixture
def command(answers: Path, tmp_path: Path) -> Callable[[str], list[str]]:
    def command(third: str) -> list[str]:
        (tmp_path / "impl.py").write_text(PROGRAM.replace("{third}", third))
        known = tmp_path / "answers.json"
        known.write_bytes(answers.read_bytes())
        return [sys.executable, "-I", "-S", str(tmp_path / "impl.py"), str(known)]

    return command


@pytest.fixture
def check(command: Callable[[str], list[str]]) -> Iterator[Check]:
    """Check a program; afterwards neither threads nor files are left."""
    threads, files = threading.active_count(), len(os.listdir("/dev/fd"))

    def check(third: str, timeout: float = 5.0) -> oracle.Report:
        return oracle.check_program(command(third), "scale", timeout=timeout)

    yield check
    assert threading.active_count() == threads
    assert len(os.listdir("/dev/fd")) == files


def only_failure(report: oracle.Report) -> str:
    """The message of the third case, the only one that failed."""
    assert [f.case for f in report.failures] == ["scale/given/3"], str(report)
    assert len(report.passed) == 13
    return report.failures[0].message


def ended(pid: int) -> bool:
    """Whether a process ends within five seconds."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{pid}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True  # whoever inherited it has not noticed
        time.sleep(0.01)
    return False


def pids(tmp_path: Path) -> list[int]:
    return [int(line) for line in (tmp_path / "answers.json.pids").read_text().split()]


@pytest.mark.parametrize(
    ("third", "timeout", "message"),
    [
        ("note(subprocess.Popen(['sleep', '60']).pid); os._exit(3)", 1,
         "no reply within 1 s, but has ended (exit code 3) and left a child"),
        ("note(subprocess.Popen(['sleep', '60']).pid); time.sleep(60)", 1,
         "no reply within 1 s"),
        ("subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL); os._exit(3)", 5,
         "ended without a reply (exit code 3)"),
        ("note(subprocess.Popen(['sh', '-c', 'sleep 60 & sleep 60']).pid); os._exit(0)", 1,
         "no reply within 1 s, but has ended (exit code 0) and left a child"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", 1,
         "no reply within 1 s"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", 1, "no reply within 1 s"),
        ("os.kill(os.getpid(), 37)", 5, "ended without a reply (signal 37)"),
        ("os.kill(os.getpid(), 34)", 5, "ended without a reply (signal SIGRTMIN)"),
        ("os.kill(os.getpid(), 9)", 5, "ended without a reply (signal SIGKILL)"),
        ("os.close(0); time.sleep(60)", 1, "no reply within 1 s"),
        ("os.close(0); os.close(1); time.sleep(60)", 5,
         "closed its standard output without a reply"),
        ("\n        while True: say('x' * 10**6)", 5,
         f"replied with a line of more than {2**20} bytes"),
        ("\n        while True: say('x\\n' * 10**5)", 5, "replied with what is not JSON"),
        ("\n        while True: sys.stderr.write('why ' * 1000 + '\\n')", 1,
         "no reply within 1 s\n    stderr: "),
        ("sys.stdout.buffer.write(bytes(range(128, 256)) + b'\\n'); sys.stdout.flush()", 5,
         "replied with what is not JSON ('utf-8' codec can't decode"),
        ("say('[' * 10**5 + ']' * 10**5 + '\\n')", 5, "JSON that is nested too deeply"),
        ("say('{\"id\": \"scale/given/3\", \"result\": ' + '[' * 500 + ']' * 500 + '}\\n')", 5,
         "result that cannot be read: phi: more than 64 arrays in each other"),
        ("say('{\"id\": \"scale/given/3\", \"id\": \"scale/given/3\", \"skip\": \"\"}\\n')", 5,
         "'id' stands in an object twice"),
        ("say('{\"id\": \"scale/given/3\", \"error\": \"\\\\ud800 %s\"}\\n' % ('x' * 10**5))", 5,
         "replied with an error: ? xxx"),
        ("say('{\"id\": \"scale/given/3\", \"error\": %s}\\n' % ('[' * 900 + ']' * 900))", 5,
         "replied with an error: [[[[[[[...]]]]]]]"),
        ("say('{\"id\": %s}\\n' % ('[' * 900 + ']' * 900))", 5,
         "replied to '[[[[[[[...]]]]]]]' instead"),
        ("say('[' * 900 + ']' * 900 + '\\n')", 5, "replied with '[[[[[[[...]]]]]]]'"),
        ("say(good.replace('\"shape\": [3', '\"shape\": [1e999, NaN')); ", 5,
         '"shape" is [inf, nan, 4, 2], expected an array of whole numbers'),
        ("say(good.replace('\"shape\": [3', '\"shape\": [%s' % (10**4000)))", 5,
         "which no reply can hold"),
        ("say(good.replace('\"shape\": [3', '\"shape\": [%s 3' % ('1,' * 10**5)))", 5,
         "which no reply can hold"),
        ("say(good[:40]); os.close(1); time.sleep(60)", 5, "replied with what is not JSON"),
    ],
    ids=lambda value: str(value).strip()[:60].encode("unicode_escape").decode(),
)
def test_the_case_fails_by_name_in_time_and_the_check_goes_on(
    check: Check, tmp_path: Path, third: str, timeout: float, message: str
) -> None:
    began = time.monotonic()
    report = check(third, timeout)
    assert time.monotonic() - began < 30
    assert message in only_failure(report)
    assert len(str(report)) < 4000
    str(report).encode()  # no halves of characters
    assert all(map(ended, pids(tmp_path)))


def test_a_child_that_leaves_the_group_cannot_hold_the_check(
    check: Check, tmp_path: Path
) -> None:
    third = (
        "note(subprocess.Popen(['sleep', '60'], start_new_session=True).pid); time.sleep(60)"
    )
    report = check(third, timeout=1)
    *ours, daemon, _ = pids(tmp_path)
    try:
        assert only_failure(report) == "no reply within 1 s"
        assert all(map(ended, ours))
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_a_child_that_is_left_at_the_end_is_ended(check: Check, tmp_path: Path) -> None:
    report = check("note(subprocess.Popen(['sleep', '60']).pid); say(good)")
    assert report.failures == []
    assert len(pids(tmp_path)) == 2
    assert all(map(ended, pids(tmp_path)))


def test_a_second_reply_is_not_taken_for_the_next_cases(check: Check) -> None:
    report = check("say(good + good)")
    assert {f.case: f.message for f in report.failures} == {
        "scale/given/4": "replied to 'scale/given/3' instead"
    }


def test_a_late_reply_is_not_taken_for_the_next_cases(check: Check) -> None:
    """A child replies when the time is over: into a pipe that nobody reads any more."""
    third = (
        "\n        if os.fork() == 0:"
        "\n            os.setsid(); time.sleep(1.2); say(good); os._exit(0)"
    )
    assert only_failure(check(third, timeout=1)) == "no reply within 1 s"


def test_a_program_that_cannot_be_started_again(
    command: Callable[[str], list[str]], tmp_path: Path
) -> None:
    interpreter = tmp_path / "python"
    interpreter.symlink_to(sys.executable)
    words = command(f"os.unlink({str(interpreter)!r}); os._exit(1)")
    report = oracle.check_program([str(interpreter), *words[1:]], "scale")
    assert len(report.passed) == 2
    messages = [f.message for f in report.failures]
    assert messages[0] == "ended without a reply (exit code 1)"
    assert all("cannot be started again: [Errno 2]" in m for m in messages[1:])


@pytest.mark.parametrize("then", ["; time.sleep(60)", "\n        while 1: sys.stderr.write(case)"])
def test_ctrl_c_leaves_no_process_behind(
    command: Callable[[str], list[str]], tmp_path: Path, then: str
) -> None:
    impl = command(f"note(subprocess.Popen(['sleep', '60']).pid){then}")
    script = f"from minimono import oracle; oracle.check_program({impl!r}, 'scale', timeout=60)"
    running = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, start_new_session=True
    )
    file = tmp_path / "answers.json.pids"
    while running.poll() is None and not (file.exists() and len(file.read_text().split()) == 2):
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, complaint = running.communicate(timeout=10)
    assert b"KeyboardInterrupt" in complaint
    assert len(pids(tmp_path)) == 2
    assert all(map(ended, pids(tmp_path)))


@pytest.mark.parametrize(
    ("command", "windows", "expected"),
    [
        (r"C:\tools\x.exe --flag", True, [r"C:\tools\x.exe", "--flag"]),
        (r'"C:\Program Files\x.exe" --flag="a b"', True, [r"C:\Program Files\x.exe", "--flag=a b"]),
        (r"C:\it's\x.exe #1", True, [r"C:\it's\x.exe", "#1"]),
        (r'x.exe ""', True, ["x.exe", ""]),
        (r"./it\'s 'a b' #1", False, ["./it's", "a b", "#1"]),
        (r'julia "a \"b\"" --x=1;2|3', False, ["julia", 'a "b"', "--x=1;2|3"]),
        ("", True, []),
        (" \t", False, []),
    ],
)
def test_words(command: str, windows: bool, expected: list[str]) -> None:
    assert words(command, windows=windows) == expected


@pytest.mark.parametrize("windows", [True, False])
def test_an_open_quote(windows: bool) -> None:
    with pytest.raises(ValueError, match="No closing quotation"):
        words('"C:\\tools', windows=windows)


def test_a_python_that_cannot_read_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "set_blocking")
    with pytest.raises(RuntimeError, match=r"Python on Windows is 3\.11, expected 3\.12 or"):
        oracle.check_program("true", "scale")


def test_a_long_line_reaches_a_slow_reader() -> None:
    """It does not fit into a pipe, so it goes in pieces; what comes meanwhile is read."""
    script = (
        "import sys\nfor line in sys.stdin:\n"
        "    sys.stderr.write('x' * 10**6)\n    print(len(line), flush=True)"
    )
    asked = Process([sys.executable, "-I", "-S", "-c", script])
    try:
        assert asked.ask(b"y" * 10**6 + b"\n", 10) == b"1000001\n"
        assert asked.ask(b"y\n", 10) == b"2\n"
    finally:
        assert asked.end(5.0) == ["x" * process.TAIL]
    assert asked.popen.returncode == 0


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    | st.sampled_from(["1e999", "0x1p9999", "nan", "3ff0000000000000", "3ff00000", "-1", "1_0"]),
    lambda inner: st.lists(inner, max_size=4) | st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("shape", "bits", "text", "values", "id", "result"), inner)
    ),
    max_leaves=12,
)
CASES = [next(c for c in oracle.load(s) if c.call == f) for s, (f, *_) in (
    ("scale", ("monosemantic_scale",)), ("emergence", ("emergence",)),
    ("selection", ("select_top_k",)), ("deactivation", ("deactivate",)), ("module", ("MEmeL",)),
)]


@settings(max_examples=50, deadline=None)
@given(result=st.lists(anything, max_size=2) | anything, case=st.sampled_from(CASES))
def test_any_result_is_judged_or_refused(result: object, case: Case) -> None:
    line = json.dumps({"id": case.id, "result": result}).encode()
    try:
        read = program.read_result(program.parse(line, case.id)["result"], case, "float64")
    except (ValueError, process.NoReply):
        return
    outcome = runner.judge(case, suites.get(case.suite).call(case.call), read)
    assert outcome.case is case

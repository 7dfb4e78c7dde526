"""`check`: whatever an implementation does, the case fails by name and the run goes on."""

import hashlib
import threading
import types
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minimono import mono, oracle
from minimono.oracle import runner
from minimono.oracle.case import Case, Expected
from minimono.oracle.suites import scale

Array = Any


def my_scale(z: Array, mean: Array, variance: Array, *, compensation: float) -> Array:
    below = np.asarray(variance + compensation * variance.mean())
    return (z - mean) ** 2 / np.where(below > 0, below, np.nan)


def check_with(change: Callable[[Array], Any], **options: Any) -> oracle.Report:
    """The report on an implementation that is right, but for what is done to its result."""
    def changed(z: Array, mean: Array, variance: Array, *, compensation: float) -> Any:
        return change(my_scale(z, mean, variance, compensation=compensation))

    return oracle.check(changed, "scale", on_fail="collect", **options)


def raised(error: BaseException) -> Callable[[Array], Any]:
    def change(phi: Array) -> Any:
        raise error

    return change


def tracer(phi: Array) -> Any:
    return type("DynamicJaxprTracer", (), {"shape": phi.shape, "dtype": phi.dtype})()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (raised(RuntimeError("no such device")), "raised RuntimeError: no such device"),
        (raised(SystemExit(3)), "raised SystemExit: 3"),
        (lambda phi: phi.T[..., None], "has shape (3, 2, 1), expected (2, 3)"),
        (lambda phi: phi.sum(axis=0), "has shape (3,), expected (2, 3)"),
        (lambda phi: 0.5, "has shape (), expected (2, 3)"),
        (lambda phi: None, "returned None, expected an array"),
        (lambda phi: phi.tolist(), "returned a list, expected an array"),
        (lambda phi: (phi,), "returned a tuple, expected an array"),
        (lambda phi: {"phi": phi}, "returned a dict, expected an array"),
        (lambda phi: "phi", "returned a str, expected an array"),
        (lambda phi: (v for v in phi), "returned a generator, expected an array"),
        (lambda phi: my_scale, "returned a function, expected an array"),
        (lambda phi: object(), "returned a object, expected an array"),
        (lambda phi: phi + 0j, "returned an array of dtype complex128, expected real numbers"),
        (lambda phi: phi.astype(str), "returned an array of dtype <U32, expected real numbers"),
        (lambda phi: phi.astype(object), "returned an array of dtype object, expected real"),
        (lambda phi: phi.astype("M8[s]"), "returned an array of dtype datetime64[s], expected"),
        (lambda phi: phi > 1, "has dtype bool, expected floats"),
        (lambda phi: np.nan_to_num(phi).astype(int), "has dtype int64, expected floats"),
        (tracer, "returned a JAX tracer, which has no values: call the function outside jit"),
        (lambda phi: phi + np.inf, "worst at [0, 0]: got inf, want"),
        (lambda phi: phi * np.nan, "worst at [0, 0]: got nan, want"),
    ],
)
def test_bad_results(change: Callable[[Array], Any], message: str) -> None:
    report = check_with(change)
    assert set(report.passed) <= {"scale/given/13"}  # all nan, which stays nan whatever is added
    assert message in report.failures[0].message
    assert report.failures[0].case == "scale/given/1"
    assert len(report.failures) + len(report.passed) == 14


def test_one_case_that_goes_wrong_does_not_stop_the_others() -> None:
    calls: list[int] = []

    def breaks_once(z: Array, mean: Array, variance: Array, *, compensation: float) -> Array:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return my_scale(z, mean, variance, compensation=compensation)

    report = oracle.check(breaks_once, "scale", on_fail="collect")
    assert [f.case for f in report.failures] == ["scale/given/3"]
    assert len(report.passed) == 13


def test_a_call_that_hangs() -> None:
    def hangs_once(z: Array, mean: Array, variance: Array, *, compensation: float) -> Array:
        if z.ndim == 1:  # case 2
            threading.Event().wait()
        return my_scale(z, mean, variance, compensation=compensation)

    threads = threading.active_count()
    report = oracle.check(hangs_once, "scale", on_fail="collect", timeout=0.2)
    assert [(f.case, f.message) for f in report.failures] == [
        ("scale/given/2", "no reply within 0.2 s")
    ]
    assert len(report.passed) == 13
    assert threading.active_count() == threads


def test_calls_are_not_timed_in_another_thread_and_the_report_says_so() -> None:
    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(oracle.check, my_scale, "scale", timeout=1e-9).result()
    assert report.notes == ["calls had no time limit, which needs the main thread, not on Windows"]
    assert len(report.passed) == 14


def test_ctrl_c_ends_the_check() -> None:
    calls: list[int] = []

    def interrupted(phi: Array) -> Array:
        calls.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_with(interrupted)
    assert calls == [1]


def subtract_in_place(z: Array, mean: Array, variance: Array, *, compensation: float) -> Array:
    z -= mean
    return z**2 / my_scale(z, 0 * mean, z**2, compensation=compensation)


def reset_mean(z: Array, mean: Array, variance: Array, *, compensation: float) -> Array:
    phi = my_scale(z, mean, variance, compensation=compensation)
    mean[...] = 7.0
    return phi


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("function", "name"), [(subtract_in_place, "z"), (reset_mean, "mean")])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_changed_arguments(function: Callable[..., Array], name: str, dtype: Any) -> None:
    report = oracle.check(function, "scale", on_fail="collect", dtype=dtype)
    message = f"changed its argument {name}, which belongs to the caller"
    assert {f.message for f in report.failures} == {message}


@pytest.mark.parametrize(
    "change",
    [
        lambda batches: batches.pop(),
        lambda batches: batches.append(batches[0]),
        lambda batches: batches.clear(),
        lambda batches: batches[0].fill(0.0),
        lambda batches: batches.reverse(),
    ],
    ids=["pop", "append", "clear", "fill", "reverse"],
)
def test_changed_lists(change: Callable[[list[Array]], Any]) -> None:
    def score(batches: list[Array], **options: Any) -> list[Array]:
        scores = scale.score_batches(batches, **options)
        change(batches)
        return scores

    report = oracle.check({"score_batches": score}, on_fail="collect")
    assert len(report.failures) == 16
    assert {f.message for f in report.failures} == {
        "changed its argument batches, which belongs to the caller"
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda phi: phi[0], "phi: returned a ndarray, expected a list of 3, one for each call"),
        (lambda phi: phi[1:], "phi: returned a list of 2, expected a list of 3, one for each"),
        (lambda phi: np.stack(phi), "phi: returned a ndarray, expected a list of 3"),
        (lambda phi: iter(phi), "phi: returned a list_iterator, expected a list of 3"),
        (lambda phi: [None, *phi[1:]], "phi[0]: returned None, expected an array"),
        (lambda phi: [phi[0], phi[1], phi[2][:1]], "phi[2]: has shape (1, 3), expected (4, 3)"),
        (lambda phi: [phi[0], phi[1] + 1, phi[2] + 1], "(and 1 more of its outputs)"),
    ],
)
def test_bad_trajectories(change: Callable[[list[Array]], Any], message: str) -> None:
    def score(batches: list[Array], **options: Any) -> Any:
        return change(scale.score_batches(batches, **options))

    report = oracle.check({"score_batches": score}, on_fail="collect")
    assert message in report.failures[0].message


def test_a_tuple_is_as_good_as_a_list() -> None:
    def score(batches: list[Array], **options: Any) -> tuple[Array, ...]:
        return tuple(scale.score_batches(batches, **options))

    assert oracle.check({"score_batches": score}).failures == []


TWO = Case(
    "deactivation/given/1", "deactivate",
    {"z": np.ones(2), "mask": np.array([True, False]), "mean": np.array(0.0), "strength": 1.0,
     "upstream": np.ones(2)},
    {"value": Expected(np.array([0.0, 1.0])), "gradient": Expected(np.array([-1.0, 1.0]))},
    "two outputs",
)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.ones((2, 2)), "returned a ndarray, expected 2 values: value, gradient"),
        ((np.ones(2),), "returned 1 values, expected 2: value, gradient"),
        (None, "returned a NoneType, expected 2 values: value, gradient"),
        ((np.array([0.0, 1.0]), None), "gradient: returned None, expected an array"),
        (
            (np.array([0.0, 1.0]), np.array([1.0, 1.0])),
            "gradient: 1 of 2 values outside tolerance\n  worst at [0]: got 1.0, want -1.0 "
            "(-0x1.0000000000000p+0)\n  error 2.00e+00, none is allowed; 0.0 digits agree "
            "(condition 1.0e+00, float64)",
        ),
        ([np.array([0.0, 1.0]), np.array([-1.0, 1.0])], None),
    ],
)
def test_several_outputs(result: Any, message: str | None) -> None:
    assert runner.run(lambda *_: result, TWO).message == message


@pytest.mark.parametrize(
    ("want", "got", "message"),
    [
        (np.array([True, False]), np.array([True, True]), "1 of 2 values wrong\n  first at [1]"),
        (np.array([3, 4]), np.array([3, 5]), "values wrong\n  first at [1]: got 5, want 4"),
        (np.array(2**70, dtype=object), 2**70, None),
        (np.array(2**70, dtype=object), 2**70 + 1, f"value is wrong\n  first: got {2**70 + 1}"),
        (np.array(2**70, dtype=object), float(2**70), "has dtype float64, expected whole numbers"),
        (np.array(3), 3.0, "has dtype float64, expected whole numbers"),
        (np.array(1.0), np.nan, "the value is outside tolerance\n  worst: got nan, want 1.0"),
        (np.array(0.0), 1e300, "error 1.00e+300, none is allowed; 0.0 digits"),
        (np.array(np.inf), np.inf, None),
        (np.array(np.inf), -np.inf, "got -inf, want inf (inf)"),
        (np.array(0.0), -0.0, None),
    ],
)
def test_values(want: Array, got: Any, message: str | None) -> None:
    case = Case("emergence/x/1", "emergence", {"widths": [], "active": [], "form": "sum"},
                {"paths": Expected(want)}, "")
    call = oracle.suite.Call("emergence", (), ("paths",), "")
    with warnings.catch_warnings(action="error"):
        found = runner.judge(case, call, got).message
    assert (found is None) if message is None else (found is not None and message in found)


def test_a_flag_within_tolerance_may_be_either() -> None:
    expected = Expected(np.array([True, False, True]), either=np.array([False, False, True]))
    for got, passes in ([1, 0, 0], True), ([1, 0, 1], True), ([0, 0, 1], False), ([1, 1, 1], False):
        reply = oracle.adapters.to_numpy(np.array(got, dtype=bool))
        assert (runner.difference(reply, expected, 1.0) is None) == passes


def test_each_call_gets_writable_copies_of_its_own() -> None:
    seen: list[Array] = []

    def keeps(z: Array, mean: Array, variance: Array, *, compensation: float) -> Array:
        assert z.flags.writeable
        assert z.flags.owndata
        seen.append(z)
        return my_scale(z, mean, variance, compensation=compensation)

    first = oracle.check(keeps, "scale")
    assert len(seen) == 14
    for z in seen:
        z.fill(0.0)  # after the call: nothing of the oracle's changes
    assert oracle.check(my_scale, "scale").passed == first.passed


def test_read_only_arguments() -> None:
    def frozen(x: Array) -> Array:
        x.flags.writeable = False
        return x

    assert oracle.check(my_scale, "scale", convert=frozen).failures == []

    def in_place(z: Array, mean: Array, variance: Array, *, compensation: float) -> Array:
        z -= mean
        return z

    report = oracle.check(in_place, "scale", convert=frozen, on_fail="collect")
    assert "raised ValueError: output array is read-only" in report.failures[0].message


def test_float32_returned_for_float64_is_judged_as_float32_and_said() -> None:
    report = oracle.check(lambda *given, compensation: my_scale(
        *(g.astype("float32") for g in given), compensation=compensation
    ), "scale")
    assert len(report.passed) == 14
    assert "was given float64, returned float32 and was allowed" in report.notes[0]
    assert "note: monosemantic_scale was given float64" in str(report)


def test_raise_or_collect() -> None:
    with pytest.raises(oracle.OracleError, match=r"(?s)^\nscale/given/1: .*0 passed, 14 failed"):
        oracle.check(lambda *_, compensation: None, "scale")
    assert issubclass(oracle.OracleError, AssertionError)


@pytest.fixture
def only_extreme(tmp_path: Path) -> Path:
    """A folder of vectors in which every case is near the ends of float64's range."""
    oracle.dump(tmp_path / "vectors")
    file, manifest = tmp_path / "vectors/scale.json", tmp_path / "vectors/MANIFEST.sha256"
    before = file.read_bytes()
    after = before.replace(b'"extreme":true,', b"").replace(b',"extreme":true', b"")
    after = after.replace(b'{"id":', b'{"extreme":true,"id":')
    file.write_bytes(after)
    old, new = (hashlib.sha256(contents).hexdigest() for contents in (before, after))
    manifest.write_text(manifest.read_text().replace(old, new))
    return file.parent


def test_if_all_is_skipped_nothing_is_good(only_extreme: Path) -> None:
    with pytest.raises(oracle.OracleError, match="nothing was checked"):
        oracle.check(my_scale, "scale", folder=only_extreme)
    report = oracle.check(my_scale, "scale", folder=only_extreme, on_fail="collect")
    assert not report.good
    assert report.notes == ["nothing was checked, so nothing is known of the implementation"]
    assert not check_with(lambda phi: None).good
    assert check_with(lambda phi: phi).good
    assert check_with(lambda phi: phi).notes == []


def test_the_printed_report_is_short() -> None:
    text = str(check_with(lambda phi: None))
    assert "... and 4 more failures, in `.failures`" in text
    assert text.endswith("\n0 passed, 14 failed, 18 skipped")
    assert "skipped scale/stream/1 and 15 more: no function score_batches was given" in text


def test_ways_to_give_functions() -> None:
    module = types.SimpleNamespace(
        monosemantic_scale=mono.monosemantic_scale, score_batches=scale.score_batches
    )
    assert len(oracle.check(module, "scale").passed) == 30
    assert len(oracle.check(vars(module)).passed) == 30
    assert len(oracle.check(mono, "scale").passed) == 14
    assert len(oracle.check(mono.monosemantic_scale, "scale").passed) == 14


@pytest.mark.parametrize(
    ("implementation", "suite", "options", "message"),
    [
        (my_scale, "scales", {}, "no suite is named 'scales'; there are moments, scale, selection"),
        (my_scale, None, {}, "name the suite of <function my_scale"),
        ({"scale": my_scale}, None, {}, "no function is named 'scale'; there are moments, merge"),
        ({"monosemantic_scale": my_scale}, "moments", {}, "to suite 'scale', not 'moments'"),
        ({}, None, {}, "no functions were given"),
        (object(), "scale", {}, "has none of the functions of suite 'scale': monosemantic_scale"),
        (my_scale, "scale", {"on_fail": "ignore"}, "on_fail is 'ignore'"),
        (my_scale, "scale", {"dtype": "bfloat16"}, "dtype is 'bfloat16'"),
        (my_scale, "scale", {"timeout": 0}, "check: timeout is 0.0, expected a finite"),
    ],
)
def test_bad_input(implementation: Any, suite: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oracle.check(implementation, suite, **options)


def test_extreme_cases_run_on_request() -> None:
    assert len(check_with(lambda phi: phi, extreme=True).skipped) == 16
    report = check_with(lambda phi: phi, extreme=True, dtype="float32")
    assert report.skipped["scale/given/15"] == "float32 cannot hold its numbers"

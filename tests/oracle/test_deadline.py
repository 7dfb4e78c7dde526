"""A call ends in time, whatever it does in Python, and leaves nothing: no thread, no alarm."""

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from minimono.oracle.deadline import OutOfTime, call_within

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no alarms")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    threads, handler = threading.active_count(), signal.getsignal(signal.SIGALRM)
    yield
    assert threading.active_count() == threads
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def loops() -> None:
    while True:
        pass


def catches_exceptions() -> None:
    while True:
        try:
            time.sleep(1)
        except Exception:
            pass


def catches_all_twice() -> None:
    for _ in range(3):
        with suppress(BaseException):
            loops()


def catches_once() -> str:
    with suppress(BaseException):
        loops()
    return "done"


def raises_another() -> None:
    try:
        loops()
    finally:
        raise ValueError("not converged")


def acquires_twice() -> None:
    lock = threading.Lock()
    with lock, lock:
        pass


held = threading.Lock()
held.acquire()
CALLS: dict[str, Callable[[], Any]] = {
    "loops": loops,
    "catches exceptions": catches_exceptions,
    "catches all twice": catches_all_twice,
    "catches once": catches_once,
    "raises another": raises_another,
    "acquires twice": acquires_twice,
    "event": threading.Event().wait,
    "lock, in C": held.acquire,
    "queue": queue.Queue[int]().get,
    "sleep": lambda: time.sleep(60),
    "program": lambda: subprocess.run(["sleep", "60"], check=False),
    "generator": lambda: sum(0 for _ in iter(int, 1)),
    "comprehension": lambda: [0 for _ in iter(int, 1)],
    "a call in a call": lambda: call_within(30, loops),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_is_ended(call: Callable[[], Any]) -> None:
    began = time.monotonic()
    with pytest.raises(OutOfTime):
        call_within(0.1, call)
    assert 0.09 < time.monotonic() - began < 5


def test_a_call_that_is_in_time() -> None:
    assert call_within(30, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        call_within(30, lambda: 1 / 0)
    with pytest.raises(KeyboardInterrupt):
        call_within(30, lambda: signal.raise_signal(signal.SIGINT))


def test_the_alarm_and_the_end_may_come_together() -> None:
    """Whichever is first, nothing rings afterwards."""
    ended = 0
    for i in range(300):
        until = time.perf_counter() + 0.001 + i % 20 * 1e-5

        def call(until: float = until) -> bool:
            while time.perf_counter() < until:
                pass
            return True

        try:
            assert call_within(0.0011, call)
        except OutOfTime:
            ended += 1
    assert 0 < ended < 300


def test_an_alarm_that_is_set_already_rings_when_it_should() -> None:
    rang: list[float] = []
    handler = signal.signal(signal.SIGALRM, lambda *_: rang.append(time.monotonic()))
    try:
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(OutOfTime):
            call_within(0.1, loops)
        assert call_within(60, lambda: time.sleep(0.4)) is None
        assert len(rang) == 1
        assert 0.29 < rang[0] - began < 2
    finally:
        signal.signal(signal.SIGALRM, handler)


def test_another_thread_has_no_alarms() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(call_within, 1e-6, lambda: time.sleep(0.01)).result() is None

"""A call that is ended when its time is over: by an alarm, in the thread that makes it.

An alarm is a signal. Python's main thread hears it between two instructions, or in the midst of
waiting for a lock, a file or the end of a sleep, and what its handler raises ends the call. So
nothing of the call goes on: neither a thread nor a process was made for it.

What an alarm cannot end is C code that does not return to Python, and a loop that catches every
exception. An implementation that may hang so is run as a program (process.py), which is killed.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")

AGAIN = 0.5  # seconds in which a call can clean up; one that then still runs is interrupted again


class OutOfTime(BaseException):
    """The call's time is over. Not an Exception, so that the call rarely catches it."""


def can_end() -> bool:
    """Return whether a call can be ended here: in the main thread, where there are alarms."""
    return sys.platform != "win32" and threading.current_thread() is threading.main_thread()


def call_within(seconds: float, call: Callable[[], Result]) -> Result:
    """Return what `call()` returns; raises OutOfTime if it takes longer, where it can be ended.

    >>> call_within(0.01, lambda: time.sleep(2))
    Traceback (most recent call last):
    minimono.oracle.deadline.OutOfTime
    """
    if sys.platform == "win32" or not can_end():
        return call()
    before, interval = signal.getitimer(signal.ITIMER_REAL)
    if 0 < before <= seconds:  # somebody else's alarm, as of pytest-timeout, comes first
        return call()
    over = finished = False

    def end(_: int, interrupted: FrameType | None) -> None:
        nonlocal over
        ours = interrupted is None or interrupted.f_code is call_within.__code__
        if not ours and not finished:
            over = True
            raise OutOfTime

    def inside() -> Result:  # a frame of its own: `call` may have none, as functions in C
        return call()

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, end)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
        return inside()
    except KeyboardInterrupt:
        over = False  # who presses Ctrl-C wants more than this call to end
        raise
    finally:
        finished = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if before:
            left = before - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-6), interval)
        if over:
            raise OutOfTime  # whatever the call made of the first one

"""The signals that ask a process to end, as an exception that waits for the end of a step.

    with stoppable() as signals:       # Ctrl-C, kill, a closed terminal raise Stopped in here
        for step in range(steps):
            with signals.held():       # not before the end of this, unless they come twice
                ...
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # no system has all of them


class Stopped(BaseException):
    """A signal came that asks the process to end. No error, so `except Exception` lets it pass."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum  # the exit status by which shells know it


class Signals:
    """What has arrived, and whether it has to wait."""

    def __init__(self) -> None:
        self._holding = False
        self._waiting: int | None = None

    def arrived(self, signum: int, frame: FrameType | None = None) -> None:
        """Take note of a signal: raise Stopped, or let the first one wait while held."""
        if self._holding and self._waiting is None:
            self._waiting = signum
        else:
            raise Stopped(signum)

    @contextmanager
    def held(self) -> Iterator[None]:
        """In this block the first signal waits for the block's end."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._waiting is not None:
            signum, self._waiting = self._waiting, None
            raise Stopped(signum)


@contextmanager
def stoppable() -> Iterator[Signals]:
    """In this block signals that ask the process to end raise Stopped.

    One that is ignored, as by `nohup`, stays ignored. Handlers belong to a process's main thread:
    in another thread nothing changes.
    """
    signals = Signals()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for signum in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            if signal.getsignal(signum) is not signal.SIG_IGN:
                before[signum] = signal.signal(signum, signals.arrived)
    try:
        yield signals
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

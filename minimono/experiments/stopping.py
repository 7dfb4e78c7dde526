"""The signals that ask a process to end, as an exception that waits for the end of a step.

    with stoppable() as signals:       # Ctrl-C, kill, a closed terminal raise Stopped in here
        for step in range(steps):
            with signals.held():       # not before the end of this
                ...

An exception that is raised wherever the process happens to be may come out of a library as an error
of the library's own, or not at all. So what has come is noted, and looked at again.
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
    """What has come, and whether it has to wait."""

    def __init__(self) -> None:
        self.came: int | None = None  # the first signal
        self._holding = self._noted = False

    def arrived(self, signum: int, frame: FrameType | None = None) -> None:
        """Take note of a signal: raise Stopped, or while held, let it wait.

        A second Ctrl-C does not wait: somebody is there. What sends the others may send several.
        """
        self.came = self.came or signum
        if self._holding and not (self._noted and signum == signal.SIGINT):
            self._noted = True
        else:
            raise Stopped(signum)

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self.came is not None:
            raise Stopped(self.came)

    @contextmanager
    def held(self) -> Iterator[None]:
        """In this block signals wait for the block's end."""
        self._holding, self._noted = True, False
        try:
            yield
        finally:
            self._holding = False
        self.check()


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
    except Exception:
        signals.check()
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

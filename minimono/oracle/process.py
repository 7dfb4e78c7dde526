"""A program that is asked a line at a time, and ended in time with all that it has started.

Its pipes never make us wait for longer than was said, whoever holds their other ends: a program
that hangs, one that has ended, or a child that it left behind. So there are no threads here.
"""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

LONGEST = 2**20  # bytes of a reply; the longest that a case needs has about 10,000
TAIL = 2000  # bytes of its standard error that are kept
PIECE = 2**16  # bytes that are read at once


class NoReply(Exception):
    """What came is no reply to the case, so the program is started again for the next one."""


def words(command: str, *, windows: bool = os.name == "nt") -> list[str]:
    r"""Return a command's words, as a shell splits them: spaces separate, unless they are quoted.

    On Windows a backslash is part of a path, and only double quotes quote.

    >>> words(r'"C:\Program Files\julia.exe" impl.jl', windows=True)
    ['C:\\Program Files\\julia.exe', 'impl.jl']
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    if windows:
        lexer.escape, lexer.quotes = "", '"'
    return list(lexer)


class Process:
    """A program while it runs. Who starts one has to `end` it."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it. Raises OSError if that is impossible."""
        if sys.platform == "win32":
            flags, session = subprocess.CREATE_NEW_PROCESS_GROUP, False
        else:
            flags, session = 0, True
        self.popen = subprocess.Popen(
            list(command), bufsize=0, start_new_session=session, creationflags=flags,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        self.stdin = _unblocked(self.popen.stdin)
        self.stdout = _unblocked(self.popen.stdout)
        self.stderr = _unblocked(self.popen.stderr)
        self.received, self.tail = b"", b""

    def ask(self, line: bytes, seconds: float) -> bytes:
        """Return the line that it replies to a line; raises NoReply if there is none in time."""
        until = time.monotonic() + seconds
        while (
            b"\n" not in self.received
            and len(self.received) <= LONGEST
            and not self.stdout.closed
        ):
            if (left := until - time.monotonic()) <= 0:
                code = self.popen.poll()
                why = "" if code is None else f", but has ended ({_how(code)}) and left a child"
                raise NoReply(f"no reply within {seconds:g} s{why}")
            line = self._exchange(line, left)
        reply, end, self.received = self.received.partition(b"\n")
        if len(reply) > LONGEST:
            raise NoReply(f"replied with a line of more than {LONGEST} bytes")
        if reply or end:
            return reply + end
        code = self._exit_within(1.0)
        if code is None:
            raise NoReply("closed its standard output without a reply")
        raise NoReply(f"ended without a reply ({_how(code)})")

    def end(self, seconds: float = 0.0) -> list[str]:
        """End it and its whole process group; return the last lines of its standard error.

        seconds: that it is given to end by itself, once its input has ended.
        """
        try:
            self.stdin.close()
            self._exit_within(seconds)
        finally:
            _kill(self.popen)
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(1.0)
            for _ in range(16):  # what a pipe can hold, and no more: a child may still write
                self._listen()
            self.stdout.close()
            self.stderr.close()
        return self.tail.decode("utf-8", "replace").strip().splitlines()

    def _exit_within(self, seconds: float) -> int | None:
        """Return its exit code, if it ends in time. What it writes until then is read."""
        until = time.monotonic() + seconds
        while (code := self.popen.poll()) is None and time.monotonic() < until:
            self._exchange(b"", 0.01)
            self.received = b""
        return code

    def _exchange(self, unsent: bytes, seconds: float) -> bytes:
        """Write and read what is possible, waiting until something is; return what is unsent."""
        reading = [pipe for pipe in (self.stdout, self.stderr) if not pipe.closed]
        _wait(reading, [self.stdin] if unsent else [], seconds)
        if unsent:
            try:
                unsent = unsent[self.stdin.write(unsent) or 0 :]
            except OSError:  # it takes no more, but what it said before is still read
                unsent = b""
        self._listen()
        return unsent

    def _listen(self) -> None:
        self.received += _read(self.stdout)
        self.tail = (self.tail + _read(self.stderr))[-TAIL:]


def _unblocked(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    os.set_blocking(pipe.fileno(), False)  # on Windows from Python 3.12 on
    return pipe


def _read(pipe: IO[bytes]) -> bytes:
    """Return what has come, which may be nothing; a pipe from which no more can come is closed."""
    if pipe.closed:
        return b""
    some = pipe.read(PIECE)  # None if nothing is there yet
    if some == b"":
        pipe.close()
    return some or b""


def _wait(reading: list[IO[bytes]], writing: list[IO[bytes]], seconds: float) -> None:
    """Wait until a pipe can be read or written, at most so long."""
    if sys.platform == "win32":  # which cannot wait for pipes
        time.sleep(min(seconds, 0.001))
        return
    with selectors.DefaultSelector() as selector:
        for pipe in reading:
            selector.register(pipe, selectors.EVENT_READ)
        for pipe in writing:
            selector.register(pipe, selectors.EVENT_WRITE)
        selector.select(seconds)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group. It may have ended already: its children may not."""
    if sys.platform == "win32":
        taskkill = ["taskkill", "/F", "/T", "/PID", str(process.pid)]
        subprocess.run(taskkill, capture_output=True, check=False)
        return
    with suppress(ProcessLookupError, PermissionError):  # none is left, or only another user's
        os.killpg(process.pid, signal.SIGKILL)


def _how(code: int) -> str:
    """Return how a program has ended, in words. Real-time signals have numbers only."""
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"

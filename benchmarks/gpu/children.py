"""Processes that say what they find, a JSON object a line, and that are stopped when they hang."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

Event = dict[str, Any]


def watched(
    command: Sequence[str], hear: Callable[[Event], None], *, seconds: float, log: IO[str],
    silence: float | None = None, environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command, `hear` each event it sends, and return "" or how it ended otherwise.

    It gets so many seconds, and between two events at most `silence`; what it prints beside its
    events goes to `log`. Nothing that it started is left behind.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        env={**os.environ, **(environment or {})}, process_group=0,
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    until = time.monotonic() + seconds
    try:
        while True:
            left = until - time.monotonic()
            try:
                line = lines.get(timeout=max(0.0, left if silence is None else min(left, silence)))
            except queue.Empty:
                quiet = silence is not None and silence < left
                return f"stopped: {f'silent for {silence:g}' if quiet else f'over {seconds:.0f}'} s"
            if line is None:
                break
            hear(json.loads(line))
        code = process.wait(timeout=20)
        return "" if code == 0 else f"ended with code {code}"
    except subprocess.TimeoutExpired:
        return "did not end"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join(5.0)


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def voice() -> Callable[[Event], None]:
    """In a child: what sends an event. Whatever else is printed from now on goes to the log."""
    stream = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stdout.flush()
    os.dup2(2, 1)
    return lambda event: print(json.dumps(event), file=stream, flush=True)

"""A program on a terminal of its own, which can be closed while the program runs."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class OnTerminal:
    """A process that leads a session, and the other end of its terminal."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process, self._descriptor, self._shown = process, descriptor, b""

    def wait_until(self, holds: Callable[[], bool], seconds: float) -> None:
        """Read what the program writes, which would wait otherwise, until something is so."""
        until = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, self._shown.decode(errors="replace")
            assert time.monotonic() < until, self._shown.decode(errors="replace")
            if self._descriptor < 0:
                time.sleep(0.05)
            elif select.select([self._descriptor], [], [], 0.05)[0]:
                self._shown += os.read(self._descriptor, 1 << 16)

    def close(self) -> None:
        """What happens when its window is closed; the system sends SIGHUP."""
        os.close(self._descriptor)
        self._descriptor = -1

    def end(self) -> None:
        if self._descriptor >= 0:
            self.close()
        self.process.kill()
        self.process.wait()


@contextmanager
def on_terminal(command: Sequence[str], folder: Path, environment: dict[str, str]) -> Iterator[OnTerminal]:
    """``command`` started in ``folder``, its input, output and errors on the terminal."""
    ours, its = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_TERMINAL, *command],
        cwd=folder,
        # With buffers, which hold what could not be written.
        env={**os.environ, "TERM": "xterm-256color", "PYTHONUNBUFFERED": "", **environment},
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    started = OnTerminal(process, ours)
    try:
        yield started
    finally:
        started.end()
        os.close(its)  # until then reading is no error where the program itself has left its terminal

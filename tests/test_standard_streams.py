"""A program whose terminal is gone ends with the code it has come to, and without a traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mrl.standard_streams import say_error
from tests.terminal import on_terminal

ROOT = Path(__file__).parent.parent
# It writes to each stream when its terminal is gone, and what it could not write stays in the buffers.
ALONE = """
import os, signal, time
from contextlib import suppress
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from mrl.standard_streams import say_error, leave
print("ready", flush=True)
open("ready", "w").close()
while True:
    try:
        os.write(2, b".")
    except OSError:
        break
    time.sleep(0.02)
with suppress(OSError):
    print("nobody reads this")
{last}
"""
SAID = 'say_error("error: nor this")\nleave(129)'


def left_alone(last: str, folder: Path) -> int:
    code = ALONE.format(last=last)
    with on_terminal([sys.executable, "-c", code], folder, {"PYTHONPATH": str(ROOT)}) as started:
        started.wait_until((folder / "ready").exists, 60)
        started.close()
        return started.process.wait(60)


@pytest.mark.skipif(sys.platform != "linux", reason="closes a terminal as Linux does")
def test_a_program_whose_terminal_is_gone_ends_with_its_own_code(tmp_path: Path) -> None:
    assert left_alone(SAID, tmp_path) == 129


@pytest.mark.skipif(sys.platform != "linux", reason="closes a terminal as Linux does")
def test_what_another_library_left_in_the_buffers_changes_no_code(tmp_path: Path) -> None:
    assert left_alone("import warnings\nwarnings.warn('nor this')\nleave(0)", tmp_path) == 0


def test_an_error_is_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    say_error("error: x")
    assert capsys.readouterr() == ("", "error: x\n")


def test_streams_that_are_closed_or_not_there_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/null").open("w", encoding="utf-8") as closed:
        pass
    for stream in (closed, None):
        monkeypatch.setattr(sys, "stderr", stream)
        say_error("error: x")

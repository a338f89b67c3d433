"""Programs that are started without input, output or error, by cron or as a daemon."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mrl.console import Console

ROOT = Path(__file__).parent.parent
CLOSED = {"input": "<&-", "output": ">&-", "error": "2>&-", "all": "<&- >&- 2>&-"}
OPENED = """
import os, sys
from mrl.standard_streams import open_missing
open_missing()
file = open("own.txt", "w")
assert file.fileno() > 2
os.write(1, b"of a library")  # which knows numbers alone
print("of", sys.stdin.read() if sys.argv[1] == "all" else "nobody", file=sys.stderr)
"""


def closed(streams: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with ``arguments`` and these streams closed; the others lead to the result."""
    command = ["sh", "-c", f'exec "$@" {CLOSED[streams]}', "sh", sys.executable, *arguments]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("streams", CLOSED)
def test_an_opened_file_does_not_take_the_place_of_a_stream(streams: str, tmp_path: Path) -> None:
    assert closed(streams, "-c", OPENED, streams, folder=tmp_path).returncode == 0
    assert (tmp_path / "own.txt").read_bytes() == b""


def test_what_a_program_starts_inherits_them(tmp_path: Path) -> None:
    child = "import sys; assert None not in (sys.stdin, sys.stdout, sys.stderr); open('told', 'w')"
    parent = f"""
import subprocess, sys
from mrl.standard_streams import open_missing
open_missing()
sys.exit(subprocess.call([sys.executable, "-c", {child!r}]))
"""
    assert closed("all", "-c", parent, folder=tmp_path).returncode == 0
    assert (tmp_path / "told").exists()


@pytest.mark.parametrize("streams", ["output", "all"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["scripts/models.py"], 0),
        (["train.py", "--config", "nowhere.yaml"], 2),
        (["evaluate.py", "--checkpoint", "nowhere.pt"], 2),
    ],
    ids=["models", "train", "evaluate"],
)
def test_programs_end_with_the_code_they_come_to(
    streams: str, arguments: list[str], code: int, tmp_path: Path
) -> None:
    program, *others = arguments
    done = closed(streams, str(ROOT / program), *others, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "program", ["train.py", "evaluate.py", *(path.name for path in (ROOT / "scripts").glob("*.py"))]
)
def test_each_program_that_prints_by_the_console_opens_them(program: str) -> None:
    folder = ROOT / "scripts" if (ROOT / "scripts" / program).exists() else ROOT
    text = (folder / program).read_text(encoding="utf-8")
    if folder == ROOT or "import Console" in text:
        body = text.partition("\ndef main(")[2]
        assert body.splitlines()[1] == "    open_missing()"


def test_a_console_without_output_keeps_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    Console().say("nobody reads this")

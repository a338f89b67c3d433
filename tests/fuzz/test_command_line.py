"""Bad input from the command line to the message: exit code 2, one error, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import evaluate
import train
from mrl.models.checkpoint_format import FORMAT, VERSION
from tests.fuzz.config_targets import CONFIG

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a good configuration, good.yaml, and files that are none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_bytes(CONFIG.read_bytes())
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "list.txt").write_text("1 a.wav\n")
    torch.save({"format": FORMAT, "version": VERSION}, tmp_path / "empty.pt")
    torch.save({"format": FORMAT, "version": [1]}, tmp_path / "odd.pt")
    return tmp_path


def written(place: Path, name: str, content: bytes) -> str:
    (place / name).write_bytes(content)
    return name


CONFIGS: dict[str, tuple[bytes, str]] = {
    "binary": (b"\x80\x02\xff", "is not a UTF-8 text file (line 1)"),
    "tag": (b"seed: !!bool maybe\n", "not readable as YAML"),
    "tab": (b"seed:\n\t1\n", "line 2, column 1"),
    "list": (b"- 1\n", "expected `key: value` lines"),
    "control": (b'logging: {project: "a\\0b"}\n', "logging.project: 'a\\x00b' holds a control character"),
    "number": (b"seed: 99999999999999999999999\n", "seed: is a number beyond 64 bits"),
    "cycle": (b"extends: cycle.yaml\n", "leads back to this file"),
    "date": (b"logging: {run_name: 2026-01-02}\n", "logging.run_name: is a date, neither text nor a number"),
    "long": (b"data: {train: " + b"x" * 5000 + b"}\n", "5000 bytes long"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_bad_configuration_ends_in_one_message(
    place: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    content, words = CONFIGS[name]
    assert train.main(["--config", written(place, f"{name}.yaml", content)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {name}.yaml: ")
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--checkpoint", "text.pt"], "error: text.pt: not a readable checkpoint"),
        (["--checkpoint", "empty.pt"], "error: empty.pt: damaged, it lacks config"),
        (["--checkpoint", "odd.pt"], "error: odd.pt: written in format version [1]"),
        (["--checkpoint", "no.pt"], "error: no.pt: no such file"),
        (["--checkpoint", "x" * 5000], "cannot be read: File name too long"),
        (["--checkpoint", ""], "error: .: a folder; name a file in it"),
        (["--checkpoint", "text.pt", "--workers", "0"], "--workers must be from 1 to"),
        (["--checkpoint", "text.pt", "--workers", "1000000000"], "--workers must be from 1 to"),
        (["--checkpoint", "text.pt", "--dims", "many"], "--dims: invalid int value: 'many'"),
    ],
)
def test_evaluate_refuses_in_words(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    try:
        code: object = evaluate.main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_a_real_process_ends_with_code_2_and_one_message(place: Path) -> None:
    broken = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    broken["prefixes"] = [{"dim": 10**9}]
    (place / "broken.yaml").write_text(yaml.safe_dump(broken))
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "train.py"),
            "--config",
            "broken.yaml",
            "--set",
            "seed=\udcff",
            "--set",
            "=1",
        ],
        capture_output=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=place,
        timeout=120,
    )
    assert done.returncode == 2
    lines = done.stderr.decode().splitlines()
    assert [line.startswith("error: ") for line in lines] == [True] + [False] * (len(lines) - 1)
    assert b"Traceback" not in done.stderr
    assert b"dim 1000000000 is more than 65536" in done.stderr

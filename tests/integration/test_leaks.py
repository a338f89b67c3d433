"""Nothing secret is written anywhere, and nothing is written outside the folders that are for it."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import pytest
import torch

import evaluate
from mrl.models.checkpoint_format import read_checkpoint
from tests.integration.conftest import CONFIG

EVERYTHING = {"plots": True, "tensorboard": True, "wandb": "offline"}


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def test_no_secret_is_written_anywhere(run, workplace, monkeypatch, capfd):
    """From the environment or from .env: into checkpoints, logs, metrics, plots, reports, W&B's own files."""
    names = ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "UNRELATED")
    planted = {name: secrets.token_hex(20) for name in names}
    for name in names[1:]:
        monkeypatch.setenv(name, planted[name])
    (workplace / ".env").write_text(f"WANDB_API_KEY={planted['WANDB_API_KEY']}\n", encoding="utf-8")
    monkeypatch.setenv("WANDB_API_KEY", planted["WANDB_API_KEY"])
    assert run(logging=EVERYTHING) == 0
    assert (
        run("--resume", "auto", "--set", "prefixes=8", logging=EVERYTHING) == 2
    )  # an error may not tell either
    for name in ("best.pt", "last.pt"):
        assert evaluate.main(["--checkpoint", f"checkpoints/{name}", "--with", "baselines", "--scores"]) == 0
    deadline = time.monotonic() + 30  # its service writes in its own time
    while not list((workplace / "logs/wandb").rglob("*.wandb")) and time.monotonic() < deadline:
        time.sleep(0.2)
    written = files(workplace) - {workplace / ".env"}
    assert {path.suffix for path in written} >= {".pt", ".jsonl", ".log", ".yaml", ".html", ".wandb", ".png"}
    said = "".join(capfd.readouterr())
    for name, value in planted.items():
        assert value not in said, name
        found = [path for path in written if value.encode() in path.read_bytes()]
        assert not found, f"{name} is in {found}"


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "MY_PASSWORD", "aws_secret_access_key"])
def test_a_secret_cannot_be_put_into_a_configuration(run, monkeypatch, capsys, name):
    """It would be written into the checkpoints and the log folder with the rest."""
    monkeypatch.setenv(name, "4f1c")
    assert run(logging={"run_name": f"of ${{{name}}}"}) == 2
    error = capsys.readouterr().err
    assert f"logging.run_name: {name} looks like a secret" in error
    assert "4f1c" not in error


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/b", "..", ".hidden", "a\\b", "a\0b", ""])
def test_names_that_become_files_cannot_lead_out_of_a_folder(run, workplace, capsys, name):
    before = files(workplace)
    stage = {**CONFIG["stages"][0], "name": name}
    lists = [{"name": name, "root": "speech/validation"}]
    assert run(stages=[stage], validation={"lists": lists}) == 2
    error = capsys.readouterr().err
    assert "run.yaml: 2 problems in the configuration" in error
    assert "run.yaml: stages." in error
    assert "run.yaml: validation.lists." in error
    assert files(workplace) - before == {workplace / "run.yaml"}


def test_what_a_checkpoint_says_does_not_lead_out_of_a_folder(run, workplace, capsys):
    """Its configuration, written by somebody else, names the files of a report and of a run that goes on."""
    inside = workplace / "a/b/c"
    inside.mkdir(parents=True)
    assert run(stages=[CONFIG["stages"][0]]) == 0
    content = read_checkpoint("checkpoints/best.pt")
    trials = str(workplace / "logs/trials/made.txt")
    for name in ("../../outside", "/outside", ".."):
        content["config"]["validation"]["lists"][0] |= {"name": name, "trials": trials}
        content["config"]["stages"][0]["name"] = name
        content["lists"] = {name: next(iter(content["lists"].values()))}
        torch.save(content, inside / "best.pt")
        before = files(workplace)
        code = evaluate.main(
            ["--checkpoint", str(inside / "best.pt"), "--scores", "--output", str(inside / "report")]
        )
        assert code == 2
        assert "name" in capsys.readouterr().err
        assert files(workplace) == before


def test_a_trial_list_reads_nothing_above_its_root(run, workplace, capsys):
    assert run(stages=[CONFIG["stages"][0]]) == 0
    utterances = [path.relative_to(workplace) for path in (workplace / "speech/validation").rglob("*.wav")]
    lines = [f"{label} ../../{utterances[label]} ../../{utterances[2]}\n" for label in (0, 1)]
    (workplace / "up.txt").write_text("".join(lines), encoding="utf-8")
    arguments = ["--trials", "up.txt", "--root", "speech/train", "--output", "report"]
    assert evaluate.main(["--checkpoint", "checkpoints/best.pt", *arguments]) == 2
    assert "up.txt: 2 bad lines in this trial list" in capsys.readouterr().err
    assert not (workplace / "report").exists()

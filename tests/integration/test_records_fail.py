"""Records that cannot be kept: training goes on, and says so once."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mrl.models.checkpoint_format import read_checkpoint
from mrl.training import retried, wandb_service
from mrl.training.tracking import Tracker
from tests.full_disk import full_disk
from tests.integration.conftest import CONFIG
from tests.integration.test_killed import scalars

Run = Callable[..., int]
HEAD = CONFIG["stages"][:1]
SERVICES = {"tensorboard": True, "plots": False}


def epochs_done() -> int:
    return read_checkpoint("checkpoints/last.pt")["state"]["epoch"]


def after_epoch(number: int, monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """Let ``what`` happen in the middle of a run."""
    record = Tracker.epoch

    def watched(self: Tracker, epoch: int, *arguments: Any) -> None:
        record(self, epoch, *arguments)
        if epoch == number:
            what()

    monkeypatch.setattr(Tracker, "epoch", watched)


def fill(path: Path) -> None:
    """Leave the disk of ``path`` no room."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1000))


def test_a_log_folder_on_a_disk_that_fills_up(
    run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with full_disk(workplace / "disk", 400) as folder:
        after_epoch(0, monkeypatch, lambda: fill(folder / "other"))
        longer = [{**HEAD[0], "epochs": 8}]  # what is left of each file's last page fills up too
        assert run(stages=longer, logging={"directory": "disk/logs", **SERVICES}) == 0
    output = capsys.readouterr().out
    assert output.count("training.log: ") == 1, output
    for name in ("metrics.jsonl", "TensorBoard"):
        assert output.count(f"{name}: ") == 2, output
        assert re.search(rf"{name}: .*; tried again each minute, the run goes on\n", output)
        assert re.search(rf"{name}: the last \d+ records could not be written\n", output)
    assert epochs_done() == 8


def test_a_disk_that_is_full_for_a_while_costs_no_metrics(
    run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retried, "_RETRY_SECONDS", 0.0)
    with full_disk(workplace / "disk", 400) as folder:
        after_epoch(0, monkeypatch, lambda: fill(folder / "other"))
        after_epoch(6, monkeypatch, (folder / "other").unlink)
        longer = [{**HEAD[0], "epochs": 8}]
        assert run(stages=longer, logging={"directory": "disk/logs", **SERVICES}) == 0
        lines = (folder / "logs/metrics.jsonl").read_text().splitlines()
        shown = scalars(folder / "logs/tensorboard")
        log = (folder / "logs/training.log").read_text()
    written = [json.loads(line) for line in lines]
    assert [record["step"] for record in written if record["kind"] == "step"] == list(range(1, 33))
    assert [record["epoch"] for record in written if record["kind"] == "epoch"] == list(range(9))
    assert [step for step, _ in shown["train/loss"]] == list(range(1, 33))
    output = capsys.readouterr().out
    assert output.count("metrics.jsonl: ") == 2
    assert "metrics.jsonl: written again" in output
    assert log.count("(lines that could not be written are missing here)") == 1


def test_a_log_folder_on_a_disk_that_is_full_from_the_start(
    run: Run, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with full_disk(workplace / "disk", 4) as folder:
        (folder / "other").write_bytes(bytes(4000))
        assert run(stages=HEAD, logging={"directory": "disk/logs", **SERVICES}) == 0
    assert "the run goes on" in capsys.readouterr().out
    assert epochs_done() == 2


def test_a_log_folder_that_cannot_be_made(
    run: Run, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "file").write_text("")
    assert run(stages=HEAD, logging={"directory": "file/logs", **SERVICES}) == 0
    assert "switched off, the run goes on" in capsys.readouterr().out
    assert epochs_done() == 2


def test_a_log_folder_that_goes_away(run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after_epoch(0, monkeypatch, lambda: shutil.rmtree("logs"))
    assert run(stages=HEAD, logging=SERVICES) == 0
    assert epochs_done() == 2


@pytest.mark.parametrize("how", ["raises", "hangs"])
def test_a_wandb_that_fails_in_the_middle_of_a_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    never = threading.Event()

    class Client:
        id, url, dir = "run1", "", "/runs/r/files"
        logged = 0

        def define_metric(self, *_: object, **__: object) -> None: ...

        def log(self, values: object) -> None:
            self.logged += 1
            if self.logged > 3:
                never.wait()
                raise ConnectionError("the service is gone")

        def finish(self, exit_code: int) -> None: ...

    class Package:
        def Settings(self, **_: object) -> None: ...

        def init(self, **_: object) -> Client:
            return Client()

        def teardown(self) -> None: ...

    if how == "raises":
        never.set()
    monkeypatch.setitem(sys.modules, "wandb", Package())
    monkeypatch.setattr(wandb_service, "FINISH_SECONDS", 0.1)
    monkeypatch.setattr(wandb_service, "GRACE_SECONDS", 0.1)
    assert run(stages=HEAD, logging={"wandb": "offline", "plots": False, "tensorboard": False}) == 0
    output = capsys.readouterr().out
    never.set()
    expected = (
        "the service is gone; switched off" if how == "raises" else r"no answer within 0.2 s at its end"
    )
    assert output.count("Weights & Biases: ") == 2, output  # where it is, and what became of it
    assert expected in output
    assert epochs_done() == 2


def test_a_reader_of_the_console_that_goes_away(
    run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``train.py | head`` does to a run."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        after_epoch(0, monkeypatch, lambda: os.close(reading))
        assert run(stages=HEAD, data={"train": "speech/train", "workers": 1}) == 0
    log = (workplace / "logs/training.log").read_text(encoding="utf-8")
    assert "console: [Errno 32] Broken pipe; switched off" in log
    assert "summary (mean over the trial lists)" in log
    assert epochs_done() == 2

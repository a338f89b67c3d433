"""What a run records, it records once, however often it is cut off."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mrl.training.run_folder import NOTHING_YET, Reached, last_recorded, records_at
from mrl.training.sinks import Record, recorded
from mrl.training.updater import Updater
from tests.integration.test_killed import scalars
from tests.integration.test_run import records


class Service:
    """In place of the package wandb: what each of its runs was sent."""

    def __init__(self) -> None:
        self.runs: dict[str, list[dict[str, Any]]] = {}

    def init(self, **settings: Any) -> SimpleNamespace:
        name = settings["id"] or f"run{len(self.runs)}"
        sent = self.runs.setdefault(name, [])
        return SimpleNamespace(
            id=name,
            url="https://run.page",
            dir="wandb/run/files",
            define_metric=lambda *_, **__: None,
            log=sent.append,
            finish=lambda **_: None,
        )

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings


class Crash(Exception):
    """A defect, or the end of the machine."""


def crash_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    update, calls = Updater.update, 0

    def crashing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Crash
        return update(*arguments, **options)

    monkeypatch.setattr(Updater, "update", crashing)


LOGGING = {"wandb": "offline", "tensorboard": True}


def test_steps_that_are_done_again_are_recorded_once(run, workplace, monkeypatch):
    """Cut off after steps 7, 5 and 9, the run goes on from the ends of epochs, after steps 4, 4 and 8."""
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    for call in (8, 2, 6):
        with monkeypatch.context() as patch:
            crash_at(call, patch)
            with pytest.raises(Crash):
                run("--resume", "auto", logging=LOGGING)
    assert run("--resume", "auto", logging=LOGGING) == 0
    (sent,) = service.runs.values()
    assert [entry["step"] for entry in sent if "train/loss" in entry] == list(range(1, 17))
    assert [entry["epoch"] for entry in sent if "mean_eer" in entry] == [0, 1, 2, 3, 4]
    written = records(workplace / "logs")
    assert [entry["step"] for entry in written if entry["kind"] == "step"] == list(range(1, 17))
    assert [entry["epoch"] for entry in written if entry["kind"] == "epoch"] == [0, 1, 2, 3, 4]
    shown = scalars(workplace / "logs/tensorboard")
    assert [step for step, _ in shown["train/loss"]] == list(range(1, 17))
    assert [step for step, _ in shown["mean_eer"]] == [0, 4, 8, 12, 16]


def test_another_course_is_another_run_of_the_service(run, monkeypatch):
    """It cannot forget the steps after those that the run goes back to."""
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    assert run(logging=LOGGING) == 0
    again = [
        "--resume",
        "checkpoints/epoch_001.pt",
        "--allow-config-change",
        "--set",
        "stages.full.weight_decay=0.05",
    ]
    assert run(*again, logging=LOGGING) == 0
    first, second = service.runs.values()
    assert [entry["step"] for entry in first if "train/loss" in entry] == list(range(1, 17))
    assert [entry["step"] for entry in second if "train/loss" in entry] == list(range(5, 17))


def test_how_far_a_file_goes(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    assert last_recorded(path) == NOTHING_YET
    path.write_text(
        '{"kind": "step", "step": 3, "epoch": 1, "loss": 1.5}\n{"kind": "epoch", "step": 4, "epoch": 1}\n'
        '{"kind": "step", "step": 4, "epoch": 1}\n[]\n{"kind": "epoch", "step": 9}\n{"kind": "step", "step": 5',
        encoding="utf-8",
    )
    assert last_recorded(path) == Reached(step=4, epoch=1)
    assert [record["kind"] for record in records_at(path, 4)] == ["epoch", "step"]


@pytest.mark.parametrize(
    "record",
    [
        Record("step", 3, {"train/loss": 1.5, "epoch": 1, "stage": "head"}),
        Record("epoch", 4, {"mean_eer": 0.25, "is_best": True}, epoch=1),
    ],
)
def test_a_record_comes_back_from_a_file_as_it_was(record):
    assert recorded(record.as_dict()) == record

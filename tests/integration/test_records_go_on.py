"""What a run records, it records once, however often it is cut off."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mrl.models.checkpoint_format import read_checkpoint
from mrl.training.run_folder import NOTHING_YET, Reached, last_recorded, records_until
from mrl.training.sinks import Record, recorded
from mrl.training.updater import Updater
from tests.integration.test_killed import scalars
from tests.integration.test_run import prefer_epoch, records


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


def logged(name: str = "metrics.jsonl") -> list[tuple[int, float]]:
    """Step and loss of each update in a metrics file."""
    lines = map(json.loads, (Path("logs") / name).read_text().splitlines())
    return [(record["step"], record["train/loss"]) for record in lines if record["kind"] == "step"]


def test_an_earlier_run_that_goes_on_has_its_own_records_and_service_run(run, workplace, monkeypatch):
    """It was cut off, another one took its place and ended, and then it was taken up after all."""
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    assert run(logging={**LOGGING, "directory": "alone"}, checkpoints={"directory": "apart"}) == 0
    alone = list(service.runs.values())[-1]
    with monkeypatch.context() as patch:
        crash_at(11, patch)
        with pytest.raises(Crash):
            run(logging=LOGGING)
    assert run(logging=LOGGING, seed=99) == 0
    other = logged()
    assert run("--resume", "checkpoints/earlier_1/last.pt", logging=LOGGING) == 0
    assert logged() == logged("../alone/metrics.jsonl")
    assert logged("metrics.2.jsonl") == other
    _, first, second = service.runs.values()
    assert [entry["step"] for entry in first if "train/loss" in entry] == list(range(1, 17))
    assert [entry["train/loss"] for entry in first if "train/loss" in entry] == [
        entry["train/loss"] for entry in alone if "train/loss" in entry
    ]
    assert [entry["step"] for entry in second if "train/loss" in entry] == list(range(1, 17))


def test_a_course_that_was_left_can_be_taken_up_again(run, workplace, monkeypatch):
    """Back to the end of an epoch with another rate, and then back to where the run had come before.

    Both courses have their best epoch, whose weights differ, at the same place.
    """
    prefer_epoch(2, monkeypatch)
    assert run(logging={"every_steps": 1}) == 0
    before = logged()
    shutil.copytree("checkpoints", "first")
    changed = ["--set", "stages.head.learning_rate.head=0.05", "--allow-config-change"]
    assert run("--resume", "checkpoints/epoch_001.pt", *changed) == 0
    assert logged()[:4] == before[:4]
    assert logged() != before
    assert len(logged()) == 16
    other = logged()
    changed_best = read_checkpoint("checkpoints/best.pt")["encoder"]["head.linear.weight"]
    assert run("--resume", "checkpoints/earlier_1/last.pt") == 0
    assert logged() == before
    best = read_checkpoint("checkpoints/best.pt")
    assert torch.equal(
        best["encoder"]["head.linear.weight"],
        read_checkpoint("first/best.pt")["encoder"]["head.linear.weight"],
    )
    assert not torch.equal(best["encoder"]["head.linear.weight"], changed_best)
    for name in ("last", "stage_warm_start", "stage_head", "stage_full"):
        mine, first = (read_checkpoint(f"{folder}/{name}.pt") for folder in ("checkpoints", "first"))
        for key, value in first["encoder"].items():
            assert torch.equal(mine["encoder"][key], value)
    assert not Path("checkpoints/epoch_003.pt").exists()  # which the other course made
    assert logged("metrics.2.jsonl") == other


def test_the_same_change_is_the_same_course(run, workplace, monkeypatch):
    """Cut off before its first checkpoint, however often, it leaves one set of files of the course before it."""
    assert run(logging=LOGGING) == 0
    changed = ["--set", "stages.head.learning_rate.head=0.05", "--allow-config-change"]
    for _ in range(3):
        with monkeypatch.context() as patch:
            crash_at(2, patch)
            with pytest.raises(Crash):
                run("--resume", "checkpoints/epoch_001.pt", *changed, logging={**LOGGING, "wandb": "off"})
    assert [path.name for path in Path("logs").glob("metrics.*.jsonl")] == ["metrics.1.jsonl"]
    assert sorted(path.name for path in Path("logs/tensorboard").iterdir()) == ["run-1", "run-2"]
    assert [step for step, _ in logged()] == list(range(1, 6))


def test_going_back_on_the_same_course_keeps_what_was_recorded_beyond(run, workplace):
    assert run() == 0
    before = logged()
    assert run("--resume", "checkpoints/epoch_001.pt", "--set", "logging.plots=false") == 0
    assert logged("metrics.1.jsonl") == before
    assert logged() == before


def test_in_another_log_folder_the_service_gets_another_run(run, workplace, monkeypatch, capsys):
    """That folder cannot say what was sent before the run was cut off."""
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    with monkeypatch.context() as patch:
        crash_at(8, patch)
        with pytest.raises(Crash):
            run(logging=LOGGING)
    assert run("--resume", "auto", logging={**LOGGING, "directory": "elsewhere"}) == 0
    assert "elsewhere does not say what Weights & Biases was sent" in capsys.readouterr().out
    first, second = service.runs.values()
    assert [entry["step"] for entry in first if "train/loss" in entry] == list(range(1, 8))
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
    assert [record["step"] for record in records_until(path, 4)] == [3, 4, 4]
    assert [record["step"] for record in records_until(path, 4, 0)] == [3, 4]


@pytest.mark.parametrize(
    "record",
    [
        Record("step", 3, {"train/loss": 1.5, "epoch": 1, "stage": "head"}),
        Record("epoch", 4, {"mean_eer": 0.25, "is_best": True}, epoch=1),
    ],
)
def test_a_record_comes_back_from_a_file_as_it_was(record):
    assert recorded(record.as_dict()) == record

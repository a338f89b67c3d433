"""A run's folder: fresh, resumed, and with every kind of record failing."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mrl.config import LoggingConfig
from mrl.errors import TrainingError
from mrl.training.courses import Resumption
from mrl.training.run_folder import write_records_until
from mrl.training.sinks import MetricsFile, TensorBoardSink
from mrl.training.tracking import Tracker

RUN_CONFIG = {"seed": 42, "stages": [{"name": "head", "epochs": 2}]}


@pytest.fixture
def config(tmp_path: Path) -> LoggingConfig:
    return LoggingConfig(directory=tmp_path / "logs", tensorboard=False)


def records(config: LoggingConfig) -> list[dict[str, Any]]:
    lines = (config.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def steps(config: LoggingConfig) -> list[int]:
    return [record["step"] for record in records(config)]


def log(config: LoggingConfig) -> str:
    return (config.directory / "training.log").read_text(encoding="utf-8")


def run_three_steps(config: LoggingConfig, course: str = "a") -> None:
    with Tracker(config, run_config=RUN_CONFIG, courses=[course]) as tracker:
        tracker.epoch(0, 0, {"eer/vox1-o/64": 0.02, "stage": "pretrained", "is_best": True})
        for step in (10, 20, 30):
            tracker.step(step, {"train/loss": 1.0 / step, "stage": "head", "epoch": 1})


def test_a_run_leaves_log_metrics_and_configuration(
    config: LoggingConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with Tracker(config, run_config=RUN_CONFIG) as tracker:
        tracker.say("one\ntwo")
        tracker.table("scores", ["dim"], [["64"]])
        with tracker.progress("epoch 1", 3) as bar:
            bar.advance(n=3, loss="2.1")
        tracker.step(10, {"train/loss": 2.0, "epoch": 1, "stage": "head"})
        tracker.epoch(1, 10, {"eer/vox1-o/64": 0.02, "is_best": True})
        assert steps(config) == [10, 10], "records must not wait for the close"
        assert tracker.wandb_run_id is None
    assert [record["kind"] for record in records(config)] == ["step", "epoch"]
    assert records(config)[1]["eer/vox1-o/64"] == 0.02
    assert records(config)[1]["epoch"] == 1
    assert yaml.safe_load((config.directory / "config.yaml").read_text()) == RUN_CONFIG
    said = [line[21:] for line in log(config).splitlines()]
    assert said[:5] == ["one", "two", "scores", "dim", "---"]
    assert said[6].startswith("epoch 1: 3/3")
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == said


def test_a_fresh_run_keeps_the_files_of_the_earlier_ones(config: LoggingConfig) -> None:
    for run in range(3):
        with Tracker(config, run_config={"run": run}) as tracker:
            tracker.say(f"this is run {run}")
            tracker.step(run, {})
    names = {path.name for path in config.directory.iterdir()}
    kept = {f"{stem}.{n}.{end}" for stem, end in KEPT for n in (1, 2)}
    assert names == kept | {f"{stem}.{end}" for stem, end in KEPT}
    assert steps(config) == [2]
    assert "this is run 1" in (config.directory / "training.2.log").read_text()
    assert yaml.safe_load((config.directory / "config.1.yaml").read_text()) == {"run": 0}


KEPT = [("metrics", "jsonl"), ("training", "log"), ("config", "yaml"), ("run", "json")]


def test_a_resumed_run_goes_on_where_the_checkpoint_is(config: LoggingConfig) -> None:
    run_three_steps(config)
    with (config.directory / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 20, "train/lo')
    with Tracker(
        config,
        run_config=RUN_CONFIG,
        courses=["a"],
        resumed=Resumption(20, None, left="a", wandb_run_id="kept1"),
    ) as tracker:
        tracker.say("resumed")
        tracker.step(30, {"train/loss": 0.5})
        assert tracker.wandb_run_id == "kept1"
    assert steps(config) == [0, 10, 20, 30]
    assert records(config)[-1]["train/loss"] == 0.5
    assert sorted(path.name for path in config.directory.iterdir()) == [
        "config.yaml",
        "metrics.jsonl",
        "run.json",
        "training.log",
    ]
    assert "resumed" in log(config)


def test_a_resumed_run_with_other_settings_keeps_the_first_ones(config: LoggingConfig) -> None:
    run_three_steps(config)
    Tracker(config, run_config={"seed": 43}, courses=["a"], resumed=Resumption(30, None, left="a")).close()
    assert yaml.safe_load((config.directory / "config.1.yaml").read_text()) == RUN_CONFIG
    assert yaml.safe_load((config.directory / "config.yaml").read_text()) == {"seed": 43}


def test_resuming_without_the_old_files_starts_new_ones(config: LoggingConfig) -> None:
    with Tracker(
        config, run_config=RUN_CONFIG, courses=["a"], resumed=Resumption(5, None, left="a")
    ) as tracker:
        tracker.step(6, {})
    assert steps(config) == [6]


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 50), max_size=12),
    limit=st.integers(-1, 51),
    lost=st.integers(0, 40),
)
def test_what_is_dropped_is_beyond_the_step_or_broken(numbers: list[int], limit: int, lost: int) -> None:
    text = "".join(json.dumps({"kind": "step", "step": step, "note": "é"}) + "\n" for step in numbers)
    data = text.encode()
    data = data[: len(data) - min(lost, len(data))]
    whole = data[: data.rfind(b"\n") + 1].decode().splitlines()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_bytes(data)
        write_records_until(path, path, limit)
        assert path.read_text().splitlines() == [line for line in whole if json.loads(line)["step"] <= limit]
        assert [entry.name for entry in Path(folder).iterdir()] == ["metrics.jsonl"]


def test_a_rewrite_that_fails_leaves_the_metrics_as_they_were(
    config: LoggingConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_three_steps(config)
    before = (config.directory / "metrics.jsonl").read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with Tracker(
        config, run_config=RUN_CONFIG, courses=["a"], resumed=Resumption(10, None, left="a")
    ) as tracker:
        tracker.step(20, {})
    assert (config.directory / "metrics.jsonl").read_bytes() == before
    assert (
        capsys.readouterr().out.count("metrics.jsonl: No space left on device; tried again each minute") == 1
    )


def test_tensorboard_has_a_folder_for_each_run_and_purges_on_resume(tmp_path: Path) -> None:
    config = LoggingConfig(directory=tmp_path)
    run_three_steps(config, "a")
    run_three_steps(config, "b")
    with Tracker(
        config, run_config=RUN_CONFIG, courses=["b"], resumed=Resumption(10, None, left="b")
    ) as tracker:
        tracker.step(20, {"train/loss": 9.0})
    folders = sorted(path.name for path in (tmp_path / "tensorboard").iterdir())
    assert folders == ["run-1", "run-2"]
    events = EventAccumulator(str(tmp_path / "tensorboard" / "run-2"))
    events.Reload()
    loss = {event.step: event.value for event in events.Scalars("train/loss")}
    assert loss == {10: pytest.approx(0.1), 20: 9.0}


@pytest.mark.parametrize("failing", [MetricsFile, TensorBoardSink])
def test_a_sink_that_fails_midway_is_named_once_and_the_others_go_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failing: type[MetricsFile] | type[TensorBoardSink],
) -> None:
    config = LoggingConfig(directory=tmp_path)
    with Tracker(config, run_config=RUN_CONFIG) as tracker:
        tracker.step(1, {"train/loss": 1.0})

        def fail(self: Any, record: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(failing, "write", fail)
        for step in (2, 3, 4):
            tracker.step(step, {"train/loss": 1.0})
        tracker.epoch(1, 4, {})
    assert (
        capsys.readouterr().out.count("No space left on device; tried again each minute, the run goes on")
        == 1
    )
    assert steps(config) == ([1] if failing is MetricsFile else [1, 2, 3, 4, 4])


def test_what_cannot_be_imported_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mrl.training.event_file", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    config = LoggingConfig(directory=tmp_path, wandb="online")
    with Tracker(config, run_config=RUN_CONFIG) as tracker:
        tracker.step(1, {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["TensorBoard", "Weights & Biases"]
    assert all(line.endswith("switched off, the run goes on") for line in lines)
    assert steps(config) == [1]


def test_a_tensorboard_folder_that_is_a_file_costs_tensorboard_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    config = LoggingConfig(directory=tmp_path)
    run_three_steps(config)
    assert steps(config) == [0, 10, 20, 30]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("TensorBoard: ")]
    assert [line.split("; ")[-1] for line in said] == [
        "tried again each minute, the run goes on",
        "TensorBoard: the last 4 records could not be written",
    ]


def test_a_log_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("in the way")
    config = LoggingConfig(directory=tmp_path / "logs", wandb="offline")
    with Tracker(config, run_config=RUN_CONFIG) as tracker:
        tracker.step(1, {})
        tracker.say("training")
        tracker.draw_plots()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "File exists" in lines[0]
    assert lines[1] == "training"


def test_a_configuration_that_yaml_cannot_hold_costs_its_file_only(
    config: LoggingConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with Tracker(config, run_config={"bad": object()}) as tracker:
        tracker.step(1, {})
    assert "config.yaml: " in capsys.readouterr().out
    assert steps(config) == [1]


def test_without_files_only_the_console_speaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = LoggingConfig(directory=tmp_path / "logs", wandb="offline")
    with Tracker(config, run_config=RUN_CONFIG, files=False) as tracker:
        tracker.say("a dry run")
        tracker.step(1, {})
    assert not config.directory.exists()
    assert capsys.readouterr().out == "a dry run\n"


def test_the_log_says_what_ended_the_run(config: LoggingConfig) -> None:
    def run(error: BaseException) -> None:
        with Tracker(config, run_config=RUN_CONFIG, courses=["a"], resumed=Resumption(0, None, left="a")):
            raise error

    for error in (TrainingError("the loss is not finite"), KeyboardInterrupt(), ZeroDivisionError("defect")):
        with pytest.raises(type(error)):
            run(error)
    text = log(config)
    assert "stopped: the loss is not finite" in text
    assert "stopped: KeyboardInterrupt" in text
    assert text.count("Traceback") == 1
    assert "ZeroDivisionError: defect" in text


def test_closing_twice_or_failing_to_close_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Any, *, failed: bool) -> None:
        raise OSError("gone")

    monkeypatch.setattr(MetricsFile, "close", fail)
    tracker = Tracker(LoggingConfig(directory=tmp_path, tensorboard=False), run_config=RUN_CONFIG)
    tracker.close()
    tracker.close()
    tracker.step(1, {})
    tracker.say("after the end")
    assert "metrics.jsonl: gone at its end" in capsys.readouterr().out


def test_plots_are_drawn_beside_the_metrics(config: LoggingConfig) -> None:
    with Tracker(config, run_config=RUN_CONFIG) as tracker:
        tracker.epoch(0, 0, {"eer/vox1-o/64": 0.02, "stage": "pretrained", "is_best": True})
        tracker.step(10, {"train/loss": 1.0, "stage": "head"})
        tracker.draw_plots()
    assert {path.name for path in config.directory.glob("*.png")} == {
        "loss.png",
        "eer.png",
        "eer_by_dimension.png",
    }
    assert "plot: " in log(config)


def test_plots_that_fail_do_not_fail_the_run(
    config: LoggingConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mrl.evaluation.plots", None)
    with Tracker(config, run_config=RUN_CONFIG) as tracker:
        tracker.draw_plots()
    assert "plots: " in capsys.readouterr().out


def test_an_epoch_without_steps_is_dropped_by_its_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"kind": "step", "step": 8},
        {"kind": "epoch", "step": 8, "epoch": 2},
        {"kind": "epoch", "step": 8, "epoch": 3, "average_of": "1, 2"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    write_records_until(path, path, 8, 2)
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == lines[:2]

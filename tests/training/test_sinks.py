"""The metrics file, TensorBoard and Weights & Biases, each for itself."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl.config import LoggingConfig
from mrl.training import wandb_service
from mrl.training.sinks import MetricsFile, Record, TensorBoardSink, WandbSink


def scalars(folder: Path, tag: str) -> dict[int, float]:
    """What TensorBoard itself reads back, by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_metrics_are_valid_json_whatever_the_numbers(tmp_path: Path) -> None:
    sink = MetricsFile(tmp_path / "metrics.jsonl")
    values: dict[str, Any] = {
        "nan": math.nan,
        "up": math.inf,
        "down": -math.inf,
        "numpy": np.float32(0.5),
        "numpy_nan": np.float64("nan"),
        "count": 3,
        "flag": True,
        "stage": "tête \ud800",
    }
    sink.write(Record("step", 7, values))
    # Not closed: what was written must be in the file already.
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    record = json.loads(text, parse_constant=refuse)
    assert text.endswith("\n")
    assert record.pop("time")[:2] == "20"
    assert record.pop("stage").startswith("tête")
    assert record == {
        "kind": "step",
        "step": 7,
        **dict.fromkeys(["nan", "up", "down", "numpy_nan"]),
        "numpy": 0.5,
        "count": 3,
        "flag": True,
    }


def test_an_epoch_record_names_its_epoch() -> None:
    record = Record("epoch", 40, {"eer/vox1-o/64": 0.02}, epoch=2).as_dict()
    assert list(record) == ["kind", "step", "epoch", "time", "eer/vox1-o/64"]
    assert record["epoch"] == 2


def test_tensorboard_forgets_what_comes_after_the_resumed_step(tmp_path: Path) -> None:
    first = TensorBoardSink(tmp_path, purge_step=None)
    for step in (10, 20, 30):
        first.write(Record("step", step, {"train/loss": float(step), "stage": "head", "flag": True}))
    first.close(failed=True)
    assert scalars(tmp_path, "train/loss") == {10: 10.0, 20: 20.0, 30: 30.0}
    assert scalars(tmp_path, "flag")[10] == 1.0

    resumed = TensorBoardSink(tmp_path, purge_step=21)
    resumed.write(Record("epoch", 25, {"train/loss": 0.5}, epoch=1))
    # An epoch is flushed, so it can be read although nothing was closed.
    assert scalars(tmp_path, "train/loss") == {10: 10.0, 20: 20.0, 25: 0.5}
    resumed.close(failed=False)


class FakeRun:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.id, self.url, self.dir = settings["id"] or "fresh1", "https://run.page", "/runs/r/files"
        self.logged: list[dict[str, Any]] = []
        self.exit_code: int | None = None

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeWandb:
    """Stands in for the package; online starts fail where ``broken``."""

    def __init__(self, *, broken: bool) -> None:
        self.broken = broken
        self.calls: list[str] = []
        self.starts: list[dict[str, Any]] = []

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def init(self, **settings: Any) -> FakeRun:
        self.calls.append(settings["mode"])
        self.starts.append(settings)
        if self.broken and settings["mode"] == "online":
            raise RuntimeError("no such host\ntrace")
        return FakeRun(settings)

    def teardown(self) -> None:
        self.calls.append("teardown")


def wandb_config(tmp_path: Path, mode: str) -> LoggingConfig:
    return LoggingConfig.model_validate({"directory": tmp_path, "wandb": mode, "tensorboard": False})


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    return "k" * 40


def test_wandb_goes_online_and_resumes_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    package = FakeWandb(broken=False)
    monkeypatch.setitem(sys.modules, "wandb", package)
    sink = WandbSink(wandb_config(tmp_path, "online"), {"seed": 1}, "run42")
    sink.write(Record("epoch", 9, {"eer/x/64": 0.1, "stage": "head"}, epoch=2))
    sink.close(failed=True)
    assert sink.status == "https://run.page"
    assert package.calls == ["online"]
    start = package.starts[0]
    assert (start["id"], start["resume"], start["config"]) == ("run42", "allow", {"seed": 1})
    assert key not in repr(start)
    assert 0 < start["settings"]["init_timeout"] <= 30
    assert 0 < start["settings"]["finish_timeout"] <= 120
    assert sink._run.logged == [{"eer/x/64": 0.1, "stage": "head", "epoch": 2, "step": 9}]
    assert sink._run.exit_code == 1


def test_without_network_wandb_records_offline_under_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    package = FakeWandb(broken=True)
    monkeypatch.setitem(sys.modules, "wandb", package)
    sink = WandbSink(wandb_config(tmp_path, "online"), {}, "run42")
    assert package.calls == ["online", "teardown", "offline"]
    assert sink.run_id == "run42"
    assert sink.status == "no such host; offline, send it with wandb sync /runs/r"


@pytest.mark.parametrize("missing", [None, ""])
def test_without_key_wandb_does_not_try_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str | None
) -> None:
    package = FakeWandb(broken=True)
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if missing is not None:
        monkeypatch.setenv("WANDB_API_KEY", missing)
    sink = WandbSink(wandb_config(tmp_path, "online"), {}, None)
    assert package.calls == ["offline"]
    assert package.starts[0]["resume"] is None
    assert sink.status.startswith("WANDB_API_KEY is not set")


def test_wandb_really_records_offline_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")  # the configuration decides, not what the shell says
    config = wandb_config(tmp_path, "offline")
    first = WandbSink(config, {"nested": {"dims": [64, 128]}}, None)
    for step in range(3):
        first.write(Record("step", step, {"train/loss": math.nan, "stage": "head"}))
    first.close(failed=False)
    again = WandbSink(config, {}, first.run_id)
    # Steps that the first part has seen already are not refused.
    again.write(Record("step", 1, {"train/loss": 0.25}))
    again.close(failed=False)
    assert again.run_id == first.run_id
    runs = sorted((tmp_path / "wandb").glob(f"offline-run-*-{first.run_id}/run-{first.run_id}.wandb"))
    assert runs
    assert b"train/loss" in runs[0].read_bytes()
    for folder, _, names in os.walk(tmp_path):
        for name in names:
            assert key.encode() not in (Path(folder) / name).read_bytes()


def test_a_wandb_that_hangs_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """At its start, at a record, and at its end."""
    monkeypatch.setattr(wandb_service, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(wandb_service, "INIT_SECONDS", 0.0)
    monkeypatch.setattr(wandb_service, "FINISH_SECONDS", 0.0)
    never = threading.Event()
    package = FakeWandb(broken=False)
    monkeypatch.setitem(sys.modules, "wandb", package)
    started = time.monotonic()
    hanging_record, hanging_end = (WandbSink(wandb_config(tmp_path, "offline"), {}, None) for _ in range(2))
    hanging_record._run.log = lambda values: never.wait()
    hanging_record.write(Record("step", 1, {"a": 1.0}))
    hanging_end._run.finish = lambda exit_code: never.wait()
    for sink in (hanging_record, hanging_end):
        with pytest.raises(TimeoutError, match="no answer"):
            sink.close(failed=False)
    monkeypatch.setattr(package, "init", lambda **_: never.wait())
    with pytest.raises(TimeoutError, match="no answer"):
        WandbSink(wandb_config(tmp_path, "online"), {}, None)
    assert package.calls == ["offline", "offline", "teardown", "teardown", "teardown", "teardown"]
    assert time.monotonic() - started < 20.0  # the limits of use are 20 s and more, each
    never.set()


HUNG = """
import os, signal, sys
from pathlib import Path
from mrl.config import LoggingConfig
from mrl.training import wandb_service
from mrl.training.sinks import Record, WandbSink

sink = WandbSink(LoggingConfig(directory=Path(sys.argv[1]), wandb="offline", tensorboard=False), {}, None)
wandb_service.FINISH_SECONDS = wandb_service.GRACE_SECONDS = 0.5
(service,) = wandb_service._services()
os.kill(service, signal.SIGSTOP)
sink.write(Record("step", 1, {"train/loss": 1.0}))
try:
    sink.close(failed=False)
except TimeoutError:
    print("given up")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to find the service's process in")
def test_a_program_ends_although_the_service_of_wandb_hangs(tmp_path: Path) -> None:
    folder = Path(wandb_service.__file__).parents[2]
    # Not with the service of this process, which the environment names.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    command = [sys.executable, "-c", HUNG, str(tmp_path)]
    run = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "given up\n"), run.stderr

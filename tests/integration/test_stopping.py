"""A run that is asked to end saves, says how to go on, and goes on as if nothing had been."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrl import stopping
from mrl.models.checkpoint_format import read_checkpoint
from mrl.training import feature_extraction, feature_store
from mrl.training.checkpoint import CheckpointFolder
from tests.integration.conftest import CONFIG
from tests.integration.lives import same_checkpoints
from tests.integration.test_run import numbers
from tests.terminal import OnTerminal, on_terminal

ROOT = Path(__file__).parents[2]
ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]
LIKE_OTHERS = [signal.SIGUSR2, signal.SIGXCPU]  # tests/test_stopping.py sends each of them
STEP = "mrl.training.updater:Updater.update"


def send(monkeypatch: pytest.MonkeyPatch, target: str, call: int, *numbers: int) -> None:
    """Signals to this process before the ``call``-th call of ``target``, ``module:name`` or ``module:Class.name``."""
    module, _, name = target.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, attribute = name.split(".")
    for part in classes:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, attribute)
    calls = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            for number in numbers:
                os.kill(os.getpid(), number)
        return function(*arguments, **options)

    monkeypatch.setattr(owner, attribute, counted)


def whole_stages() -> list[dict[str, Any]]:
    """Two stages that train the backbone too, so that each epoch is embedded anew."""
    rates = {"backbone": 1e-3, "head": 1e-3, "classifier": 1e-3}
    return [
        {**stage, "train": ["backbone", "head"], "learning_rate": dict(rates), "epochs": epochs}
        for stage, epochs in zip(CONFIG["stages"], (2, 1), strict=True)
    ]


@pytest.mark.parametrize(
    "number", [pytest.param(each, marks=pytest.mark.slow) if each in LIKE_OTHERS else each for each in ALL]
)
def test_a_signal_in_a_step_saves_it_and_ends(run, workplace, monkeypatch, capsys, number):
    with monkeypatch.context() as patch:
        send(patch, STEP, 6, number)
        assert run("--set", "seed=6") == 128 + number
    said = capsys.readouterr().err.strip()
    state = read_checkpoint("checkpoints/last.pt")["state"]
    assert (state["epoch"], state["epoch_step"], state["step"]) == (1, 2, 6)
    assert said == (
        f"stopped by {number.name}; saved: 1 epoch and 2 steps, in checkpoints/last.pt; go on with: uv run python "
        "train.py --config run.yaml --set seed=6 --resume auto"
    )
    log = (workplace / "logs/training.log").read_text(encoding="utf-8").splitlines()
    assert "saved: 1 epoch and 2 steps, in checkpoints/last.pt; it goes on with --resume auto" in log[-1]
    words = shlex.split(said.partition("go on with: ")[2])
    assert words[-2:] == ["--resume", "auto"]
    assert run(*words[words.index("--set") :]) == 0
    assert "resumed from checkpoints/last.pt: 1 epoch and 2 steps done" in capsys.readouterr().out
    resumed, interrupted = workplace / "resumed", numbers(workplace / "logs")
    shutil.move(workplace / "checkpoints", resumed)
    assert run("--set", "seed=6") == 0
    same_checkpoints(workplace / "checkpoints", resumed)
    assert numbers(workplace / "logs") == interrupted


@pytest.mark.parametrize(
    ("target", "call", "place"),
    [
        ("mrl.training.validation:pool_utterances", 2, (0, 4)),  # the epoch is trained, and is scored again
        ("mrl.training.validation:pool_utterances", 3, (1, 4)),
        ("mrl.training.trainer:Trainer._record", 2, (1, 1)),  # it is counted, and a step follows
        ("mrl.training.checkpoint:torch.save", 2, (0, 1)),  # the warm start is kept, and a step follows
        ("mrl.training.run_checkpoints:RunCheckpoints.keep_stage", 2, (2, 1)),
    ],
)
def test_a_signal_at_any_other_moment_loses_nothing(run, workplace, monkeypatch, target, call, place):
    stages = whole_stages()
    with monkeypatch.context() as patch:
        send(patch, target, call, signal.SIGTERM)
        assert run(stages=stages) == 128 + signal.SIGTERM
    state = read_checkpoint("checkpoints/last.pt")["state"]
    assert (state["epoch"], state["epoch_step"]) == place
    assert run("--resume", "auto", stages=stages) == 0
    resumed = workplace / "resumed"
    shutil.move(workplace / "checkpoints", resumed)
    assert run(stages=stages) == 0
    same_checkpoints(workplace / "checkpoints", resumed)


def test_before_anything_is_trained_a_signal_ends_at_once(run, workplace, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        send(patch, "mrl.training.run:warm_start", 1, signal.SIGTERM)
        assert run() == 128 + signal.SIGTERM
    assert "nothing is saved yet: start again" in capsys.readouterr().err
    assert not (workplace / "checkpoints/last.pt").exists()
    assert run("--resume", "auto") == 0
    assert "no checkpoint to go on from yet, the run begins" in capsys.readouterr().out


def test_a_cache_goes_on_after_the_block_where_it_was_stopped(run, monkeypatch, capsys):
    monkeypatch.setattr(feature_store, "BLOCK_ROWS", 8)
    monkeypatch.setattr(feature_extraction, "BATCH", 4)
    stages = [{**CONFIG["stages"][0], "cache_views": 2}]
    with monkeypatch.context() as patch:
        send(patch, "mrl.training.feature_store:FeatureStore.write", 3, signal.SIGTERM)
        assert run(stages=stages) == 128 + signal.SIGTERM
    assert "saved: 0 epochs, in" in capsys.readouterr().err
    assert run("--resume", "auto", stages=stages) == 0
    assert "24 of 64 crops are there from an earlier start" in capsys.readouterr().out


def test_a_second_signal_ends_at_once_and_saves_no_half_step(run, workplace, monkeypatch, capsys):
    monkeypatch.setattr(stopping, "_SAME_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        send(patch, "torch.optim:AdamW.step", 6, signal.SIGINT, signal.SIGINT)
        assert run() == 128 + signal.SIGINT
    assert "saved: 1 epoch, in checkpoints/last.pt" in capsys.readouterr().err
    state = read_checkpoint("checkpoints/last.pt")["state"]
    assert (state["epoch"], state["epoch_step"]) == (1, 0)
    assert run("--resume", "auto") == 0
    resumed = workplace / "resumed"
    shutil.move(workplace / "checkpoints", resumed)
    assert run() == 0
    same_checkpoints(workplace / "checkpoints", resumed)


def test_a_request_that_comes_twice_is_one_request(run, monkeypatch):
    """A launcher passes on to the program what the whole group was sent."""
    with monkeypatch.context() as patch:
        send(patch, STEP, 6, signal.SIGTERM, signal.SIGTERM)
        assert run() == 128 + signal.SIGTERM
    state = read_checkpoint("checkpoints/last.pt")["state"]
    assert (state["epoch"], state["epoch_step"]) == (1, 2)


def test_a_second_signal_while_the_first_is_answered_says_what_was_saved_before(run, monkeypatch, capsys):
    monkeypatch.setattr(stopping, "_SAME_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        send(patch, STEP, 6, signal.SIGTERM)
        send(patch, "mrl.training.checkpoint:CheckpointFolder.save_within", 1, signal.SIGTERM)
        assert run() == 128 + signal.SIGTERM
    assert "saved: 1 epoch, in checkpoints/last.pt; go on with" in capsys.readouterr().err


def test_a_signal_after_the_last_epoch_says_that_it_is_saved(run, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        send(patch, "mrl.training.run:write_summary", 1, signal.SIGTERM)
        assert run() == 128 + signal.SIGTERM
    assert "saved: 4 epochs, in checkpoints/last.pt; go on with" in capsys.readouterr().err
    assert run("--resume", "auto") == 0


def test_a_signal_before_a_resumed_run_trains_says_from_where_it_goes_on(run, monkeypatch, capsys):
    """With the words of its own command: what was allowed is allowed again."""
    assert run() == 0
    again = ["--resume", "checkpoints/epoch_001.pt", "--allow-config-change", "--set", "seed=6"]
    with monkeypatch.context() as patch:
        send(patch, "mrl.training.inputs:assemble", 1, signal.SIGTERM)
        assert run(*again) == 128 + signal.SIGTERM
    said = capsys.readouterr().err.strip()
    assert "saved: 1 epoch, in checkpoints/epoch_001.pt; go on with" in said
    assert said.endswith("--allow-config-change --set seed=6 --resume checkpoints/epoch_001.pt")


def test_a_full_disk_while_it_ends_is_said(run, monkeypatch, capsys):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        send(patch, STEP, 2, signal.SIGTERM)
        patch.setattr(CheckpointFolder, "save_within", full)
        assert run() == 128 + signal.SIGTERM
    captured = capsys.readouterr()
    assert "No space left" in captured.out
    assert "saved: 0 epochs, in checkpoints/last.pt" in captured.err


def test_the_handlers_from_before_are_back_after_a_run(run):
    before = [signal.getsignal(number) for number in ALL]
    assert run(stages=[]) == 0
    assert [signal.getsignal(number) for number in ALL] == before


def train_on_terminal(workplace: Path, epochs: int, *before: str) -> AbstractContextManager[OnTerminal]:
    """train.py on a terminal, ``before`` in front of its command: one stage of so many epochs, with a data worker."""
    content = {**CONFIG, "stages": [{**CONFIG["stages"][0], "epochs": epochs}]}
    content["data"] = {**CONFIG["data"], "workers": 1}
    (workplace / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    command = [*before, sys.executable, str(ROOT / "train.py"), "--config", "run.yaml"]
    return on_terminal(command, workplace, {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


def trains(workplace: Path) -> bool:
    return '"step": 10,' in read(workplace / "logs/metrics.jsonl")


@pytest.mark.skipif(sys.platform != "linux", reason="closes a terminal as Linux does")
def test_a_closed_terminal_saves_the_step_and_ends(workplace):
    with train_on_terminal(workplace, 2000) as started:
        started.wait_until(lambda: trains(workplace), 150)
        started.close()
        assert started.process.wait(120) == 128 + signal.SIGHUP
    log = read(workplace / "logs/training.log")
    assert "Traceback" not in log
    assert "stopped by SIGHUP; saved: " in log.splitlines()[-1]
    assert log.endswith(" in checkpoints/last.pt; it goes on with --resume auto\n")
    state = read_checkpoint(workplace / "checkpoints/last.pt")["state"]
    steps = [record["step"] for record in numbers(workplace / "logs") if record["kind"] == "step"]
    assert state["step"] == steps[-1] >= 10


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="closes a terminal as Linux does")
@pytest.mark.parametrize("before", [["nohup"], ["sh", "-c", 'trap \'\' HUP; exec "$0" "$@"']])
def test_under_nohup_a_closed_terminal_changes_nothing(workplace, before):
    """Nor where the output still goes to the terminal, whose end is an error of each write."""
    with train_on_terminal(workplace, 1000, *before) as started:
        started.wait_until(lambda: trains(workplace), 150)
        started.close()
        closed_at = len(numbers(workplace / "logs"))
        started.wait_until(lambda: len(numbers(workplace / "logs")) > closed_at + 10, 150)
        started.process.terminate()
        assert started.process.wait(150) == 128 + signal.SIGTERM
    log = read(workplace / "logs/training.log")
    assert "Traceback" not in log
    assert ("console: [Errno 5] Input/output error; switched off" in log) == (before != ["nohup"])


def test_a_job_that_the_queue_starts_again_gets_to_its_end(workplace):
    """scripts/slurm.sh with a Slurm of two lines: told that its time is up, it saves, is queued again, and ends."""
    tools = workplace / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text('#!/bin/sh\necho "$@" >> requeued.txt\n')
    (tools / "scontrol").chmod(0o755)
    content = {**CONFIG, "stages": [{**CONFIG["stages"][0], "epochs": 60}]}
    (workplace / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (workplace / "train.py").symlink_to(ROOT / "train.py")
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "LAUNCHER": sys.executable,
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": "4711",
    }
    command = ["bash", str(ROOT / "scripts/slurm.sh"), "--config", "run.yaml"]
    with (workplace / "said.txt").open("w") as said:
        job = subprocess.Popen(command, cwd=workplace, env=environment, stdout=said, stderr=said)
        deadline = time.monotonic() + 120
        while '"kind": "step"' not in read(workplace / "logs/metrics.jsonl"):
            assert job.poll() is None, read(workplace / "said.txt")
            assert time.monotonic() < deadline
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(60) == 128 + signal.SIGTERM
    assert read(workplace / "requeued.txt") == "requeue 4711\n"
    assert "--resume auto" in read(workplace / "said.txt")
    content["stages"][0]["epochs"] = read_checkpoint(workplace / "checkpoints/last.pt")["state"]["epoch"] + 1
    (workplace / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    again = subprocess.run([*command, "--allow-config-change"], cwd=workplace, env=environment, check=False,
                           capture_output=True, text=True, timeout=120)  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "resumed from checkpoints/last.pt" in again.stdout
    assert read(workplace / "requeued.txt") == "requeue 4711\n"


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""

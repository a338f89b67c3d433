"""When one of several processes dies, the others end soon, and the run goes on with as many as there are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mrl.models.checkpoint_format import read_checkpoint
from tests.integration.test_several_processes import ROOT, configuration, launch, records, stage

SOON = 60  # seconds; it takes about two, on a machine that does nothing else
BROKEN_RANK = """
import os, sys
import train
from mrl.data.loading import CropDataset
from mrl.errors import DataError

read = CropDataset.__getitem__

def broken(self, key):
    if os.environ["RANK"] == "1" and key[0] == 2:
        raise DataError("speech/x.wav: cannot be read, on this machine alone")
    return read(self, key)

CropDataset.__getitem__ = broken
sys.exit(train.main())
"""


def start(config: dict, workplace: Path, program: Path) -> subprocess.Popen:
    plain = json.loads(json.dumps(config, default=str))
    (workplace / "run.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen(
        [*torchrun, str(program), "--config", "run.yaml"],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_ten_steps(together: subprocess.Popen, workplace: Path) -> None:
    metrics = workplace / "logs/metrics.jsonl"
    deadline = time.monotonic() + 150
    while not (metrics.exists() and '"step": 10,' in metrics.read_text()):
        assert together.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def rank_of(process: int) -> str | None:
    """RANK of one of our processes; None for any other."""
    try:
        environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return None
    ranks = [entry.partition(b"=")[2].decode() for entry in environment if entry.startswith(b"RANK=")]
    return ranks[0] if ranks and b"train.py" in command else None


def child_of_rank(torchrun: int, rank: str) -> int:
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    return next(int(child) for child in children if rank_of(int(child)) == rank)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes through /proc")
@pytest.mark.parametrize(("killed", "processes"), [("1", 1), pytest.param("0", 2, marks=pytest.mark.slow)])
def test_the_other_process_ends_and_the_run_goes_on(workplace, killed, processes):
    config = configuration(stage(0), stage(1, epochs=40))
    config["checkpoints"] |= {"every_minutes": 1e-9, "every_epochs": 100}
    together = start(config, workplace, ROOT / "train.py")
    wait_for_ten_steps(together, workplace)
    began = time.monotonic()
    os.kill(child_of_rank(together.pid, killed), signal.SIGKILL)
    said, _ = together.communicate(timeout=SOON)
    assert time.monotonic() - began < SOON
    assert together.returncode != 0
    if killed == "1":
        assert "Traceback" not in (workplace / "logs/training.log").read_text(), said
    state = read_checkpoint("checkpoints/last.pt")["state"]
    assert state["step"] >= 9
    config["stages"][1]["epochs"] = max(2, state["stage_epoch"] + 1)
    resumed = launch(config, workplace, processes, "--resume", "auto", "--allow-config-change")
    assert resumed.returncode == 0, resumed.stderr
    steps = [record["step"] for record in records("step")]
    assert steps == list(range(1, len(steps) + 1))
    assert steps[-1] == read_checkpoint("checkpoints/last.pt")["state"]["step"]


def test_bad_data_in_one_process_ends_all_of_them(workplace):
    program = workplace / "broken_rank.py"
    program.write_text(BROKEN_RANK, encoding="utf-8")
    together = start(configuration(stage(0), stage(1)), workplace, program)
    said, _ = together.communicate(timeout=150)
    assert together.returncode != 0
    assert "error: speech/x.wav: cannot be read, on this machine alone" in said
    assert "error: another process of the run has ended" in said
    assert read_checkpoint("checkpoints/last.pt")["state"]["epoch"] == 1
    assert "Traceback" not in (workplace / "logs/training.log").read_text()


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step(workplace):
    config = configuration(stage(0), stage(1, epochs=40))
    together = start(config, workplace, ROOT / "train.py")
    wait_for_ten_steps(together, workplace)
    os.kill(child_of_rank(together.pid, "1"), signal.SIGTERM)
    said, _ = together.communicate(timeout=SOON)
    assert "stopped by SIGTERM; saved:" in said
    assert "torchrun --nproc-per-node=2 train.py --config run.yaml --resume auto" in said
    assert (
        "error: another process" not in said
    )  # both left after the same update, not one for want of the other
    state = read_checkpoint("checkpoints/last.pt")["state"]
    assert records("step")[-1]["step"] == state["step"] >= 10


VALIDATION_STOPPED = """
import os, signal, sys
import train
from mrl.training import validation

pool, calls = validation.pool_utterances, 0

def stopped(*arguments, **options):
    global calls
    calls += 1
    if os.environ["RANK"] == "1" and calls == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return pool(*arguments, **options)

validation.pool_utterances = stopped
sys.exit(train.main())
"""


def test_a_signal_to_one_process_in_validation_keeps_the_epoch(workplace):
    """Of stage two, since the head alone needs no new embeddings."""
    program = workplace / "stopped.py"
    program.write_text(VALIDATION_STOPPED, encoding="utf-8")
    together = start(configuration(stage(1), stage(0)), workplace, program)
    said, _ = together.communicate(timeout=150)
    assert "stopped by SIGTERM; saved: 1 epoch and 3 steps" in said, said
    assert "error: another process" not in said
    state = read_checkpoint("checkpoints/last.pt")["state"]
    assert (state["epoch"], state["epoch_step"]) == (1, 3)

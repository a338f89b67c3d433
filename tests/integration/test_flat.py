"""Long runs take no more memory, and no more open files, than short ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from mrl.config import LoggingConfig
from mrl.training.device_memory import measure, reset_peak
from mrl.training.tracking import Tracker
from tests.integration.conftest import CONFIG

CPU = torch.device("cpu")
GROWTH = 1.02


class Use(NamedTuple):
    """What a run holds at the end of an epoch. ``memory`` is that of all its processes, in bytes."""

    step: int
    memory: int
    files: int


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def own_memory(pid: str) -> int:
    """What a process does not share with others, bytes."""
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(1024 * int(words[1]) for words in lines if words[0] in {"Private_Clean:", "Private_Dirty:"})


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> list[Use]:
    """Filled in at the end of each epoch."""
    seen: list[Use] = []
    record = Tracker.epoch

    def watched(self: Tracker, epoch: int, step: int, values: Any) -> None:
        record(self, epoch, step, values)
        reset_peak(CPU)  # what is free, and merely not given back yet, is no leak
        memory = measure(CPU).held + sum(map(own_memory, children()))
        seen.append(Use(step, memory, len(os.listdir("/proc/self/fd"))))

    monkeypatch.setattr(Tracker, "epoch", watched)
    return seen


def require_flat(uses: list[Use], early: int) -> None:
    """Neither memory nor files at the end are beyond those of the epoch ``early``."""
    first, last = uses[early], uses[-1]
    assert last.memory <= GROWTH * first.memory, [use.memory >> 20 for use in uses]
    assert last.files <= GROWTH * first.files, [use.files for use in uses]


def one_stage(epochs: int, batch_size: int, **changes: Any) -> list[dict[str, Any]]:
    stage = {**CONFIG["stages"][1], "epochs": epochs, "batch_size": batch_size, **changes}
    return [{**stage, "warmup_epochs": 0, "margin_warmup_epochs": 0}]


KEPT = {"every_epochs": 5, "keep_last": 2}
EVERYTHING = {"tensorboard": True, "gradient_flow_every_steps": 10}


def test_a_run_of_a_few_epochs_is_flat(run: Callable[..., int], uses: list[Use]) -> None:
    data = {"train": "speech/train", "workers": 1, "held_out_share": 0.25}
    assert (
        run(stages=one_stage(10, 8, crop_seconds=0.2), data=data, logging=EVERYTHING, checkpoints=KEPT) == 0
    )
    require_flat(uses, 5)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_two_thousand_steps_and_fifty_epochs_are_flat(
    run: Callable[..., int], uses: list[Use], workers: int
) -> None:
    data = {"train": "speech/train", "workers": workers, "held_out_share": 0.25}
    stages = one_stage(100, 1, crop_seconds=0.3, accumulate_steps=1)
    assert run(stages=stages, data=data, logging=EVERYTHING, checkpoints=KEPT) == 0
    assert len(uses) > 50
    assert uses[-1].step >= 2000
    require_flat(uses, 10)


def test_the_watch_can_fail(uses: list[Use], tmp_path: Path) -> None:
    """Without a run: epochs that keep 32 MiB each, then epochs that keep a file each."""
    watched = Tracker(LoggingConfig(directory=tmp_path, tensorboard=False), run_config={}, silent=True)
    kept: list[object] = []
    size = max(2**25, measure(CPU).held // 20)  # this process may be large from other tests
    for number in range(3):
        watched.epoch(number, number, {})
        kept.append(bytearray(b"x" * size))
    with pytest.raises(AssertionError):
        require_flat(uses, 1)
    kept.clear()
    uses.clear()
    for number in range(3):
        watched.epoch(number, number, {})
        kept.append((tmp_path / str(number)).open("w"))
    with pytest.raises(AssertionError):
        require_flat(uses, 1)
    kept.clear()
    for number in range(2):
        watched.epoch(number, number, {})
    require_flat(uses, -2)

"""Killed anywhere, again and again, a run ends with the weights, optimizer and numbers of one that was left alone."""

from __future__ import annotations

import copy
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrl.models.checkpoint_format import read_checkpoint
from tests.integration.conftest import CONFIG
from tests.integration.lives import Death, live, same_checkpoints
from tests.integration.test_run import numbers

AUTO = ["--config", "run.yaml", "--resume", "auto"]
EVERY_STEP = 1e-9
SAVED = "mrl.training.checkpoint:torch.save"
STEP = "mrl.training.updater:Updater.update"
SCORED = "mrl.training.validation:score_list"
DEATHS = {
    "in the warm start": Death("mrl.training.warm_start:make_loader", 1),
    "in the scores of epoch 0": Death(SCORED, 1),
    "before the first checkpoint is there": Death(SAVED, 1, half=True),
    "while the cache is built": Death("mrl.training.feature_store:FeatureStore.write", 2),
    "after a block of the cache": Death("mrl.training.feature_store:FeatureStore.write", 3, after=True),
    "in a step of the first stage": Death(STEP, 2),
    "after a step, before it is saved": Death(STEP, 1, after=True),
    "while a checkpoint is written": Death(SAVED, 2, half=True),
    "between a checkpoint and its name": Death("mrl.atomic:os.fsync", 3),
    "between last.pt and best.pt": Death("mrl.training.checkpoint:CheckpointFolder.give_names", 1),
    "in the middle of its names": Death("mrl.training.checkpoint:link_file", 2),
    "before a metric is on the disk": Death("mrl.line_file:LineFile.write", 25),
    "in validation": Death(SCORED, 1),
    "after validation, before it is saved": Death(SCORED, 1, after=True),
    "between two stages": Death("mrl.training.trainer:Trainer._keep_stage", 1),
    "in a step of the second stage": Death(STEP, 1),
    "when the run is taken up again": Death("mrl.training.taking_up:_file_of_best", 1),
    "at the last checkpoint": Death("mrl.training.run_checkpoints:RunCheckpoints.require_best_file", 1),
}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The small run, its first stage from a cache of a few blocks."""
    content = copy.deepcopy(CONFIG)
    content["stages"][0]["cache_views"] = 2
    content["logging"]["tensorboard"] = True
    content["checkpoints"]["every_minutes"] = EVERY_STEP
    return content


@pytest.fixture(scope="module")
def untouched(material: Path, config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was left alone, and saved at the end of epochs only."""
    folder = tmp_path_factory.mktemp("untouched")
    shutil.copytree(material, folder, dirs_exist_ok=True)
    write(folder, config, every_minutes=None)
    assert live(folder, AUTO) == 0
    return folder


def write(folder: Path, config: dict[str, Any], *, every_minutes: float | None, workers: int = 0) -> None:
    content = copy.deepcopy(config)
    content["checkpoints"]["every_minutes"] = every_minutes
    content["data"]["workers"] = workers
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def require_the_same(first: Path, second: Path) -> None:
    same_checkpoints(first / "checkpoints", second / "checkpoints")
    assert numbers(first / "logs") == numbers(second / "logs")
    assert scalars(first / "logs/tensorboard") == scalars(second / "logs/tensorboard")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of the last run: the steps and values of each tag, times and speeds aside."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    newest = max(folder.iterdir(), key=lambda path: int(path.name.removeprefix("run-")))
    events = EventAccumulator(str(newest), size_guidance={"scalars": 0})
    events.Reload()
    timed = {"train/utterances_per_second", "train/data_wait_share", "evaluation_seconds"}
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag not in timed
    }


def test_a_run_survives_a_death_at_each_place(workplace, config, untouched):
    """One run that dies at one place after the other, with and without workers, saving at each step or not."""
    write(workplace, config, every_minutes=EVERY_STEP)
    died = 0
    for number, (place, death) in enumerate(DEATHS.items()):
        write(
            workplace,
            config,
            every_minutes=(EVERY_STEP, None)[number % 5 == 4],
            workers=2 * (number % 4 == 3),
        )
        code = live(workplace, AUTO, death)
        assert code == -signal.SIGKILL, f"{place}: ended with {code}"
        died += 1
    assert live(workplace, AUTO) == 0
    require_the_same(untouched, workplace)
    assert died == len(DEATHS)
    assert not list((workplace / "checkpoints").glob(".*.tmp*"))


@pytest.mark.slow
def test_a_stage_that_ended_early_is_not_begun_again(workplace, config, tmp_path_factory):
    """Killed when it is over, and in the stage after it, which begins from the best all the same."""
    config = copy.deepcopy(config)
    for stage in config["stages"]:
        stage |= {"epochs": 3, "early_stopping_patience": 1}
    untouched = tmp_path_factory.mktemp("ended_early")
    shutil.copytree(workplace, untouched, dirs_exist_ok=True)
    write(untouched, config, every_minutes=None)
    assert live(untouched, AUTO) == 0
    assert "it ends early" in (untouched / "said.txt").read_text()
    for place in ("between a checkpoint and its name", "in a step of the second stage"):
        write(workplace, config, every_minutes=None)
        assert live(workplace, AUTO, DEATHS[place]) == -signal.SIGKILL
    write(workplace, config, every_minutes=EVERY_STEP)
    assert live(workplace, AUTO, Death("mrl.training.trainer:Trainer._keep_stage", 2)) == -signal.SIGKILL
    assert live(workplace, AUTO, Death(STEP, 3)) == -signal.SIGKILL
    assert live(workplace, AUTO) == 0
    require_the_same(untouched, workplace)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_run_survives_25_deaths_at_random_moments(workplace, config, untouched, seed):
    chance = random.Random(seed)
    died = 0
    while died < 25:
        every = chance.choice((EVERY_STEP, EVERY_STEP, 0.002, None))
        write(workplace, config, every_minutes=every, workers=chance.choice((0, 0, 2)))
        code = live(workplace, AUTO, kill_after=chance.uniform(0.3, 3.0))
        if code == 0:  # it got to its end: from the start once more
            require_the_same(untouched, workplace)
            shutil.rmtree(workplace / "checkpoints")
            shutil.rmtree(workplace / "logs")
            continue
        assert code == -signal.SIGKILL
        died += 1
    assert live(workplace, AUTO) == 0
    require_the_same(untouched, workplace)


def test_resuming_a_finished_run_changes_nothing(workplace, config, untouched):
    shutil.copytree(untouched, workplace, dirs_exist_ok=True)
    assert live(workplace, AUTO) == 0
    require_the_same(untouched, workplace)


def test_a_checkpoint_within_an_epoch_carries_the_best_weights(workplace, config):
    """Epoch 0 is the best so far, and last.pt no longer has its weights."""
    write(workplace, config, every_minutes=EVERY_STEP)
    assert live(workplace, AUTO, Death(STEP, 2)) == -signal.SIGKILL
    last = read_checkpoint(workplace / "checkpoints/last.pt")
    assert (last["state"]["epoch"], last["state"]["epoch_step"], last["best"]["epoch"]) == (0, 1, 0)
    assert last["best"]["weights"] is not None

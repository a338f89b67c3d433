"""Runs that meet the end of memory, and runs that look for it first."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from mrl.models.checkpoint_format import read_checkpoint
from mrl.training import batch_search, validation
from mrl.training.device_memory import Memory
from mrl.training.step_module import StepModule
from tests.integration.conftest import CONFIG


@pytest.fixture
def fails_above(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``fails_above(crops)``: a step on more waveforms at a time runs out of memory."""
    forward = StepModule.forward

    def fail_above(limit: int) -> None:
        def limited(self, batch, *arguments):
            if batch.inputs.ndim == 2 and len(batch.inputs) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return forward(self, batch, *arguments)

        monkeypatch.setattr(StepModule, "forward", limited)

    return fail_above


def test_a_run_without_memory_says_what_fits_and_goes_on_with_it(run, workplace, fails_above, capsys):
    """The first stage computes 8 crops at a time, the second one 4."""
    fails_above(4)
    assert run() == 2
    message = capsys.readouterr().err
    assert "error: out of memory in training, head epoch 1/2: " in message
    assert "8 crops of 0.6 s were computed together (batch_size 8, accumulate_steps 1, 1 process)" in message
    assert "set stages.head.accumulate_steps to 2" in message
    assert message.count("\n") == 1
    stages = copy.deepcopy(CONFIG["stages"])
    stages[0]["accumulate_steps"] = 2
    assert run("--resume", "auto", "--allow-config-change", stages=stages) == 0
    assert read_checkpoint(workplace / "checkpoints/last.pt")["state"]["epoch"] == 4


def test_a_dry_run_names_the_stage_that_memory_is_too_short_for(run, monkeypatch, capsys):
    """In this configuration the second stage, which trains the backbone, keeps far more than the first."""
    assert run("--dry-run") == 0
    plan = capsys.readouterr().out
    assert "GiB at least" not in plan
    needs = [int(line.split()[-2].replace(",", "")) for line in plan.splitlines() if line.endswith(" MiB")]
    between = sum(needs) // 2 * 2**20
    monkeypatch.setattr("mrl.training.plan.measure", lambda _: Memory(between, 0, 0))
    assert run("--dry-run") == 0
    plan = capsys.readouterr().out
    assert "stage full needs " in plan
    assert "stage head needs " not in plan
    assert "--find-batch-size measures how many crops fit" in plan


def test_memory_that_ends_while_scoring_names_the_key(run, monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(validation, "pool_utterances", fail)
    assert run() == 2
    message = capsys.readouterr().err
    assert "out of memory while scoring epoch 0" in message
    assert "validation.max_utterance_seconds" in message


def found(output: str) -> dict[str, list[str]]:
    lines = output[output.index("what fits") :].splitlines()
    return {words[0]: words for line in lines if (words := line.split()) and words[0] in {"head", "full"}}


def test_the_batch_that_fits_is_found(run, workplace, fails_above, capsys):
    fails_above(5)
    assert run("--find-batch-size") == 0
    rows = found(capsys.readouterr().out)
    assert rows["head"] == ["head", "0.6", "s", "8", "5", rows["head"][5], "GiB", "accumulate_steps:", "2"]
    assert rows["full"][3:5] == ["8", "5"]
    assert not (workplace / "checkpoints").exists()
    assert not (workplace / "logs").exists()


def test_a_batch_that_must_stay_whole_is_made_smaller(run, fails_above, capsys):
    fails_above(5)
    stages = [{**CONFIG["stages"][1], "accumulate_steps": 1, "norm_statistics": "batch"}]
    assert run("--find-batch-size", stages=stages) == 0
    assert found(capsys.readouterr().out)["full"][-2:] == ["batch_size:", "4"]  # an even number


def test_a_cached_stage_and_pairs_are_tried_too(run, capsys):
    cached = {**CONFIG["stages"][0], "cache_views": 2}
    assert run("--find-batch-size", stages=[cached]) == 0
    assert found(capsys.readouterr().out)["head"][1:4] == ["cached", "8", "8"]
    rates = {"backbone": 1e-3, "head": 1e-3}
    pairs = {
        **CONFIG["stages"][1],
        "accumulate_steps": 1,
        "utterances_per_speaker": 2,
        "learning_rate": rates,
    }
    narrow = [{"dim": 8}, {"dim": 24}]
    assert run("--find-batch-size", stages=[pairs], prefixes=narrow, loss={"type": "triplet"}) == 0
    assert found(capsys.readouterr().out)["full"][-2:] == ["batch_size:", "8"]


def test_where_not_even_one_crop_fits_the_search_says_so(run, fails_above, capsys):
    fails_above(0)
    assert run("--find-batch-size") == 2
    captured = capsys.readouterr()
    assert "stage head, full: not even one crop trains in memory" in captured.err
    assert found(captured.out)["head"][-2:] == ["nothing", "fits"]


def test_on_a_cpu_the_search_stops_before_memory_does(run, monkeypatch, capsys):
    """What would take more than there is, is not even tried."""
    tried: list[int] = []
    held, mebi = 1000 * 2**20, 2**20

    def small(_: torch.device) -> Memory:
        """A crop takes a mebibyte, and there is room for five."""
        return Memory(held + 5 * mebi, held, held + mebi * (tried[-1] if tried else 0))

    update = batch_search._update

    def counted(config, plan, encoder, criterion, batch, parts):
        tried.append(len(batch.inputs) // parts)
        update(config, plan, encoder, criterion, batch, parts)

    monkeypatch.setattr(batch_search, "_update", counted)
    monkeypatch.setattr(batch_search, "MARGIN", 0.0)
    monkeypatch.setattr(batch_search, "measure", small)
    assert run("--find-batch-size") == 0
    assert max(tried) == 5
    assert found(capsys.readouterr().out)["head"][4] == "5"


def test_the_search_goes_neither_with_resume_nor_with_several_processes(run, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run("--find-batch-size", "--resume", "auto")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("--find-batch-size") == 2
    assert "--find-batch-size works in one process" in capsys.readouterr().err

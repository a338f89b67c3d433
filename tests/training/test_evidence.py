"""The listing of batches that went wrong is bounded, and a folder that cannot be written to ends nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mrl.loss import Targets
from mrl.processes import Processes
from mrl.training import evidence
from mrl.training.evidence import Evidence
from mrl.training.finite_weights import WeightsError, require_finite
from mrl.training.run_state import RunState
from mrl.training.step_module import StepBatch
from mrl.training.step_values import NonFiniteError


class Corpus:
    def relative_path(self, utterance: int) -> str:
        return f"s/{utterance}.wav"


BATCH = StepBatch(
    torch.zeros(2, 3), Targets(torch.tensor([0, 1])), None, torch.tensor([7, 4]), ["s/4.wav: gone"]
)


def made(folder: Path) -> tuple[Evidence, list[str]]:
    said: list[str] = []
    return Evidence(Corpus(), folder, Processes(), said.append), said  # type: ignore[arg-type]


def test_the_listing_ends_where_it_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "MOST_LISTED", 2)
    kept, said = made(tmp_path)
    for step in range(3):
        kept.remember(step, BATCH)
        kept.skipped(step, "the loss is nan")
    lines = (tmp_path / "non_finite.txt").read_text().splitlines()
    assert lines == [
        *("# step 1, skipped: the loss is nan", "s/7.wav", "s/4.wav"),
        *("# step 2, skipped: the loss is nan", "s/7.wav", "s/4.wav"),
    ]
    assert "are listed in" in said[1]
    assert "are not listed" in said[2]


def test_only_the_last_batches_are_remembered(tmp_path):
    kept, _ = made(tmp_path)
    for step in range(5):
        kept.remember(step, BATCH)
    assert kept.heard(4).replaced == ["s/4.wav: gone"]
    with pytest.raises(StopIteration):
        kept.heard(1)


def test_a_folder_that_is_none_costs_the_evidence_and_no_more(tmp_path):
    (tmp_path / "logs").write_text("a file")
    kept, said = made(tmp_path / "logs")
    kept.remember(3, BATCH)
    kept.skipped(3, "the loss is nan")
    assert "could not be listed" in said[0]

    def full(path, extra):
        raise OSError("no space left")

    state = RunState(step=4, epoch_step=2)
    error = kept.of_update(NonFiniteError("the loss is nan", 3), state, {}, full)
    assert "step 4: the loss is nan; the weights were not changed" in str(error)
    assert "the state could not be saved (no space left)" in str(error)
    assert (state.step, state.epoch_step) == (3, 1)


def test_weights_that_are_not_finite_are_refused_by_name():
    weights = {"encoder": {"a": torch.ones(2)}, "criterion": {"b": torch.tensor([1.0, float("inf")])}}
    with pytest.raises(WeightsError, match=r"in b \(1 of 2 numbers\)"):
        require_finite(weights)
    require_finite({"encoder": weights["encoder"]})

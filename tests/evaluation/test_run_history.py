"""Records read back: merged, sorted, cut into stages."""

from __future__ import annotations

from pathlib import Path

from mrl.evaluation.run_history import runs_of_stages
from tests.evaluation.recorded_run import DIMS, RUN, epoch, flow, held_out, history, step


def test_a_repeated_step_or_epoch_counts_as_it_stands_last(tmp_path: Path) -> None:
    read = history(tmp_path, [step(20, "head", 1.0), step(10, "head", 2.0), step(20, "head", 3.0), *RUN[:1]])
    assert [(record["step"], record["train/loss"]) for record in read.steps] == [(10, 2.0), (20, 3.0)]


def test_the_records_of_a_step_are_one(tmp_path: Path) -> None:
    """In either order, as a step's gradients are a record of their own; and what stands twice counts last."""
    read = history(
        tmp_path,
        [step(10, "head", 2.0), flow(10, "head", head=0.5), flow(20, "head", head=0.25), step(20, "head", 1.0),
         flow(20, "head", head=None)],
    )  # fmt: skip
    values = [(record["train/loss"], record["gradient/head"]) for record in read.steps]
    assert values == [(2.0, 0.5), (1.0, None)]
    assert len(read.steps) == 2


def test_epochs_are_not_merged(tmp_path: Path) -> None:
    """An epoch that a resumed run repeats replaces the first."""
    read = history(tmp_path, [epoch(1, "head", 0.01, average_of="1, 2"), epoch(1, "head", 0.02)])
    assert "average_of" not in read.epochs[0]


def test_lists_and_dims_are_read_from_the_names(tmp_path: Path) -> None:
    entry = epoch(0, "pretrained", 0.01, **{"eer/far.field-2/64": 0.1, "min_dcf_0.01/x/512": 0.2})
    read = history(tmp_path, [entry])
    assert read.lists == ["vox1-o", "far.field-2"]
    assert read.dims == list(DIMS)


def test_blocks_stand_from_input_to_output_whichever_comes_first(tmp_path: Path) -> None:
    blocks = ["stem", "stage0", "stage2", "stage10", "pooling", "head", "classifier"]
    first = flow(1, "head", head=1.0, classifier=1.0)
    assert history(tmp_path, [first]).blocks == ["head", "classifier"]
    read = history(tmp_path, [first, flow(2, "full", **dict.fromkeys(sorted(blocks), 1.0))])
    assert read.blocks == blocks


def test_held_out_dims_are_those_with_a_loss(tmp_path: Path) -> None:
    assert history(tmp_path, [held_out(0, "pretrained", 1.0)]).held_out_dims == [64, 256]
    assert history(tmp_path, RUN).held_out_dims == []


def test_stages_are_cut_where_they_change() -> None:
    entries = [{"stage": stage} for stage in "aabba"]
    assert [len(run) for run in runs_of_stages(entries)] == [2, 2, 1]
    assert runs_of_stages([]) == []

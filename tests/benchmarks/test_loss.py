"""The benchmark of the loss: the two contenders agree, and the table is whole."""

import pytest
import torch

from benchmarks import loss, timing
from benchmarks.loss import Problem


def test_plain_and_ours_agree_in_loss_and_gradients():
    problem = Problem(20, 40, (4, 8, 12), "cpu")
    results = []
    for contender in (problem.plain, problem.ours):
        total = contender()
        results.append([total, problem.embeddings.grad, problem.classifier.class_vectors.grad])
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


def run_here(function, *arguments):
    """In place of a fresh process, which takes seconds to begin."""
    assert function(*arguments)().isfinite()
    return 1000


def check(table):
    assert [row[0] for row in table.rows] == ["16 x 300", "32 x 300", "16 x 3,000"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert len(table.claims) == 4
    assert all(claim.value > 0 for claim in table.claims)


def test_a_quick_run_fills_the_table(monkeypatch):
    monkeypatch.setattr(timing, "peak_bytes", run_here)
    check(loss.run(quick=True)[0])


@pytest.mark.slow
def test_a_quick_run_measures_peaks_in_fresh_processes():
    check(loss.run(quick=True)[0])


def test_a_cell_that_memory_cannot_hold_says_so(monkeypatch):
    monkeypatch.setattr(timing, "peak_bytes", run_here)
    monkeypatch.setattr(loss, "_free_bytes", lambda device: 0)
    monkeypatch.setattr(loss, "_compare", lambda size, device: (3.0, 1000, 50, ["compared"] * 7))
    table = loss._table("cpu", quick=True)
    assert table.rows[0] == ["compared"] * 7
    assert table.rows[1][1].startswith("left out: needs ")
    assert len(table.claims) == 2


@pytest.mark.parametrize("contender", ["plain", "ours"])
def test_the_step_whose_peak_is_measured_leaves_gradients(contender):
    assert loss.prepare(contender, 4, 10, "cpu")().isfinite()

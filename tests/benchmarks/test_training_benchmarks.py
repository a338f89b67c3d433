"""The benchmarks of training run, in small."""

import pytest

from benchmarks import feature_cache, training_step


@pytest.mark.parametrize("benchmark", [feature_cache, training_step], ids=["feature_cache", "training_step"])
def test_it_runs(benchmark):
    tables = benchmark.run(quick=True)
    assert tables
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)

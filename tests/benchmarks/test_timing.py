"""The harness of the benchmarks: who runs when, what memory counts, what a table says."""

import pytest

from benchmarks.table import Claim, Table
from benchmarks.timing import Timing, alternate, peak_bytes, ratio


def test_contenders_take_turns_and_each_is_first_in_some_round():
    order = []
    timings = alternate(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warm_ups=1
    )
    assert order == ["a", "b", "a", "b", "b", "a"]
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 2, "b": 2}


def test_ratio_is_the_median_of_the_rounds_quotients():
    assert ratio(Timing((2.0, 8.0, 3.0)), Timing((1.0, 1.0, 1.0))) == 3.0


def allocate(megabytes):
    def work():
        return bytearray(b"1" * (megabytes << 20))

    return work


def test_peak_counts_what_the_work_takes():
    assert peak_bytes(allocate, 200) > 190 << 20
    assert peak_bytes(allocate, 1) < 50 << 20


@pytest.mark.parametrize(
    ("value", "at_most", "holds"), [(2.0, False, True), (1.9, False, False), (1.9, True, True)]
)
def test_claim_is_held_to_its_bound(value, at_most, holds):
    claim = Claim("times as fast", value, 2.0, at_most)
    assert claim.holds == holds
    assert ("MISSED" in str(claim)) != holds


def test_table_becomes_markdown_with_its_command():
    table = Table(
        "Loss", "python -m benchmarks.loss", ["a", "b"], [["1", "x|y"]], [Claim("ratio", 3, 2)], "Why."
    )
    assert table.markdown() == (
        "## Loss\n\n`python -m benchmarks.loss`\n\n| a | b |\n| --- | --- |\n| 1 | x\\|y |\n\n"
        "- ratio: 3, promised at least 2\n\nWhy.\n"
    )

"""A run that is resumed over another corpus than it began with."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.models.checkpoint_format import read_checkpoint
from tests.integration.conftest import CONFIG
from tests.integration.test_records_go_on import Crash, crash_at, logged

STAGE = [{**CONFIG["stages"][0], "batch_size": 4}]


@pytest.fixture
def cut_off(run, monkeypatch):
    """A run that ended after step 6 of an epoch of 8, of 32 utterances."""
    begin_and_crash(run, monkeypatch)


def begin_and_crash(run, monkeypatch, **changes) -> None:
    with monkeypatch.context() as patch:
        crash_at(7, patch)
        with pytest.raises(Crash):
            run(stages=STAGE, checkpoints={"every_minutes": 1e-6}, **changes)


def utterances(workplace) -> list:
    return sorted((workplace / "speech/train").rglob("*.wav"))


def test_files_that_are_gone_are_counted_and_the_run_goes_on_if_that_is_allowed(
    run, workplace, cut_off, capsys
):
    for path in utterances(workplace)[:2]:
        path.unlink()
    capsys.readouterr()
    assert run("--resume", "auto", stages=STAGE) == 2
    message = capsys.readouterr().err
    assert "data.train holds other files than those that the run had (30 utterances, 32 before)" in message
    assert "--allow-config-change" in message
    assert run("--resume", "auto", "--allow-config-change", stages=STAGE) == 0
    assert "data.train holds other files" in capsys.readouterr().out
    assert read_checkpoint("checkpoints/last.pt")["state"]["epoch"] == 2
    assert read_checkpoint("checkpoints/last.pt")["num_utterances"] == 30
    steps = [step for step, _ in logged()]
    assert steps == list(range(1, len(steps) + 1))
    assert run("--resume", "auto", stages=STAGE) == 0  # these are the run's files now


def test_bad_files_that_are_taken_out_no_longer_count(run, workplace, monkeypatch):
    bad, *_ = utterances(workplace)
    bad.write_bytes(b"damaged")
    data = {"max_unreadable_share": 0.5}
    begin_and_crash(run, monkeypatch, data=data)
    (named,) = read_checkpoint("checkpoints/last.pt")["state"]["unreadable"]
    assert Path(named) == bad.relative_to(workplace)
    bad.unlink()
    assert run("--resume", "auto", "--allow-config-change", stages=STAGE, data=data) == 0
    assert read_checkpoint("checkpoints/last.pt")["state"]["unreadable"] == {}


def test_holding_utterances_out_later_is_a_change_that_can_be_allowed(run, cut_off, capsys):
    capsys.readouterr()
    data = {"held_out_share": 0.3}
    assert run("--resume", "auto", stages=STAGE, data=data) == 2
    assert "data.held_out_share: the run has 0.0, the configuration 0.3" in capsys.readouterr().err
    assert run("--resume", "auto", "--allow-config-change", stages=STAGE, data=data) == 0
    assert read_checkpoint("checkpoints/last.pt")["state"]["epoch"] == 2


def test_other_speakers_are_refused_whatever_is_allowed(run, workplace, cut_off, capsys):
    for path in utterances(workplace):
        if "demo0002" in path.parts:
            path.unlink()
    assert run("--resume", "auto", "--allow-config-change", stages=STAGE) == 2
    assert "its class vectors are of 8 speakers" in capsys.readouterr().err

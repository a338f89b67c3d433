"""The data of a run: what is held out of what, what is refused, what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mrl.config import Config
from mrl.data.assemble import assemble, configured_lists
from mrl.data.overlap import shared_speakers
from mrl.errors import DataError


def speech(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / file, np.full(160, 0.1, dtype=np.float32), 16_000)


def people(*names: str, sessions: int = 2, utterances: int = 2) -> list[str]:
    return [f"{name}/s{s}/{u}.wav" for name in names for s in range(sessions) for u in range(utterances)]


def config_of(data: dict[str, Any], *lists: dict[str, Any], **sections: Any) -> Config:
    return Config.model_validate(
        {
            "model": {"pretrained": "released.pt"},
            "prefixes": [{"dim": 8, "weight": 1.0}],
            "data": data,
            "validation": {"lists": lists},
            "stages": [],
            **sections,
        }
    )


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said; the working directory is a fresh one."""
    monkeypatch.chdir(tmp_path)
    return []


MADE = {"name": "made", "hold_out_speakers": 2}
TWO = [{"path": "one", "name": "x", "weight": 1.0}, {"path": "deep/two", "name": "y", "weight": 3.0}]


def test_speakers_are_held_out_of_all_corpora_and_found_again(lines: list[str]) -> None:
    speech(Path("one"), *people("a", "b", "c"))
    speech(Path("deep/two"), *people("a", "b", "d"))
    speech(Path("deep/two"), *people("e", "f"))
    config = config_of({"train": TWO}, MADE, {"name": "ys", "hold_out_speakers": 2, "hold_out_from": "y"})
    data = assemble(config, lines.append)
    made, ys = data.validation
    assert made.root == ys.root == Path.cwd()
    assert len(data.train.speakers) == 4
    assert all(path.startswith("deep/two/") for path in ys.utterances)
    assert all((made.root / path).is_file() for path in made.utterances)
    assert not shared_speakers(data.train, made)
    fingerprints = {trials.name: trials.fingerprint() for trials in data.validation}
    again = configured_lists(config, fingerprints)
    assert [trials.utterances for trials in again] == [made.utterances, ys.utterances]
    assert any("  y: " in line and "weight 3" in line for line in lines)


def test_more_speakers_than_a_corpus_has_cannot_be_held_out_of_it(lines: list[str]) -> None:
    speech(Path("one"), *people("a", "b", "c"))
    speech(Path("deep/two"), *people("d"))
    entry = {"name": "ys", "hold_out_speakers": 2, "hold_out_from": "y"}
    with pytest.raises(
        DataError, match=r"of the 4 speakers of data.train 1 of y have two utterances or more"
    ):
        assemble(config_of({"train": TWO}, entry), lines.append)


def test_a_training_speaker_in_a_list_that_starts_above_the_corpus_is_an_error(lines: list[str]) -> None:
    speech(Path("deep/two"), *people("a", "b", "c"))
    speech(Path("deep/test"), *people("d"))
    Path("list.txt").write_text(
        "1 test/d/s0/0.wav test/d/s1/0.wav\n0 test/d/s0/0.wav two/c/s0/0.wav\n", encoding="utf-8"
    )
    entry = {"name": "given", "root": "deep", "trials": "list.txt"}
    with pytest.raises(DataError, match=r"1 speakers are in data.train \(deep/two\) .* given \(c\)"):
        assemble(config_of({"train": "deep/two"}, entry), lines.append)


def test_for_diagnosis_validation_speakers_stay_and_it_is_said(lines: list[str]) -> None:
    speech(Path("one"), *people("a", "b", "c", "d"))
    honest = assemble(config_of({"train": "one"}, MADE), lines.append)
    assert not honest.diagnostic
    assert not any("DIAGNOSIS" in line for line in lines)
    data = assemble(config_of({"train": "one", "include_validation_speakers": True}, MADE), lines.append)
    assert data.diagnostic
    assert data.train.speakers == ("a", "b", "c", "d")
    assert data.validation[0].fingerprint() == honest.validation[0].fingerprint()
    assert any(line.startswith("DIAGNOSIS ONLY") and "2 of 2 speakers of made" in line for line in lines)


def test_a_diagnosis_of_speakers_that_are_not_there_is_an_error(lines: list[str]) -> None:
    speech(Path("one"), *people("a", "b"))
    speech(Path("other"), *people("c", "d"))
    config = config_of(
        {"train": "one", "include_validation_speakers": True}, {"name": "given", "root": "other"}
    )
    with pytest.raises(DataError, match=r"include_validation_speakers: no speaker .* does nothing"):
        assemble(config, lines.append)


def test_held_out_utterances_have_the_numbers_of_training(lines: list[str]) -> None:
    speech(Path("one"), *people("a", "b", "c", "d"))
    data = assemble(config_of({"train": "one", "held_out_share": 0.5}, MADE), lines.append)
    assert data.held_out is not None
    assert data.held_out.speakers == data.train.speakers
    assert data.held_out.speaker_ids.tolist() == data.train.speaker_ids.tolist() == [0, 0, 1, 1]
    assert "held out: 4 more utterances of 2 of these speakers" in lines


def test_a_made_list_within_one_session_is_said_to_be_optimistic(lines: list[str]) -> None:
    speech(Path("one"), *people("a", "b"))
    speech(Path("flat"), "c/1.wav", "c/2.wav", "d/s/1.wav", "d/t/2.wav", "e/1.wav")
    assemble(config_of({"train": "one"}, {"name": "flat", "root": "flat"}), lines.append)
    (line,) = [line for line in lines if "optimistic" in line]
    assert "validation flat: 1 of 2 speakers with target trials have one session" in line


def test_unreadable_audio_of_a_list_is_found_before_the_run(lines: list[str]) -> None:
    speech(Path("one"), *people("a", "b"))
    speech(Path("other"), *people("c", "d"))
    Path("other/c/s0/0.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 8 audio files .*\n *other/c/s0/0\.wav: empty"):
        assemble(config_of({"train": "one"}, {"name": "given", "root": "other"}), lines.append)
    assert not Path("logs").exists()


def test_a_stage_whose_batches_cannot_be_made_is_an_error_at_once(lines: list[str]) -> None:
    speech(Path("one"), *people("a", "b"))
    speech(Path("other"), *people("c", "d"))
    stage = {
        "name": "full", "train": ["head"], "epochs": 1, "batch_size": 8, "utterances_per_speaker": 2,
        "learning_rate": {"head": 1e-3, "classifier": 1e-3},
    }  # fmt: skip
    config = config_of({"train": "one"}, {"name": "given", "root": "other"}, stages=[stage])
    with pytest.raises(DataError, match=r"stages\.full: a batch of 8 .* needs 4 speakers, data\.train has 2"):
        assemble(config, lines.append)

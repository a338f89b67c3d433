"""The training corpus of a checkpoint's configuration is that of its run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from mrl.config import Config
from mrl.data.assemble import assemble
from mrl.data.training_corpus import ScanReport, training_corpus


def speech(root: Path, speakers: int) -> None:
    for name in (f"{speaker}/s{session}/1.wav" for speaker in range(speakers) for session in range(2)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, np.full(160, 0.1, dtype=np.float32), 16_000)


def config_of(train: object, *lists: dict[str, object]) -> Config:
    return Config.model_validate(
        {
            "model": {"pretrained": "released.pt"},
            "prefixes": [{"dim": 8, "weight": 1.0}],
            "data": {"train": train},
            "validation": {"lists": lists},
            "stages": [],
        }
    )


@pytest.mark.parametrize("several", [False, True])
def test_it_is_without_the_speakers_that_the_run_holds_out(tmp_path, monkeypatch, several):
    monkeypatch.chdir(tmp_path)
    speech(Path("one"), 7)
    speech(Path("two"), 5)
    config = config_of(
        [{"path": "one"}, {"path": "two"}] if several else "one",
        {"name": "first", "hold_out_speakers": 2},
        {"name": "second", "hold_out_speakers": 2},
    )
    lines: list[str] = []
    corpus = training_corpus(config, lines.append)
    assert corpus.fingerprint() == assemble(config, lines.append).train.fingerprint()
    assert len(corpus.speakers) == (8 if several else 3)


def test_a_long_scan_says_how_far_it_is():
    times = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    lines: list[str] = []
    report = ScanReport(Path("speech"), lines.append, clock=lambda: next(times))
    for found in (1000, 2000, 10, 9000):
        report(found)
    assert lines == [
        "scanning speech: 3,000 utterances so far, 500/s",
        "scanning speech: 12,010 utterances so far, 1,001/s",
    ]

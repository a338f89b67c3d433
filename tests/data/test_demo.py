"""Demo corpora: the same bytes from any number of workers, and complete or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mrl.config import Config
from mrl.data import demo
from mrl.data.demo import MARKER, DemoPlan, demo_plans, is_complete, prepare_demo, write_demo_corpus
from mrl.errors import DataError

PLAN = DemoPlan(2, 2, 2, seed=5, shortest_seconds=0.5, longest_seconds=0.8)


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def wavs(root: Path) -> dict[str, str]:
    return {name: digest for name, digest in digests(root).items() if name.endswith(".wav")}


def forbid_synthesis(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> np.ndarray:
        raise AssertionError("synthesised although the corpus is complete")

    monkeypatch.setattr(demo, "synthesise", refuse)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "demo"
    write_demo_corpus(root, PLAN)
    return root


def test_layout_and_format(corpus: Path) -> None:
    assert set(wavs(corpus)) == {
        f"demo000{speaker}/session0{session}/00{utterance}.wav"
        for speaker in range(2)
        for session in range(2)
        for utterance in range(2)
    }
    for path in corpus.rglob("*.wav"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert 0.5 <= info.duration <= 0.8
        assert 0.005 < np.abs(soundfile.read(path)[0]).max() < 0.95


def test_bytes_do_not_depend_on_workers(corpus: Path, tmp_path: Path) -> None:
    write_demo_corpus(tmp_path / "one", PLAN, workers=1)
    write_demo_corpus(tmp_path / "many", PLAN, workers=5)
    assert digests(corpus) == digests(tmp_path / "one") == digests(tmp_path / "many")


def test_an_utterance_does_not_depend_on_the_rest_of_the_plan(corpus: Path, tmp_path: Path) -> None:
    write_demo_corpus(tmp_path / "more", replace(PLAN, speakers=3, sessions_per_speaker=3, first_speaker=1))
    more, common = wavs(tmp_path / "more"), {name for name in wavs(corpus) if name.startswith("demo0001")}
    assert len(common) == 4
    assert {name: more[name] for name in common} == {name: wavs(corpus)[name] for name in common}


def test_another_seed_is_another_population(corpus: Path, tmp_path: Path) -> None:
    write_demo_corpus(tmp_path / "other", replace(PLAN, seed=6))
    assert not set(wavs(corpus).values()) & set(wavs(tmp_path / "other").values())


def test_all_utterances_differ(corpus: Path) -> None:
    assert len(set(wavs(corpus).values())) == PLAN.num_utterances


def test_no_two_utterances_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken: list[tuple[object, ...]] = []

    def record(voice: object, session: object, seconds: float, *keys: object) -> np.ndarray:
        spoken.append(keys)
        return np.zeros(round(seconds * 16_000), dtype=np.float32)

    monkeypatch.setattr(demo, "synthesise", record)
    write_demo_corpus(tmp_path / "demo", PLAN)
    assert len(spoken) == len(set(spoken)) == PLAN.num_utterances


def test_complete_corpus_is_left_alone(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_synthesis(monkeypatch)
    write_demo_corpus(corpus, PLAN)


def test_other_plan_replaces_the_corpus(corpus: Path) -> None:
    write_demo_corpus(corpus, replace(PLAN, speakers=1, first_speaker=7))
    assert {name.split("/")[0] for name in wavs(corpus)} == {"demo0007"}
    assert [path.name for path in corpus.parent.iterdir()] == ["demo"]


def test_other_generator_version_replaces_the_corpus(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "GENERATOR_VERSION", demo.GENERATOR_VERSION + 1)
    assert not is_complete(corpus, PLAN)
    write_demo_corpus(corpus, PLAN)
    assert is_complete(corpus, PLAN)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [Path.unlink, truncate, lambda path: path.write_bytes(b"")])
def test_damaged_corpus_is_rebuilt(corpus: Path, damage: Callable[[Path], None]) -> None:
    before = digests(corpus)
    damage(corpus / "demo0001/session01/001.wav")
    assert not is_complete(corpus, PLAN)
    write_demo_corpus(corpus, PLAN)
    assert digests(corpus) == before


@pytest.mark.parametrize("marker", ["", "[]", "{", '{"plan": 3}'])
def test_unreadable_marker_means_incomplete(corpus: Path, marker: str) -> None:
    before = digests(corpus)
    (corpus / MARKER).write_text(marker)
    write_demo_corpus(corpus, PLAN)
    assert digests(corpus) == before


def interrupted(count: int) -> None:
    raise KeyboardInterrupt


def test_interrupted_write_leaves_nothing_and_is_made_up_for(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    with pytest.raises(KeyboardInterrupt):
        write_demo_corpus(root, PLAN, progress=interrupted)
    assert list(tmp_path.iterdir()) == []
    write_demo_corpus(root, PLAN)
    assert is_complete(root, PLAN)


def test_interrupted_replacement_keeps_the_old_corpus(corpus: Path) -> None:
    before = digests(corpus)
    with pytest.raises(KeyboardInterrupt):
        write_demo_corpus(corpus, replace(PLAN, seed=9), progress=interrupted)
    assert digests(corpus) == before
    assert [path.name for path in corpus.parent.iterdir()] == ["demo"]


def test_full_disk_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, waveform: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "_write_wav", fail)
    with pytest.raises(DataError, match=r"demo: the demo speakers cannot be written .*No space left"):
        write_demo_corpus(tmp_path / "demo", PLAN)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_grows_is_not(tmp_path: Path) -> None:
    abandoned, growing = tmp_path / ".demo.building-old", tmp_path / ".demo.building-new"
    for folder in (abandoned, growing):
        folder.mkdir()
        (folder / "part.wav").write_bytes(b"x")
    os.utime(abandoned, (time.time() - 7200, time.time() - 7200))
    write_demo_corpus(tmp_path / "demo", PLAN)
    assert not abandoned.exists()
    assert growing.exists()


def test_own_recordings_are_never_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "mine" / "speaker" / "a.wav"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"precious")
    with pytest.raises(DataError, match=rf"mine exists and is no demo corpus .*{MARKER}"):
        write_demo_corpus(tmp_path / "mine", PLAN)
    assert precious.read_bytes() == b"precious"


def test_empty_folder_and_missing_parents_are_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "a" / "b"):
        write_demo_corpus(root, PLAN)
        assert is_complete(root, PLAN)
        assert root.stat().st_mode & 0o777 == 0o755


def test_progress_counts_each_utterance_once(tmp_path: Path) -> None:
    counts: list[int] = []
    write_demo_corpus(tmp_path / "demo", PLAN, progress=counts.append)
    assert sum(counts) == PLAN.num_utterances == 8


@pytest.mark.parametrize(
    "mistake",
    [
        {"speakers": 0},
        {"utterances_per_session": 0},
        {"first_speaker": -1},
        {"shortest_seconds": 0.1},
        {"longest_seconds": 0.4},
    ],
)
def test_impossible_plans_are_refused(mistake: dict[str, float]) -> None:
    with pytest.raises(DataError, match="demo: "):
        replace(PLAN, **mistake)


class Recorder:
    def __init__(self) -> None:
        self.titles: list[str] = []
        self.done = 0

    def advance(self, n: int = 1) -> None:
        self.done += n

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Recorder]:
        self.titles.append(f"{description} {total}")
        yield self


def demo_config(directory: Path) -> Config:
    return Config.model_validate(
        {
            "model": {"pretrained": "weights.pt"},
            "prefixes": [{"dim": 8}],
            "data": {"train": str(directory / "train")},
            "validation": {"lists": [{"name": "demo", "root": str(directory / "validation")}]},
            "stages": [],
            "demo": {
                "directory": str(directory),
                "train_speakers": 2,
                "validation_speakers": 2,
                "sessions": 1,
                "utterances_per_session": 1,
            },
        }
    )


def test_prepare_demo_makes_both_corpora_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reporter, config = Recorder(), demo_config(tmp_path)
    prepare_demo(config, reporter)
    assert reporter.done == 4
    speakers = {path.name for path in tmp_path.glob("*/*") if path.is_dir()}
    assert speakers == {"demo0000", "demo0001", "demo5000", "demo5001"}
    forbid_synthesis(monkeypatch)
    prepare_demo(config, reporter)
    assert len(reporter.titles) == 2


def test_validation_speakers_do_not_depend_on_the_number_of_training_speakers(tmp_path: Path) -> None:
    section = demo_config(tmp_path).demo
    assert section is not None
    larger = section.model_copy(update={"train_speakers": 5000})
    assert demo_plans(larger)[tmp_path / "validation"] == demo_plans(section)[tmp_path / "validation"]
    train, validation = demo_plans(larger).values()
    assert train.first_speaker + train.speakers <= validation.first_speaker


def test_marker_says_what_the_corpus_is(corpus: Path) -> None:
    marker = json.loads((corpus / MARKER).read_text())
    assert marker["generator"] == demo.GENERATOR_VERSION
    assert marker["plan"]["seed"] == 5
    assert marker["utterances"] == 8
    assert marker["bytes"] == sum(path.stat().st_size for path in corpus.rglob("*.wav"))

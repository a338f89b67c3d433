"""Corpora of invented speakers, with which a whole run can be shown without downloads."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mrl.audio import SAMPLE_RATE
from mrl.config import Config, DemoConfig
from mrl.data.synthesis import synthesise
from mrl.data.voices import recording_session, speaker_voice
from mrl.errors import DataError
from mrl.randomness import numpy_generator

GENERATOR_VERSION = 1
"""Raise it with any change to the sound of the demo speakers: corpora of other versions are made anew."""

MARKER = "demo.json"
"""Stands in the folder of a complete corpus and says what it is."""

POPULATION = 1
"""Seed of the voices and rooms of a demo run. Weights to start it from must come from another population."""

_FIRST_VALIDATION_SPEAKER = 5000  # as many training speakers as the configuration allows come before
_ABANDONED_SECONDS = 3600.0


@dataclass(frozen=True)
class DemoPlan:
    """Which utterances a demo corpus holds. Equal plans give equal files, byte for byte, on one machine."""

    speakers: int
    sessions_per_speaker: int
    utterances_per_session: int
    seed: int
    """Chooses the population of voices and rooms."""
    first_speaker: int = 0
    """Speakers ``first_speaker`` to ``first_speaker + speakers - 1`` of that population."""
    shortest_seconds: float = 2.5
    longest_seconds: float = 5.0

    def __post_init__(self) -> None:
        counts = (self.speakers, self.sessions_per_speaker, self.utterances_per_session)
        if min(counts) < 1 or self.first_speaker < 0:
            raise DataError(f"demo: speakers, sessions and utterances must be at least 1, not {counts}")
        if not 0.5 <= self.shortest_seconds <= self.longest_seconds:
            limits = (self.shortest_seconds, self.longest_seconds)
            raise DataError(f"demo: utterances must last 0.5 s or more, the shortest first, not {limits}")

    @property
    def num_utterances(self) -> int:
        return self.speakers * self.sessions_per_speaker * self.utterances_per_session


class Bar(Protocol):
    """Where `prepare_demo` says how far it is."""

    def advance(self, n: int = 1) -> None: ...


class Reporter(Protocol):
    def progress(self, description: str, total: int) -> AbstractContextManager[Bar]: ...


def prepare_demo(config: Config, reporter: Reporter) -> None:
    """Synthesise those corpora of the ``demo`` section that the run reads and that are not there yet.

    Raises DataError as `write_demo_corpus` does.
    """
    if config.demo is None:
        return
    read = {
        *(corpus.path for corpus in config.data.train),
        *(entry.root for entry in config.validation.lists),
    }
    for folder, plan in demo_plans(config.demo).items():
        if folder in read and not is_complete(folder, plan):
            with reporter.progress(f"inventing speakers in {folder}", plan.num_utterances) as bar:
                write_demo_corpus(folder, plan, progress=bar.advance)


def demo_plans(demo: DemoConfig) -> dict[Path, DemoPlan]:
    """The corpora of the ``demo`` section by their folders.

    They do not depend on the seed of the run, nor the validation speakers on the number of training speakers.
    """
    train = DemoPlan(demo.train_speakers, demo.sessions, demo.utterances_per_session, seed=POPULATION)
    validation = replace(train, speakers=demo.validation_speakers, first_speaker=_FIRST_VALIDATION_SPEAKER)
    return {demo.directory / "train": train, demo.directory / "validation": validation}


def write_demo_corpus(
    root: Path, plan: DemoPlan, *, workers: int = 2, progress: Callable[[int], None] | None = None
) -> None:
    """Make ``root`` the corpus of ``plan``: ``<root>/<speaker>/<session>/<utterance>.wav``, 16 bit, 16 kHz.

    A complete corpus of the same plan and generator is left as it is; another or a damaged demo corpus is
    replaced. ``root`` appears only when it is complete, so an interruption leaves nothing half done.

    Args:
        root: folder of the corpus; made with its parents.
        plan: what it holds.
        workers: threads that synthesise; they change nothing but the time.
        progress: called with the number of utterances written since the last call.

    Raises:
        DataError: ``root`` holds something else than a demo corpus, or cannot be written.
    """
    root = root.resolve()
    if is_complete(root, plan):
        return
    if root.exists() and not (root / MARKER).is_file() and not _is_empty_folder(root):
        raise DataError(
            f"{root} exists and is no demo corpus (it has no {MARKER}); remove it or name another"
        )
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        building = Path(tempfile.mkdtemp(prefix=_building_prefix(root), dir=root.parent))
        try:
            _write_all(building, plan, workers, progress)
            _put_in_place(building, root, plan)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{root}: the demo speakers cannot be written ({error}); see to disk and rights"
        ) from error


def is_complete(root: Path, plan: DemoPlan) -> bool:
    """Whether ``root`` is the corpus of ``plan``, made by this generator, every file at its full size."""
    try:
        marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(marker == _marker(root, plan))


def speaker_name(speaker_index: int) -> str:
    """``demo0007`` for speaker 7."""
    return f"demo{speaker_index:04d}"


def _sessions(plan: DemoPlan) -> Iterator[tuple[int, int]]:
    for speaker_index in range(plan.first_speaker, plan.first_speaker + plan.speakers):
        for session_index in range(plan.sessions_per_speaker):
            yield speaker_index, session_index


def _utterance_path(root: Path, speaker_index: int, session_index: int, utterance_index: int) -> Path:
    session = f"session{session_index:02d}"
    return root / speaker_name(speaker_index) / session / f"{utterance_index:03d}.wav"


def _write_all(root: Path, plan: DemoPlan, workers: int, progress: Callable[[int], None] | None) -> None:
    def write_session(place: tuple[int, int]) -> None:
        _write_session(root, plan, *place)

    # Threads, since NumPy and SciPy release the interpreter for the work that counts.
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        try:
            for _ in pool.map(write_session, _sessions(plan)):
                if progress is not None:
                    progress(plan.utterances_per_session)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    (root / MARKER).write_text(json.dumps(_marker(root, plan), indent=2) + "\n", encoding="utf-8")


def _write_session(root: Path, plan: DemoPlan, speaker_index: int, session_index: int) -> None:
    voice = speaker_voice(plan.seed, speaker_index)
    session = recording_session(plan.seed, speaker_index, session_index)
    for index in range(plan.utterances_per_session):
        keys = (plan.seed, "demo utterance", speaker_index, session_index, index)
        seconds = numpy_generator(*keys, "seconds").uniform(plan.shortest_seconds, plan.longest_seconds)
        path = _utterance_path(root, speaker_index, session_index, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_wav(path, synthesise(voice, session, seconds, *keys))


def _write_wav(path: Path, waveform: np.ndarray) -> None:
    """By the standard library, whose failures on a full disk are plain OSErrors."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(waveform * 32767.0).astype("<i2").tobytes())


def _marker(root: Path, plan: DemoPlan) -> dict[str, Any]:
    """What the marker of a corpus of ``plan`` in ``root`` must say, given the files that are there."""
    sizes = []
    for place in _sessions(plan):
        for index in range(plan.utterances_per_session):
            path = _utterance_path(root, *place, index)
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return {
        "generator": GENERATOR_VERSION,
        "plan": asdict(plan),
        "utterances": sum(size > 0 for size in sizes),
        "bytes": sum(sizes),
    }


def _put_in_place(building: Path, root: Path, plan: DemoPlan) -> None:
    """Rename ``building`` to ``root``, moving an outdated corpus aside first."""
    if is_complete(root, plan):
        return  # another process was faster
    building.chmod(0o755)  # mkdtemp makes folders that only their owner can read
    if root.exists():
        outdated = Path(tempfile.mkdtemp(prefix=_building_prefix(root), dir=root.parent))
        os.replace(root, outdated / root.name)
        os.replace(building, root)
        shutil.rmtree(outdated, ignore_errors=True)
    else:
        os.replace(building, root)


def _building_prefix(root: Path) -> str:
    return f".{root.name}.building-"


def _remove_abandoned(root: Path) -> None:
    """Remove what killed processes left beside ``root``; a folder that still grows is somebody's work."""
    for folder in root.parent.glob(f"{_building_prefix(root)}*"):
        if folder.is_dir() and time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _is_empty_folder(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())

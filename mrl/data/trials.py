"""Trial lists: read, checked and written as text, one trial a line.

Read are ``label enrolment test`` and ``enrolment test label``; written is the former. The label is 1 or
``target``, 0 or ``nontarget`` (also ``tgt`` and ``imp``); the other two are audio paths below one folder.
Columns are parted by blanks, or by tabs where a path holds a blank. With an enrolment map the enrolments are
names of models, each made of several utterances.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mrl.atomic import write_atomically
from mrl.audio import AUDIO_SUFFIXES, is_there
from mrl.data.enrolment_map import read_enrolment_map
from mrl.data.trial_lines import Problems, trials_in
from mrl.data.trial_list import Trial, TrialList, TrialTable
from mrl.data.trial_making import generate_trials
from mrl.data.trial_pairs import add_contradictions
from mrl.errors import DataError

__all__ = ["Trial", "TrialList", "check_audio_exists", "generate_trials", "read_trials", "write_trials"]

_NAMED_AT_MOST = 5
_CHECK_THREADS = 16


def read_trials(
    path: Path | str, root: Path | str, name: str | None = None, enrolment_map: Path | str | None = None
) -> TrialList:
    """The list at ``path``, whose audio paths start from ``root``; its name is the file's unless given.

    Blank lines, CRLF, a byte order mark, a missing last newline and a trial that stands there twice are harmless.

    Args:
        path: the list. Its column order is that of its first line that has a label at one end only.
        root: folder of the audio.
        name: what to call the list.
        enrolment_map: lines ``model utterance [utterance ...]``, the paths below ``root`` too; the list's enrolments
            are then models. CN-Celeb's ``eval/lists/enroll.lst`` goes with the root ``eval``; the utterances of its
            ``enroll.map`` lie in ``data`` instead, so link their folders into ``eval`` for that one.

    Raises:
        DataError: a file cannot be read; a line is not as above, has another column order, is longer than 64 KiB, its
            path leaves ``root``, its model is not in the map, or it contradicts another line (up to five are named,
            with the line's number); there is no trial, or none of one class.
    """
    path = Path(path)
    problems = Problems(path, "trial list")
    table = TrialTable() if enrolment_map is None else TrialTable.of_models()
    try:
        with path.open("rb") as file:
            for number, trial in trials_in(file, problems, of_models=enrolment_map is not None):
                table.add(trial, number)
    except OSError as error:
        raise DataError(f"{path}: this trial list cannot be read: {error.strerror}") from error
    problems.raise_any()
    models = None if enrolment_map is None else _models(table, Path(enrolment_map), problems)
    trials = table.finish(name or path.stem, Path(root), models)
    if len(trials):
        add_contradictions(trials, problems)
    problems.raise_any()
    _require_both_classes(trials, str(path))
    return trials


def write_trials(trials: TrialList, path: Path | str) -> None:
    """Write ``trials`` so that :func:`read_trials` gives the same list; the file appears whole or not at all.

    Raises DataError where a path cannot stand in a text list, or the file cannot be written.
    """
    assert trials.models is None  # which would take a map beside the list; lists that are made have none
    path = Path(path)
    for utterance in trials.utterances:
        if utterance != utterance.strip() or any(character in utterance for character in "\t\n\r"):
            raise DataError(f"{trials.root}: {utterance!r} cannot stand in a trial list; rename the file")
        if any(0xD800 <= ord(character) <= 0xDFFF for character in utterance):
            raise DataError(
                f"{trials.root}: {utterance!r} cannot stand in a trial list: it is not UTF-8; rename the file"
            )
    text = "".join(_line(trial) for trial in trials.trials()).encode()
    try:
        write_atomically(path, lambda temporary: _write(temporary, text))
    except OSError as error:
        raise DataError(f"{path}: this trial list cannot be written: {error.strerror}") from error


def check_audio_exists(trials: TrialList) -> None:
    """Raise one DataError that counts the audio files of ``trials`` that are missing and names the first.

    Each is named with the line of its first trial, and with a file of another audio suffix that lies there instead.
    """
    with ThreadPoolExecutor(_CHECK_THREADS) as pool:
        there = pool.map(lambda utterance: is_there(trials.root / utterance), trials.utterances)
        missing = [place for place, found in enumerate(there) if not found]
    if missing:
        named = ", ".join(_missing(trials, place) for place in missing[:_NAMED_AT_MOST])
        raise DataError(
            f"trial list {trials.name}: {len(missing)} of {len(trials.utterances)} audio files are missing "
            f"below {trials.root}: {named}{', ...' if len(missing) > _NAMED_AT_MOST else ''}; mend the root or "
            f"complete the audio, for no trial is left out{_advice(trials, missing[:_NAMED_AT_MOST])}"
        )


def _missing(trials: TrialList, place: int) -> str:
    """The utterance with what is known of where it should be."""
    notes = []
    if trials.lines is not None:
        uses = trials.test == place
        if trials.models is None:
            uses |= trials.enrolment == place
        else:
            members = [place in utterances for utterances in trials.models.utterances]
            uses |= np.array(members, dtype=bool)[trials.models.of_trial]
        notes.append(f"line {trials.lines[uses.argmax()]}")
    if twin := _twin(trials.root, trials.utterances[place]):
        notes.append(f"{twin} is there")
    return trials.utterances[place] + (f" ({', '.join(notes)})" if notes else "")


def _twin(root: Path, utterance: str) -> str | None:
    """The only file there that is called like ``utterance`` but for its audio suffix."""
    suffix = Path(utterance).suffix
    stem = utterance.removesuffix(suffix) if suffix.lower() in AUDIO_SUFFIXES else utterance
    found = [stem + other for other in sorted(AUDIO_SUFFIXES) if is_there(root / (stem + other))]
    return found[0] if len(found) == 1 else None


def _advice(trials: TrialList, missing: Sequence[int]) -> str:
    """What else may be meant: other suffixes, or models."""
    utterances = [trials.utterances[place] for place in missing]
    if any(_twin(trials.root, utterance) for utterance in utterances):
        return "; the list must name files with the suffixes that they have"
    if trials.models is None and any(
        Path(utterance).suffix.lower() not in AUDIO_SUFFIXES for utterance in utterances
    ):
        return "; names that are no files may be models, which need an enrolment map"
    return ""


def _models(table: TrialTable, path: Path, problems: Problems) -> list[list[str]]:
    """The utterances of each model of ``table``; models that are not in the map at ``path`` are raised."""
    found = read_enrolment_map(path, table.enrolments)
    for model, line in zip(table.enrolments, table.first_lines(), strict=True):
        if model not in found:
            problems.add(int(line), f"model {model!r} is not in {path}")
    problems.raise_any()
    return [found[model] for model in table.enrolments]


def _require_both_classes(trials: TrialList, source: str) -> None:
    if not len(trials):
        raise DataError(f"{source}: this trial list is empty")
    if trials.num_targets in (0, len(trials)):
        found = "target" if trials.num_targets else "nontarget"
        raise DataError(
            f"{source}: all {len(trials)} trials are {found} trials; an error rate needs both kinds"
        )


def _line(trial: Trial) -> str:
    blank = any(character.isspace() for character in trial.enrolment + trial.test)
    return ("\t" if blank else " ").join([str(int(trial.is_target)), trial.enrolment, trial.test]) + "\n"


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)

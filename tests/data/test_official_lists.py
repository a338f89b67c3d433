"""Published lists are told by content, however they are written; near misses are not."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl.data.official_lists import _PUBLISHED, content_sha256, describe_list, official_name
from mrl.data.trial_list import EnrolmentModels
from mrl.data.trials import Trial, TrialList, read_trials

NAME = "VoxCeleb1-O (cleaned)"


@pytest.fixture(scope="module")
def official(speech: Path) -> list[str]:
    return (speech / "trials" / "voxceleb1_o_cleaned.txt").read_text().splitlines()


def read(folder: Path, lines: list[str], end: str = "\n") -> TrialList:
    (folder / "list.txt").write_bytes("".join(line + end for line in lines).encode())
    return read_trials(folder / "list.txt", folder)


def shuffled(lines: list[str]) -> list[str]:
    return random.Random(1).sample(lines, len(lines))


def below_wav(lines: list[str]) -> list[str]:
    return [line.replace(" ", " some/wav/") for line in lines]


def kaldi(lines: list[str]) -> list[str]:
    words = {"1": "target", "0": "nontarget"}
    return [f"{enrolment} {test} {words[label]}" for label, enrolment, test in map(str.split, lines)]


@pytest.mark.parametrize("change", [list, shuffled, below_wav, kaldi])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_real_list_is_known_however_it_is_written(
    tmp_path, official, change: Callable[[list[str]], list[str]], end: str
):
    trials = read(tmp_path, change(official), end)
    assert official_name(trials) == NAME
    described = describe_list(trials)
    assert described == {
        "trials": 37_611,
        "targets": 18_802,
        "utterances": 4_708,
        "models": 0,
        "repeated": 337,
        "with_itself": 0,
        "sha256": _PUBLISHED[NAME].sha256,
        "official_name": NAME,
    }


def test_its_hash_is_what_the_shell_says(official):
    text = "".join(line + "\n" for line in sorted(official))
    assert hashlib.sha256(text.encode()).hexdigest() == _PUBLISHED[NAME].sha256


@pytest.mark.parametrize("change", ["label", "file", "missing", "more"])
def test_a_list_that_differs_in_one_trial_is_not_known(tmp_path, official, change):
    lines = list(official)
    label, enrolment, test = lines[-1].split()
    if change == "label":  # and another the other way, so that the counts are the same
        swapped = next(n for n, line in enumerate(lines) if line[0] != label)
        lines[-1], lines[swapped] = f"{lines[swapped][0]}{lines[-1][1:]}", f"{label}{lines[swapped][1:]}"
    elif change == "file":
        lines[-1] = f"{label} {enrolment} {test[:-5]}9.wav"
    elif change == "missing":
        lines.pop()
    else:
        lines.append(f"{label} {test} {enrolment}")
    assert lines != official
    assert official_name(read(tmp_path, lines)) is None


def made(trials: int, targets: int, path: str) -> TrialList:
    def each() -> Iterator[Trial]:
        for number in range(trials):
            yield Trial(number < targets, path.format(number % 1000), path.format(number // 1000))

    return TrialList.from_trials("x", Path(), each())


def test_other_lists_are_known_by_their_counts_and_paths():
    path = "id10001/abcdefghij_/{:05d}.wav"
    assert official_name(made(37_720, 18_860, path)) == "VoxCeleb1-O, by its counts"
    assert official_name(made(37_720, 18_860, "voxceleb1/test/wav/" + path)) == "VoxCeleb1-O, by its counts"
    trials = made(37_720, 18_860, path)
    models = EnrolmentModels(trials.utterances[:1], (np.zeros(1, np.int32),), np.zeros(37_720, np.int32))
    assert official_name(replace(trials, models=models)) is None
    assert official_name(made(37_720, 18_861, path)) is None
    assert official_name(made(37_719, 18_860, path)) is None
    assert official_name(made(37_720, 18_860, "speaker/session/{:05d}.wav")) is None


_word = st.text("ab-/1", min_size=1, max_size=8).filter(lambda text: text.strip("/") != "")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), _word, _word), min_size=1, max_size=12), st.randoms())
def test_the_hash_depends_on_what_is_said_alone(rows, random_order):
    trials = [Trial(*row) for row in rows]
    other = list(trials)
    random_order.shuffle(other)
    lists = [TrialList.from_trials("x", Path(), some) for some in (trials, other)]
    assert content_sha256(lists[0]) == content_sha256(lists[1])
    shorten = lambda path: "/".join(path.split("/")[-3:]).encode()  # noqa: E731
    triples = sorted((label, shorten(one), shorten(two)) for label, one, two in trials)
    naive = b"".join(b"%d %b %b\n" % triple for triple in triples)
    assert content_sha256(lists[0]) == hashlib.sha256(naive).hexdigest()
    changed = [trials[0]._replace(is_target=not trials[0].is_target), *trials[1:]]
    assert content_sha256(TrialList.from_trials("x", Path(), changed)) != content_sha256(lists[0])


def test_the_hash_of_a_list_with_models_covers_the_map(tmp_path):
    (tmp_path / "list").write_text("m1 t/1 1\nm2 t/1 0\n")
    found = []
    for enrolment_map in ("m1 a b\nm2 c\n", "m2 c\nm1 b\nm1 a\n", "m1 a\nm2 c\n", "m1 a\nm2 c b\n"):
        (tmp_path / "map").write_text(enrolment_map)
        trials = read_trials(tmp_path / "list", tmp_path, enrolment_map=tmp_path / "map")
        found.append(describe_list(trials))
    assert found[0]["sha256"] == found[1]["sha256"]
    assert len({description["sha256"] for description in found}) == 3
    assert (found[0]["models"], found[0]["utterances"], found[0]["official_name"]) == (2, 4, None)
    written = b"0 m2 t/1\n1 m1 t/1\nm1 a\nm1 b\nm2 c\n"
    assert found[0]["sha256"] == hashlib.sha256(written).hexdigest()

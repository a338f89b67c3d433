"""A log folder that several runs, and several courses of them, have used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrl.config import LoggingConfig
from mrl.training import courses
from mrl.training.courses import Resumption, begin, remember, take_up
from mrl.training.run_folder import NOTHING_YET, Reached, last_recorded
from mrl.training.tracking import Tracker


@pytest.fixture
def config(tmp_path: Path) -> LoggingConfig:
    return LoggingConfig(directory=tmp_path / "logs", tensorboard=False)


def live(
    config: LoggingConfig,
    course: str,
    first: int,
    last: int,
    *,
    left: str | None = None,
    resumed: bool = True,
) -> None:
    """The steps from ``first`` to ``last`` of ``course``."""
    point = Resumption(first - 1, None, left=left or course) if resumed else None
    with Tracker(config, run_config={"course": course}, courses=[course], resumed=point) as tracker:
        tracker.say(f"{course} from {first}")
        for step in range(first, last + 1):
            tracker.step(step, {"course": course})


def recorded(config: LoggingConfig, name: str = "metrics.jsonl") -> str:
    """The courses of the steps from 1 on, a letter for each."""
    lines = map(json.loads, (config.directory / name).read_text().splitlines())
    steps, courses = zip(*((record["step"], record["course"]) for record in lines), strict=True)
    assert list(steps) == list(range(1, len(steps) + 1))
    return "".join(courses)


def test_an_earlier_run_comes_back_with_its_own_records(config: LoggingConfig) -> None:
    live(config, "a", 1, 6, resumed=False)
    live(config, "b", 1, 9, resumed=False)
    live(config, "a", 5, 7)
    assert recorded(config) == "aaaaaaa"
    assert "a from 5" in (config.directory / "training.log").read_text()
    assert "b from 1" not in (config.directory / "training.log").read_text()
    assert recorded(config, "metrics.2.jsonl") == "bbbbbbbbb"
    live(config, "b", 10, 10)
    assert recorded(config) == "bbbbbbbbbb"
    assert not (config.directory / "metrics.2.jsonl").exists()


def test_another_course_begins_with_the_records_of_the_one_it_left(config: LoggingConfig) -> None:
    live(config, "a", 1, 6, resumed=False)
    live(config, "b", 4, 5, left="a")
    assert recorded(config) == "aaabb"
    assert recorded(config, "metrics.1.jsonl") == "aaaaaa"
    said = (config.directory / "training.log").read_text().splitlines()
    assert [line[21:] for line in said if " from " in line] == ["a from 1", "b from 4"]
    live(config, "b", 6, 6)
    assert recorded(config) == "aaabbb"
    live(config, "a", 7, 7)
    assert recorded(config) == "aaaaaaa"


def test_how_far_a_course_got_is_remembered_through_others(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "step", "step": 7}\n')
    remember(tmp_path, take_up(tmp_path, "a", "a"))
    (tmp_path / "metrics.jsonl").write_text('{"kind": "step", "step": 4}\n')
    remember(tmp_path, begin(tmp_path, "b"))
    (tmp_path / "metrics.jsonl").write_text('{"kind": "step", "step": 9}\n')
    assert take_up(tmp_path, "a", "a").reached == Reached(7, -1)
    assert last_recorded(tmp_path / "metrics.jsonl") == Reached(4, -1)


def test_a_folder_that_knows_nothing_continues_nothing(tmp_path: Path) -> None:
    records = take_up(tmp_path, "a", "a")
    assert not records.is_continued
    assert records.earlier is None
    assert records.reached == NOTHING_YET


def test_records_whose_name_was_lost_are_those_of_the_course_that_was_left(config: LoggingConfig) -> None:
    live(config, "a", 1, 6, resumed=False)
    (config.directory / "run.json").unlink()
    live(config, "b", 4, 5, left="a")
    assert recorded(config) == "aaabb"
    live(config, "a", 7, 7)
    assert recorded(config) == "aaaaaaa"


def test_unnamed_records_beside_those_of_the_course_that_was_left_are_another_ones(
    config: LoggingConfig,
) -> None:
    """As a course leaves them that could not write its run.json."""
    live(config, "a", 1, 6, resumed=False)
    live(config, "b", 4, 5, left="a")
    (config.directory / "run.json").unlink()
    live(config, "a", 5, 7)
    assert recorded(config) == "aaaaaaa"
    assert recorded(config, "metrics.2.jsonl") == "aaabb"


def test_without_metrics_nothing_is_continued(config: LoggingConfig) -> None:
    live(config, "a", 1, 6, resumed=False)
    (config.directory / "metrics.jsonl").unlink()
    records = take_up(config.directory, "a", "a")
    assert not records.is_continued
    assert records.reached == NOTHING_YET


def test_a_log_that_finds_no_room_for_its_copy_stands_in_the_way_of_nothing(
    config: LoggingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_text("half a li")
        raise OSError("No space left on device")

    live(config, "a", 1, 6, resumed=False)
    monkeypatch.setattr("shutil.copyfile", full)
    live(config, "b", 4, 5, left="a")
    assert recorded(config) == "aaabb"
    assert "half a li" not in (config.directory / "training.log").read_text()


class Killed(BaseException):
    pass


def kill_at(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the file operation of this number of those that move files."""
    done = [0]

    def counted(operation):
        def operate(*arguments, **options):
            done[0] += 1
            if done[0] == count:
                raise Killed
            return operation(*arguments, **options)

        return operate

    monkeypatch.setattr(Path, "rename", counted(Path.rename))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    monkeypatch.setattr(courses, "link_file", counted(courses.link_file))


@pytest.mark.parametrize("next_course", ["a", "b"])
@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("how", ["begin", "branch", "back"])
def test_killed_while_files_move_nothing_is_mixed(
    config: LoggingConfig, monkeypatch: pytest.MonkeyPatch, how: str, count: int, next_course: str
) -> None:
    """A fresh run, another course and the way back from it, cut short before each operation on a file."""
    live(config, "a", 1, 6, resumed=False)
    live(config, "b", 1, 4, resumed=False)
    (config.directory / "tensorboard/run-2").mkdir(parents=True)
    with monkeypatch.context() as patch:
        kill_at(count, patch)
        try:
            if how == "begin":
                begin(config.directory, "c")
            else:
                take_up(config.directory, *(("c", "b") if how == "branch" else ("a", "a")))
        except Killed:
            pass
    live(config, next_course, 7 if next_course == "a" else 5, 8)
    assert recorded(config) == ("aaaaaaaa" if next_course == "a" else "bbbbbbbb")
    other = "b" if next_course == "a" else "a"
    live(config, other, 7 if other == "a" else 5, 8)
    assert recorded(config) == ("aaaaaaaa" if other == "a" else "bbbbbbbb")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"course": "b"}',
        b'{"course": "b", "reached": [1], "tensorboard": "run-1"}',
        b'{"course": "b", "reached": [Infinity, 1], "tensorboard": "run-1"}',
        b'{"course": "b", "reached": [1, 2], "tensorboard": "../.."}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "step", "step": 7}\n')
    (tmp_path / "run.json").write_bytes(content)
    (tmp_path / "run.3.json").write_bytes(content)
    assert take_up(tmp_path, "c", "d").earlier == tmp_path / "metrics.1.jsonl"
    records = take_up(tmp_path, "d", "d")
    assert records.is_continued
    assert records.reached == Reached(7, -1)
    assert records.tensorboard == tmp_path / "tensorboard" / "run-1"


@pytest.mark.parametrize("is_on", [True, False])
def test_each_course_has_its_own_folder_of_tensorboard(tmp_path: Path, is_on: bool) -> None:
    """Whether or not TensorBoard is on, so that it may be switched on later."""
    folders = []
    for course, left in (("a", None), ("b", "a"), ("a", "a"), ("b", "b")):
        records = begin(tmp_path, course) if left is None else take_up(tmp_path, course, left)
        remember(tmp_path, records)
        (tmp_path / "metrics.jsonl").touch()
        if is_on:
            records.tensorboard.mkdir(parents=True, exist_ok=True)
        folders.append(records.tensorboard.name)
    assert folders == ["run-1", "run-2", "run-1", "run-2"]

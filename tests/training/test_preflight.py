from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrl.config import Config
from mrl.errors import ConfigError
from mrl.training.preflight import configured_paths, require_paths
from mrl.writable import why_unwritable
from tests.integration.conftest import CONFIG

FOLDERS = {
    "noise": "noise/",
    "music": "music/ of MUSAN",
    "babble": "speech/ of MUSAN",
    "room_responses": "RIRS",
}


def config(folder: Path, keys: dict[str, Any]) -> Config:
    return Config.model_validate(
        {**CONFIG, "data": {"train": folder, **keys}, "model": {"pretrained": str(folder / "b.pt")}}
    )


@pytest.mark.parametrize("key", FOLDERS)
def test_a_missing_folder_of_clips_is_named_with_what_to_put_there(key: str, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(ConfigError) as caught:
        require_paths(config(tmp_path, {key: missing}), "run.yaml", needs_weights=False)
    (line,) = [problem for problem in caught.value.problems if problem.startswith(f"data.{key}: ")]
    assert f"{missing} does not exist" in line
    assert FOLDERS[key] in line


def test_only_configured_folders_are_looked_for(tmp_path: Path) -> None:
    keys = [key for key, _, _ in configured_paths(config(tmp_path, {"music": tmp_path}))]
    assert [key for key in keys if key.startswith("data.")] == ["data.train", "data.music"]


def test_more_workers_than_a_machine_can_hold_are_refused(tmp_path: Path) -> None:
    cores = os.cpu_count() or 1
    with pytest.raises(ConfigError) as caught:
        require_paths(config(tmp_path, {"workers": 16 * cores + 1}), "run.yaml", needs_weights=False)
    (line,) = [problem for problem in caught.value.problems if problem.startswith("data.workers: ")]
    assert line == (
        f"data.workers: {16 * cores + 1} processes; at most {16 * cores} on the {cores} cores of this machine"
    )
    allowed = config(tmp_path, {"workers": 16 * cores, "noise": tmp_path / "nowhere"})
    with pytest.raises(ConfigError) as caught:
        require_paths(allowed, "run.yaml", needs_weights=False)
    assert not [problem for problem in caught.value.problems if problem.startswith("data.workers: ")]


def test_a_file_in_place_of_a_folder_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "clips.wav").touch()
    with pytest.raises(ConfigError) as caught:
        require_paths(config(tmp_path, {"noise": tmp_path / "clips.wav"}), "run.yaml", needs_weights=False)
    (line,) = [problem for problem in caught.value.problems if problem.startswith("data.noise: ")]
    assert "clips.wav is a file, and a folder is needed" in line


@pytest.mark.parametrize("inner", ["", "runs/today"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.symlink_to("/nonexistent/x"), "is a link to /nonexistent/x, which is not there"),
        (
            lambda path: path.symlink_to(path.name),
            "is a link to checkpoints, which is not there or leads in a",
        ),
        (Path.touch, "is no folder"),
    ],
    ids=["nowhere", "circle", "file"],
)
def test_checkpoints_that_could_not_be_written_are_refused(
    tmp_path: Path, make: Callable[[Path], None], words: str, inner: str
) -> None:
    make(tmp_path / "checkpoints")
    chosen = config(tmp_path, {})
    folder = tmp_path / "checkpoints" / inner
    checkpoints = chosen.checkpoints.model_copy(update={"directory": folder})
    with pytest.raises(ConfigError) as caught:
        require_paths(chosen.model_copy(update={"checkpoints": checkpoints}), "run.yaml", needs_weights=False)
    (line,) = [problem for problem in caught.value.problems if problem.startswith("checkpoints.directory: ")]
    assert line.startswith(
        f"checkpoints.directory: {folder} cannot be written: {tmp_path}/checkpoints {words}"
    )


def test_a_link_to_a_folder_is_one_to_write_into(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "checkpoints").symlink_to("disk")
    assert why_unwritable(tmp_path / "checkpoints") is None
    assert why_unwritable(tmp_path / "checkpoints/runs/today") is None


def test_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "access", lambda path, _: Path(path) != tmp_path
    )  # for root everything is permitted
    assert why_unwritable(tmp_path / "runs/today") == f"no permission to write into {tmp_path}"

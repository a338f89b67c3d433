"""Reading of our own checkpoint files, as data: nothing in them is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrl.errors import CheckpointError
from mrl.models.tensor_file import read_tensor_file

FORMAT = "redimnet-mrl"
VERSION = 3
"""3: a run may stand within an epoch (state.epoch_step). 2 is read as 3; 1 had another layout of stages."""

_REQUIRED = ("version", "config", "model_config", "dims", "encoder", "lists")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint written by this project, on the CPU.

    Raises CheckpointError for a file that is missing, damaged, not a checkpoint of ours, or of another version.
    """
    return require_checkpoint(read_tensor_file(path), str(path))


def is_checkpoint(content: Any) -> bool:
    """Whether ``content`` of a file says that this project wrote it."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def require_checkpoint(content: Any, source: str) -> dict[str, Any]:
    """``content`` itself, where it is that of a checkpoint of ours; ``source`` names the file in errors.

    Raises CheckpointError for one of another kind or version, or that lacks an entry.
    """
    if not is_checkpoint(content):
        raise CheckpointError(
            f"{source}: not a checkpoint of this project; train.py writes such files, and a released model "
            "belongs in model.pretrained"
        )
    content = _migrated(content)
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{source}: written in format version {content.get('version')!r:.40}, this version reads {VERSION} and "
            f"{', '.join(map(str, _MIGRATIONS))}; use the version of redimnet-mrl that wrote it"
        )
    if missing := [key for key in _REQUIRED if key not in content]:
        raise CheckpointError(f"{source}: damaged, it lacks {', '.join(missing)}")
    for key in ("config", "model_config", "encoder", "lists"):
        if not isinstance(content[key], dict):
            raise CheckpointError(
                f"{source}: damaged, its {key} is a {type(content[key]).__name__}, not a mapping"
            )
    checked: dict[str, Any] = content
    return checked


def _from_version_2(content: dict[str, Any]) -> dict[str, Any]:
    """Version 2 was written between epochs only, which is where a state without ``epoch_step`` stands."""
    return {**content, "version": 3}


_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {2: _from_version_2}


def _migrated(content: dict[str, Any]) -> dict[str, Any]:
    """``content`` in the present version, as far as there is a way to it."""
    while isinstance(version := content.get("version"), int) and version in _MIGRATIONS:
        content = _MIGRATIONS[version](content)
    return content


def stage_file(name: str) -> str:
    """The file, in a run's checkpoint folder, of the encoder that the stage ``name`` ended with."""
    return f"stage_{name}.pt"

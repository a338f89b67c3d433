"""Reading of our own checkpoint files, as data: nothing in them is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrl.errors import CheckpointError
from mrl.models.tensor_file import read_tensor_file

FORMAT = "redimnet-mrl"
VERSION = 2

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
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{source}: written in format version {content.get('version')}, this version reads {VERSION}"
        )
    if missing := [key for key in _REQUIRED if key not in content]:
        raise CheckpointError(f"{source}: damaged, it lacks {', '.join(missing)}")
    checked: dict[str, Any] = content
    return checked


def stage_file(name: str) -> str:
    """The file, in a run's checkpoint folder, of the encoder that the stage ``name`` ended with."""
    return f"stage_{name}.pt"

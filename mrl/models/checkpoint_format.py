"""Reading of our own checkpoint files, as data: nothing in them is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mrl.errors import CheckpointError

FORMAT = "redimnet-mrl"
VERSION = 1

_REQUIRED = ("version", "config", "model_config", "dims", "encoder", "lists")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint written by this project, on the CPU.

    Raises CheckpointError for a file that is missing, damaged, not a checkpoint of ours, or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch.load raise almost anything
        raise CheckpointError(
            f"{path}: not a readable checkpoint: damaged, cut short, or of another kind"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a checkpoint of this project; train.py writes such files, and a released model "
            "belongs in model.pretrained"
        )
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: written in format version {content.get('version')}, this version reads {VERSION}"
        )
    if missing := [key for key in _REQUIRED if key not in content]:
        raise CheckpointError(f"{path}: damaged, it lacks {', '.join(missing)}")
    return content

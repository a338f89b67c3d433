"""The encoders that an evaluation compares with: the released model, the warm start, what each stage ended with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mrl.config import WARM_START, Config
from mrl.console import Console
from mrl.errors import DataError
from mrl.models.checkpoint_format import read_checkpoint, stage_file
from mrl.models.download import resolve
from mrl.models.encoder import SpeakerEncoder, encoder_from_checkpoint
from mrl.models.load_encoder import encoder_from_released
from mrl.models.pretrained import load_released


class OtherEncoders(NamedTuple):
    """``trained`` are by the name that tables give them, in the order of the run."""

    released: SpeakerEncoder
    trained: dict[str, SpeakerEncoder]


def other_encoders(config: Config, checkpoint: Path, run_id: Any, console: Console) -> OtherEncoders:
    """Those of the run ``run_id`` that wrote ``checkpoint``.

    Warm start and stages are looked for beside the checkpoint, where training leaves them; what is of another run, or
    not there, is said and left out. Raises DataError or CheckpointError where the released weights cannot be had.
    """
    try:
        released = encoder_from_released(load_released(resolve(config.model.pretrained, console)))
    except OSError as error:
        raise DataError(f"model.pretrained: {config.model.pretrained}: {error}") from None
    titles = {WARM_START: "warm start", **{stage.name: f"stage {stage.name}" for stage in config.stages}}
    trained, absent = {}, []
    for name, title in titles.items():
        path = checkpoint.parent / stage_file(name)
        content = read_checkpoint(path) if path.exists() else None
        if content is None or content.get("run_id") != run_id:
            absent.append(path.name)
        else:
            trained[title] = encoder_from_checkpoint(content, str(path))
    if absent:
        console.say(f"not compared, no file of this run in {checkpoint.parent}: {', '.join(absent)}")
    return OtherEncoders(released, trained)

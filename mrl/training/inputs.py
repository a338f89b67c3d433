"""What a run is made of, found, read and checked before a file of an earlier run is touched."""

from __future__ import annotations

from typing import NamedTuple

from mrl.config import Config
from mrl.console import Console
from mrl.data.assemble import RunData, assemble
from mrl.data.demo import prepare_demo
from mrl.models.download import resolve
from mrl.models.encoder import SpeakerEncoder
from mrl.models.load_encoder import encoder_from_released
from mrl.models.pretrained import load_released
from mrl.models.released import ReleasedModel
from mrl.training.lora import require_peft
from mrl.training.preflight import require_paths


class Released(NamedTuple):
    """The model to fine-tune, and the one that teaches it."""

    student: ReleasedModel
    teacher: SpeakerEncoder | None  # where it is another model


class Inputs(NamedTuple):
    """All that a run begins with."""

    data: RunData
    released: Released | None  # None where a checkpoint holds the weights


def require_inputs(
    config: Config, source: str, console: Console, *, needs_weights: bool = True, write_lists: bool = True
) -> Inputs:
    """Check that every input is there, load the models, make the demo's speakers, and gather the data.

    ``source`` names the configuration in messages. A run that goes on, from a checkpoint, ``needs_weights`` no more.
    Raises ConfigError for missing paths, CheckpointError for weights that cannot be had or read, and DataError as
    :func:`mrl.data.assemble.assemble` does.
    """
    require_paths(config, source, needs_weights=needs_weights)
    if any(stage.lora is not None for stage in config.stages):
        require_peft()
    # Before the data: the model tells what is too short, and its file is read sooner than a corpus.
    released = _load_models(config, console) if needs_weights else None
    # A run that goes on has scored all files before.
    require_samples = None if released is None else released.student.require_samples
    prepare_demo(config, console)
    data = assemble(config, console.say, require_samples=require_samples, write_lists=write_lists)
    return Inputs(data, released)


def _load_models(config: Config, console: Console) -> Released:
    model = config.model
    teacher = None
    if model.teacher is not None:
        teacher = encoder_from_released(load_released(resolve(model.teacher, console)))
    return Released(load_released(resolve(model.pretrained, console)), teacher)

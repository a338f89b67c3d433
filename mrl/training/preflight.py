"""Checks before anything is loaded: every missing path in one message, with its key and how to get it."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from mrl.config import Config
from mrl.errors import ConfigError, TrainingError
from mrl.models.registry import REGISTRY
from mrl.writable import why_unwritable

_HOW = {
    "model.pretrained": (
        "released weights: the name of a released checkpoint (uv run python scripts/models.py lists them), e.g. "
        "redimnet-b2-vox2-ft_lm, which is downloaded, or the path of a file, e.g. b2-vox2-ft_lm.pt of the release "
        "`latest` of https://github.com/IDRnD/ReDimNet/releases"
    ),
    "data.train": (
        "a folder <speaker>/.../<file>, e.g. VoxCeleb2 dev (AAC) from "
        "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/, or your own recordings"
    ),
    "root": "the audio that the trials name, e.g. VoxCeleb1 test (wav) from the VoxCeleb page",
    "trials": "a list `label enrolment test`, e.g. veri_test2.txt (VoxCeleb1-O cleaned) from the VoxCeleb page",
    "data.noise": "a folder of noise clips, e.g. noise/ of MUSAN (https://www.openslr.org/17/); null: synthetic noise",
    "data.music": "a folder of music clips, e.g. music/ of MUSAN (https://www.openslr.org/17/)",
    "data.babble": (
        "a folder of speech clips, e.g. speech/ of MUSAN (https://www.openslr.org/17/); null: the batch's other "
        "utterances"
    ),
    "data.room_responses": (
        "a folder of impulse responses, e.g. RIRS_NOISES (https://www.openslr.org/28/); null: synthetic rooms"
    ),
}
_WORKERS_PER_CORE = 16
_DEMO = (
    "Without data of your own, try the whole job in miniature: "
    "uv run python train.py --config configs/demo.yaml"
)


def require_paths(config: Config, source: str, *, needs_weights: bool = True) -> None:
    """Raise one ConfigError that names each missing file or folder with its key and how to get it.

    ``needs_weights`` is false for a resumed run, whose checkpoint holds the weights.
    """
    problems = []
    for key, path, how in configured_paths(config):
        if key == "model.pretrained" and (not needs_weights or config.model.pretrained in REGISTRY):
            continue  # in the checkpoint, or downloaded
        if config.demo is not None and config.demo.directory in path.parents:
            continue  # made when everything else is there
        is_file = key == "model.pretrained" or key.endswith(".trials")
        if not (path.is_file() if is_file else path.is_dir()):
            near = difflib.get_close_matches(str(path), REGISTRY, n=2) if how == "model.pretrained" else []
            hint = f" (did you mean {' or '.join(near)}?)" if near else ""
            problems.append(
                f"{key}: {path} {_what_is_wrong(path, is_file=is_file)}{hint}. Needed: {_HOW[how]}"
            )
    cores = os.cpu_count() or 1
    if config.data.workers > _WORKERS_PER_CORE * cores:  # each takes hundreds of megabytes
        most = f"at most {_WORKERS_PER_CORE * cores} on the {cores} cores of this machine"
        problems.append(f"data.workers: {config.data.workers} processes; {most}")
    folder = config.checkpoints.directory
    if (why := why_unwritable(folder)) is not None:  # a run without a log is better than none
        problems.append(f"checkpoints.directory: {folder} cannot be written: {why}")
    if problems:
        raise ConfigError(source, problems, _DEMO)


def _what_is_wrong(path: Path, *, is_file: bool) -> str:
    if not path.exists():
        return "does not exist"
    return "is a folder, and a file is needed" if is_file else "is a file, and a folder is needed"


def require_equal_parts(config: Config, source: str, world_size: int) -> None:
    """Raise one ConfigError for all stages whose batches ``world_size`` processes cannot share."""
    problems = []
    for stage in config.stages:
        if stage.batch_size % (world_size * stage.accumulate_steps):
            parts = f"{world_size} processes" + (
                f" times accumulate_steps {stage.accumulate_steps}" if stage.accumulate_steps > 1 else ""
            )
            problems.append(
                f"stages.{stage.name}: batch_size {stage.batch_size} is not a multiple of {parts}"
            )
        if world_size > 1 and stage.norm_statistics == "batch":
            problems.append(
                f"stages.{stage.name}: norm_statistics: batch would be those of each process's part of a batch; say "
                "frozen, or train in one process"
            )
    if problems:
        raise ConfigError(source, problems, "batch_size is that of all processes together")


def require_one_process(option: str) -> None:
    """Raise TrainingError where ``torchrun`` has started several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError(f"{option} works in one process; run it without torchrun")


def configured_paths(config: Config) -> list[tuple[str, Path, str]]:
    """(key, path, topic of the advice) of every input that the configuration names."""
    paths = [
        ("model.pretrained", Path(config.model.pretrained), "model.pretrained"),
    ]
    for corpus in config.data.train:
        key = "data.train" if len(config.data.train) == 1 else f"data.train.{corpus.label}"
        paths.append((key, corpus.path, "data.train"))
    for key in ("noise", "music", "babble", "room_responses"):
        if (folder := getattr(config.data, key)) is not None:
            paths.append((f"data.{key}", folder, f"data.{key}"))
    for entry in config.validation.lists:
        if entry.root is not None:
            paths.append((f"validation.lists.{entry.name}.root", entry.root, "root"))
        if entry.trials is not None:
            paths.append((f"validation.lists.{entry.name}.trials", entry.trials, "trials"))
    return paths

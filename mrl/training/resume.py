"""What a run needs from a checkpoint to go on, and whether the configuration is still the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mrl.audio import printable
from mrl.config import Config
from mrl.config_file import config_from_dict, config_to_dict
from mrl.config_problems import first_few, unusable_values
from mrl.data.assemble import RunData
from mrl.errors import CheckpointError, ConfigError
from mrl.models.checkpoint_format import read_checkpoint
from mrl.models.finite import require_finite_weights
from mrl.training.courses import Resumption, branch, courses_of
from mrl.training.run_content import require_run
from mrl.training.run_state import Best, RunState
from mrl.training.selection import Rank

Say = Callable[[str], None]

_NEEDED = (
    "criterion",
    "stage_state",
    "teacher",
    "state",
    "best",
    "speakers",
    "corpus",
    "run_id",
    "wandb_run_id",
)
# Keys that change where things are written and how fast, not what is computed.
_HARMLESS = (
    "checkpoints.directory",
    "checkpoints.every_epochs",
    "checkpoints.every_minutes",
    "checkpoints.keep_last",
    "data.cache",
    "data.max_unreadable_share",
    "data.worker_timeout_seconds",
    "data.workers",
    "evaluation",
    "logging",
    "model.pretrained",
    "runtime.device",
    "runtime.max_skipped",
    "runtime.non_finite",
)


AUTO = "auto"
"""In place of a file: the newest checkpoint in the run's folder that can be read."""


@dataclass(frozen=True)
class Resumed:
    """The content of a checkpoint, for a run to go on from."""

    source: str
    content: dict[str, Any]
    state: RunState
    best: Best
    courses: list[str]
    """Of the run, the last one from here on: a new one where the configuration, or the data, differ in what counts."""

    @property
    def resumption(self) -> Resumption:
        """The point that the records of the run go on from."""
        left = courses_of(self.content)[-1]
        return Resumption(self.state.step, self.state.epoch, left, self.content["wandb_run_id"])


def checkpoint_to_resume(path: str, config: Config, say: Say) -> Path | None:
    """The file that a run goes on from: ``path``, or for :data:`AUTO` the newest in the run's folder.

    In place of a damaged last.pt it is the newest other one beside it, and ``say`` is told so. None for AUTO where
    there is no checkpoint yet. Raises CheckpointError where none of those that there are can be read.
    """
    if path != AUTO:
        return _readable(Path(path), say)
    folder = config.checkpoints.directory
    if not _candidates(folder):
        say(f"{folder}: no checkpoint to go on from yet, the run begins")
        return None
    return _readable(folder / "last.pt", say)


def resume_from(path: Path, config: Config, allow_config_change: bool) -> Resumed:
    """Read ``path`` and compare its configuration with ``config``.

    Raises CheckpointError for a file that a run cannot go on from, and ConfigError that names each key that
    differs, unless the difference is harmless or ``allow_config_change``.
    """
    content = _read_run(path)
    differences = config_differences(_with_defaults(content["config"], str(path)), config_to_dict(config))
    if differences and not allow_config_change:
        advice = "resume with the configuration of the run, or say --allow-config-change"
        raise ConfigError(str(path), differences, advice)
    state = RunState.from_dict(content["state"])
    if state.stage > len(config.stages):
        raise CheckpointError(
            f"{path}: it is at stage {state.stage + 1}, the configuration has {len(config.stages)}"
        )
    best = content["best"]
    weights = best["weights"] or {"encoder": content["encoder"], "criterion": content["criterion"]}
    chosen = Best(Rank(*best["rank"]), best["epoch"], best["stage"], weights)
    courses = courses_of(content)
    if differences:
        courses.append(branch(courses[-1], state.epoch, state.epoch_step, _counting(config_to_dict(config))))
    return Resumed(str(path), content, state, chosen, courses)


def _read_run(path: Path) -> dict[str, Any]:
    """The content of a checkpoint that a run can go on from. Raises CheckpointError for anything else."""
    content = read_checkpoint(path)
    if missing := [key for key in _NEEDED if key not in content]:
        raise CheckpointError(f"{path}: it holds no run to go on with (it lacks {', '.join(missing)})")
    if "files" in content:
        raise CheckpointError(
            f"{path}: the evidence of a run that stopped, to look at; resume from a checkpoint of the run"
        )
    require_run(content, str(path))
    for weights in (content, content["best"]["weights"] or {}):
        for part in ("encoder", "criterion"):
            require_finite_weights(weights.get(part, {}), str(path))
    return content


def _candidates(folder: Path) -> list[Path]:
    """What a run can perhaps go on from, in a checkpoint folder."""
    names = ("last.pt", "previous.pt", "best.pt", "epoch_*.pt")
    return [path for name in names for path in sorted(folder.glob(name))]


def _readable(path: Path, say: Say) -> Path:
    """``path``; if it is a last.pt that cannot be read, the newest other one beside it."""
    try:
        _read_run(path)
        return path
    except CheckpointError as error:
        if path.name != "last.pt" or not _candidates(path.parent):
            raise
        broken = error
    newest, place = None, (-1, -1)
    for other in _candidates(path.parent):
        if other == path:
            continue
        try:
            state = RunState.from_dict(_read_run(other)["state"])
        except CheckpointError as error:
            say(str(error))
        else:
            if (state.epoch, state.epoch_step) > place:
                newest, place = other, (state.epoch, state.epoch_step)
    if newest is None:
        raise CheckpointError(
            f"{broken}; no other checkpoint in {path.parent} can be read either: restore one, or begin anew without "
            "--resume, which keeps these files aside"
        ) from None
    say(f"{broken}; going on from {newest} instead")
    return newest


def _with_defaults(values: dict[str, Any], source: str) -> dict[str, Any]:
    """The configuration of a checkpoint, with the defaults of keys that are younger than it."""
    try:
        return config_to_dict(config_from_dict(values, ""))
    except ConfigError as error:  # which the keys that differ will explain, if there is anything to compare
        if unusable_values(values, {}, source):
            raise CheckpointError(f"{source}: damaged, its configuration is none: {error}") from None
        return values


def with_data(resumed: Resumed, data: RunData, config: Config, allow_change: bool, say: Say) -> Resumed:
    """``resumed``, on another course if ``data`` are others than those of the run.

    Raises CheckpointError where the run had other speakers, trial lists or prefixes, or no teacher; and where its
    corpus held other files, unless ``allow_change``: ``say`` is told so then.
    """
    train, dims = data.train, config.dims
    content, source = resumed.content, resumed.source
    if content["speakers"] != list(train.speakers):
        raise CheckpointError(
            f"{source}: its class vectors are of {len(content['speakers'])} speakers, data.train has other ones "
            f"({len(train.speakers)}); resume with the corpus of the run"
        )
    lists = {trials.name: trials.fingerprint() for trials in data.validation}
    if changed := sorted(
        name for name in {*lists, *content["lists"]} if lists.get(name) != content["lists"].get(name)
    ):
        raise CheckpointError(
            f"{source}: validation list {', '.join(changed)} is not the one of the run, whose scores are compared "
            "with those of epoch 0; resume with its lists, and score others with evaluate.py"
        )
    wants_teacher = any(stage.teacher_weight for stage in config.stages)
    if wants_teacher and content["teacher"] is None:
        raise CheckpointError(
            f"{source}: the run has no teacher to give a teacher_weight; start a new run with one"
        )
    if content["dims"] != list(dims):
        raise CheckpointError(
            f"{source}: its prefixes are {content['dims']}, the configuration has {list(dims)}"
        )
    corpus = train.fingerprint()  # of every path, so once
    if content["corpus"] == corpus:
        return resumed
    before = content.get("num_utterances")
    count = "" if before is None else f" ({len(train):,} utterances, {before:,} before)"
    what = f"data.train holds other files than those that the run had{count}"
    if not allow_change:
        raise CheckpointError(f"{source}: {what}; restore them, or go on with these by --allow-config-change")
    say(what)
    known = {printable(train.path(utterance)) for utterance in range(len(train))}
    unreadable = {path: why for path, why in resumed.state.unreadable.items() if path in known}
    courses = [*courses_of(content), branch(resumed.courses[-1], corpus)]
    return replace(resumed, courses=courses, state=replace(resumed.state, unreadable=unreadable))


def config_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each key whose value differs and matters to the numbers."""
    old, new = _counting(before), _counting(now)
    lines = [
        f"{key}: the run has {old.get(key)!r:.100}, the configuration {new.get(key)!r:.100}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    return first_few(lines)


def _counting(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration that matter to the numbers, by their keys."""

    def is_harmless(key: str) -> bool:
        return any(key == prefix or key.startswith(f"{prefix}.") for prefix in _HARMLESS)

    return {key: value for key, value in _flat(values).items() if not is_harmless(key)}


def _flat(values: Any, place: str = "") -> dict[str, Any]:
    if isinstance(values, Mapping):
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list) and any(isinstance(value, (Mapping, list)) for value in values):
        names = [value.get("name") if isinstance(value, Mapping) else None for value in values]
        is_named = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
        items = [(str(names[index] if is_named else index), value) for index, value in enumerate(values)]
        if is_named:
            items.append(("order", names))  # which their names alone would not tell
    else:
        return {place: values}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= _flat(value, f"{place}.{key}" if place else key)
    return flat

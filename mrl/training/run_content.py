"""What a run's checkpoint must hold for the run to go on: every entry of its kind, before any is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from mrl.errors import CheckpointError

Counter = Annotated[int, Field(ge=0, lt=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
_SHOWN = 5


def _tensors(value: Any) -> Any:
    named = isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )
    if not named:
        raise ValueError("expected tensors by name")
    return value


Tensors = Annotated[Any, BeforeValidator(_tensors)]


class _Entry(BaseModel):
    """Strict, and other entries than those named are let be: later versions may write more."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Weights(_Entry):
    encoder: Tensors
    criterion: Tensors


class _Best(_Entry):
    rank: Annotated[list[Finite], Field(min_length=2, max_length=2)]
    epoch: Counter
    stage: str
    weights: _Weights | None


class _Recent(_Entry):
    epoch: Counter
    rank: Annotated[list[Finite], Field(max_length=2)]
    weights: dict[str, Tensors]


class _Validation(_Entry):
    epoch: Counter
    stage: str
    mean_eer: Finite = 0.0
    is_best: bool = False


class _State(BaseModel):
    """The fields of :class:`mrl.training.run_state.RunState`, and no others."""

    model_config = ConfigDict(strict=True, extra="forbid")
    reference: Finite = 0.0
    stage: Counter = 0
    stage_epoch: Counter = 0
    epoch: Counter = 0
    step: Counter = 0
    epoch_step: Counter = 0
    stale: Counter = 0
    skipped: Counter = 0
    overflowed: Counter = 0
    history: list[_Validation] = []
    recent: list[_Recent] = []
    unreadable: dict[str, str] = {}


class _Run(_Entry):
    encoder: Tensors
    criterion: Tensors
    stage_state: dict[str, Any] | None
    teacher: dict[str, Any] | None
    state: _State
    best: _Best
    speakers: list[str]
    corpus: str
    run_id: str
    wandb_run_id: str | None
    courses: Annotated[list[str], Field(min_length=1)] | None = None  # younger than the format
    num_utterances: Counter | None = None


_RUN = TypeAdapter(_Run)


def require_run(content: Mapping[str, Any], source: str) -> None:
    """Raise a CheckpointError that names ``source`` and the entries of ``content`` that are not what a run writes."""
    try:
        _RUN.validate_python(dict(content))
    except ValidationError as error:
        found = error.errors(include_url=False)
        problems = [_described(detail) for detail in found[:_SHOWN]]
        if len(found) > _SHOWN:
            problems.append(f"and {len(found) - _SHOWN} more")
        raise CheckpointError(f"{source}: damaged, no run can go on from it: {'; '.join(problems)}") from None


def _described(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])[:120]
    message = detail["msg"].removeprefix("Value error, ")
    return f"{place if place.isprintable() else repr(place)}: {message:.150}"

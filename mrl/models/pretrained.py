"""Released checkpoints: `{'model_config': {...}, 'state_dict': {...}}`. Strict or stop.

The architecture is read from `model_config`, never guessed from a file name. Every tensor of the file must
land in the model, and every tensor of the model must come from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrl.atomic import write_atomically
from mrl.errors import CheckpointError
from mrl.line_file import printable, reason
from mrl.models.budget import Budget, budget_for
from mrl.models.options import MOST_STAGES
from mrl.models.redimnet import ReDimNet
from mrl.models.redimnet2 import ReDimNet2
from mrl.models.released import ReleasedModel
from mrl.models.tensor_file import read_tensor_file
from mrl.randomness import seed_of

Family = type[ReDimNet] | type[ReDimNet2]
CONSTANT_TOLERANCE = 1e-3  # between a stored front-end constant and the one that the options describe
_MOST_NUMBERS = 1_000_000_000  # 4 GB; the largest released model has 15 million
SHOWN = 20  # problems listed in one message


def load_released(path: str | Path) -> ReleasedModel:
    """The model of a released checkpoint: eval mode, float32, on the CPU.

    Raises:
        CheckpointError: the file is missing, is no such checkpoint, has options that are not supported, or
            its tensors differ from the model's. The message names the file and each option or tensor.
    """
    return released_from_content(read_tensor_file(path), Path(path))


def released_from_content(content: Any, path: Path) -> ReleasedModel:
    """The model in the ``content`` of a released checkpoint read from ``path``; see `load_released`."""
    model_config, state = _entries(content, path)
    if any(key.startswith("backbone.inputs_weights.") for key in state):
        raise CheckpointError(
            f"{path}: a first-generation ReDimNet file (before November 2024), with other layer names and "
            "numbers; download the current file of the same model"
        )
    model = build_released(model_config, source=str(path), most_numbers=budget_for(state))
    require_fitting(model.state_dict(), state, str(path))
    _require_constants(model.state_dict(), state, path)
    model.load_state_dict(state, strict=True)
    return model.eval()


def build_released(
    model_config: Mapping[str, Any],
    *,
    seed: int = 0,
    source: str = "model_config",
    most_numbers: int = _MOST_NUMBERS,
) -> ReleasedModel:
    """A model of that architecture with fresh weights (PyTorch's defaults), in training mode.

    Args:
        model_config: options in the released format.
        seed: fixes the weights; the global random state is neither read nor moved.
        source: what an error message names.
        most_numbers: a network with more of them is refused before it is in memory.

    Raises:
        CheckpointError: unknown or unsupported options, or sizes that do not fit together.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of("released", seed))
        with Budget(most_numbers):
            return _built(model_config, source)


def _built(model_config: Mapping[str, Any], source: str) -> ReleasedModel:
    family = _family(model_config, source)
    try:
        return family(model_config, source)
    # RuntimeError: of sizes whose product no tensor can have; ZeroDivisionError: of layers without any channel.
    except (ValueError, RuntimeError, ZeroDivisionError, OverflowError) as error:
        raise CheckpointError(f"{source}: its model_config cannot be built: {reason(error):.300}") from error


def save_released(model: ReleasedModel, model_config: Mapping[str, Any], path: str | Path) -> None:
    """Write ``model`` in the released format, whole or not at all; an existing ``path`` is replaced."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    content = {"model_config": dict(model_config), "state_dict": state}
    write_atomically(Path(path), lambda temporary: torch.save(content, temporary))


def require_fitting(ours: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise a CheckpointError that names tensors of ``state`` that are missing, extra, misshapen or unusable.

    Args:
        ours: the state of the model that is to take them.
        state: of the file.
        source: names the file.
    """
    problems = [f"missing: {key} {list(ours[key].shape)}" for key in ours if key not in state]
    problems += [
        f"extra: {printable(key[:80])} {list(state[key].shape)!s:.80}" for key in state if key not in ours
    ]
    for key in (key for key in ours if key in state):
        problem = _difference(ours[key], state[key], is_variance=key.endswith("running_var"))
        if problem:
            problems.append(f"{key} {problem}")
    _raise_any(problems, source)


def _require_constants(ours: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """Constants of the front end: one that differs was made for other options than model_config says."""
    _raise_any(
        [
            f"{key} is not the front-end constant that model_config describes"
            for key in ours
            if key.startswith("spec.") and (state[key] - ours[key]).abs().max() > CONSTANT_TOLERANCE
        ],
        str(path),
    )


def _raise_any(problems: list[str], source: str) -> None:
    if problems:
        shown = "\n".join(f"  - {problem}" for problem in problems[:SHOWN])
        more = f"\n  - and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise CheckpointError(f"{source}: its tensors do not fit its model_config:\n{shown}{more}")


def _family(model_config: Mapping[str, Any], source: str) -> Family:
    """The family, told by the strides of the stages: single ones in ReDimNet, pairs in ReDimNet2."""
    stages = model_config.get("stages_setup")
    if not isinstance(stages, list | tuple) or not stages:
        raise CheckpointError(f"{source}: its model_config has no stages_setup, which tells the architecture")
    paired = {
        isinstance(stage, list | tuple) and bool(stage) and isinstance(stage[0], list | tuple)
        for stage in stages
    }
    if len(stages) > MOST_STAGES:
        raise CheckpointError(
            f"{source}: its model_config has {len(stages)} stages, {MOST_STAGES} at most are built"
        )
    if len(paired) > 1:
        raise CheckpointError(
            f"{source}: stages_setup mixes the stages of ReDimNet (one stride) and of ReDimNet2 (a pair)"
        )
    return ReDimNet2 if paired == {True} else ReDimNet


def _entries(content: Any, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The two entries of the file, their types checked."""
    layout = "{'model_config': {...}, 'state_dict': {name: tensor}}"
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; expected {layout}")
    for entry in ("model_config", "state_dict"):
        if not isinstance(content.get(entry), Mapping):
            found = ", ".join(f"{key!r:.80}" for key in list(content)[:5])
            raise CheckpointError(f"{path}: no mapping {entry!r} among {found}; expected {layout}")
    state = content["state_dict"]
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: state_dict[{key!r:.80}] is {type(tensor).__name__}, not a tensor")
    return dict(content["model_config"]), dict(state)


def _difference(ours: Tensor, stored: Tensor, *, is_variance: bool) -> str | None:
    if ours.shape != stored.shape:
        return f"has shape {list(stored.shape)!s:.80}, the model's is {list(ours.shape)}"
    if ours.is_floating_point() != stored.is_floating_point() or stored.is_complex():
        return f"is {stored.dtype}, the model's is {ours.dtype}"
    if not torch.isfinite(stored).all():
        return "holds values that are not finite"
    if is_variance and (stored < 0).any():
        return "holds variances below zero"
    return None

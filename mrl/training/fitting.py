"""Whether saved tensors are those of a module, said in one line where they are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

_NAMED = 2  # tensors that a message names; the rest is counted


def load_fitting(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Load ``state``, the tensors of a checkpoint by their names, into ``module``.

    Raises ValueError with one line where they are not the module's own, shapes included; torch would list all of them,
    a line for each. ``module`` is then as it was.
    """
    own = module.state_dict()
    wrong = [
        f"{name} is {_shape(state[name])} in the checkpoint, {_shape(tensor)} in the configuration"
        for name, tensor in own.items()
        if name in state and _shape(state[name]) != _shape(tensor)
    ]
    wrong += [
        f"the checkpoint has no {name} {_shape(tensor)}" for name, tensor in own.items() if name not in state
    ]
    wrong += [
        f"the configuration has no {name} {_shape(tensor)}"
        for name, tensor in state.items()
        if name not in own
    ]
    if wrong:
        more = f", and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise ValueError(", ".join(wrong[:_NAMED]) + more)
    module.load_state_dict(state)


def _shape(tensor: Any) -> list[int]:
    """Its lengths: ``[24, 32]``."""
    return list(tensor.shape)

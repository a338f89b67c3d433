"""A bound on the memory of a network that is built from options of unknown origin."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}
_TO_SPARE = 10_000_000
_TIMES = 4


class Budget(TorchFunctionMode):
    """While it is entered, tensors of ``numbers`` in all are made, and one more is a ValueError before it is made."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self._numbers = numbers
        self._made = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _FACTORIES:
            self._made += _numbers_of(args[0] if args and not isinstance(args[0], int) else args)
            if self._made > self._numbers:
                raise ValueError(f"it describes a network of more than {self._numbers:,} numbers")
        return func(*args, **(kwargs or {}))


def budget_for(state: Mapping[str, Tensor]) -> int:
    """So many numbers that a model which ``state`` nearly fits is built, and each difference then named."""
    return _TIMES * sum(tensor.numel() for tensor in state.values()) + _TO_SPARE


def _numbers_of(size: Any) -> int:
    return math.prod(size) if all(isinstance(extent, int) for extent in size) else 1

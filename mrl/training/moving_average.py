"""A moving average of weights over updates, and BatchNorm statistics for weights that are averages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mrl.config import StageConfig
from mrl.models.encoder import SpeakerEncoder, evaluating
from mrl.training.stages import BATCH_NORMS, moving_norms


class MovingAverage:
    """An exponential moving average of what learns in ``modules``, from their present weights on.

    Averaged are the trainable tensors and, of each BatchNorm in training mode, the running statistics.

    Args:
        modules: of a stage that has been entered.
        decay: share of the average that an update keeps. The first ones keep less, (1 + n) / (10 + n) after n
            updates, so that the start is forgotten soon.
    """

    def __init__(self, modules: Sequence[nn.Module], decay: float) -> None:
        self._decay = decay
        self._live = dict(_moving_tensors(modules))
        device = next((tensor.device for tensor in self._live.values()), None)
        self._updates = torch.zeros((), dtype=torch.float64, device=device)
        self._averages = {name: tensor.clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, applied: Tensor | None = None) -> None:
        """Take the live weights in, after an update of the optimizer.

        ``applied`` (bool, on the device) says whether it happened; one that did not does not count. None: it did.
        """
        counts = torch.ones_like(self._updates) if applied is None else applied.to(self._updates.dtype)
        kept = ((1.0 + self._updates) / (10.0 + self._updates)).clamp_max(self._decay)
        changes = torch._foreach_sub(list(self._live.values()), list(self._averages.values()))
        torch._foreach_mul_(changes, ((1.0 - kept) * counts).float())
        torch._foreach_add_(list(self._averages.values()), changes)
        self._updates += counts

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The modules hold the averages meanwhile, and afterwards the live weights again, bit for bit."""
        live = {name: tensor.clone() for name, tensor in self._live.items()}
        try:
            self._fill(self._averages)
            yield
        finally:
            self._fill(live)

    def state_dict(self) -> dict[str, Any]:
        """A copy, on the CPU."""
        averages = {name: tensor.cpu().clone() for name, tensor in self._averages.items()}
        return {"updates": int(self._updates), "averages": averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the state is that of other tensors."""
        averages = state["averages"]
        shapes = {name: tensor.shape for name, tensor in averages.items()}
        if shapes != {name: tensor.shape for name, tensor in self._averages.items()}:
            raise ValueError("the moving average is of other weights")
        for name, tensor in self._averages.items():
            tensor.copy_(averages[name])
        self._updates.fill_(state["updates"])

    @torch.no_grad()
    def _fill(self, values: dict[str, Tensor]) -> None:
        for name, tensor in self._live.items():
            tensor.copy_(values[name])


def recalibrate_batch_norm(
    encoder: SpeakerEncoder, network: nn.Module, batches: Iterable[Tensor], stage: StageConfig
) -> None:
    """Estimate anew the statistics of the BatchNorms that move in ``stage``; the others stay as they are.

    Averaged weights need statistics of their own (Izmailov et al., arXiv 1803.05407): those of the inputs that the
    norms see now, the plain mean over ``batches`` on the encoder's device, which go through ``network``: the
    encoder or its head. All else is in eval mode, dropout included. PyTorch's ``update_bn`` would reset every
    norm, those of frozen parts too.
    """
    norms = [norm for norm in moving_norms(encoder, stage) if isinstance(norm, BATCH_NORMS)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    count = 0
    with torch.no_grad(), evaluating(encoder):
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative average
                norm.train()
            for batch in batches:
                network(batch)
                count += 1
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
                norm.eval()
    assert count, "no batch to take statistics of"


def _moving_tensors(modules: Sequence[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """What learns in ``modules``, by a name that tells them apart."""
    for index, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield f"{index}.{name}", parameter.detach()
        for prefix, inner in module.named_modules():
            if isinstance(inner, BATCH_NORMS) and inner.training:
                for name in ("running_mean", "running_var"):
                    yield f"{index}.{prefix}.{name}", getattr(inner, name)

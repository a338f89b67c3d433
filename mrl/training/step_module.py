"""What a step differentiates, from its input to the number to minimise, as one module.

One module, so that several processes can wrap it and average its gradients. Shapes: B batch, T samples, P pooled
statistics, E teacher's embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mrl.loss import PrefixSettings, Targets
from mrl.models.encoder import SpeakerEncoder
from mrl.processes import gather_rows
from mrl.training.criterion import Criterion, StepLoss


class StepBatch(NamedTuple):
    """What one update learns from; all but the last two on the device."""

    inputs: Tensor  # waveforms [B, T]; from a feature cache: pooled statistics [B, P]
    targets: Targets
    reference: Tensor | None  # the teacher's embeddings [B, E], where a cache holds them
    utterances: Tensor  # int64 [B], on the CPU
    replaced: list[str]  # a message for each utterance that could not be read

    def parts(self, count: int) -> list[StepBatch]:
        """The batch cut into ``count`` parts, for gradients that are accumulated."""
        inputs = self.inputs.chunk(count)
        sizes = [len(part) for part in inputs]
        references = [None] * len(sizes) if self.reference is None else self.reference.split(sizes)
        columns = (inputs, self.targets.split(sizes), references, self.utterances.split(sizes))
        return [StepBatch(*part, self.replaced) for part in zip(*columns, strict=True)]


class StepModule(nn.Module):
    """Encoder and criterion in one forward.

    Args:
        encoder, criterion: of a stage that has been entered.
        from_pooled: inputs are pooled statistics, so that of the encoder the head alone takes part.
        compiled: compile the network with torch.compile.
        gathers: several processes share a batch, and the loss looks at all of it at once, as losses over pairs do.
    """

    def __init__(
        self,
        encoder: SpeakerEncoder,
        criterion: Criterion,
        *,
        from_pooled: bool,
        compiled: bool,
        gathers: bool = False,
    ) -> None:
        super().__init__()
        self.network: nn.Module = encoder.head if from_pooled else encoder
        self.criterion = criterion
        self._gathers = gathers
        # In a tuple: the compiled module holds the same parameters under other names.
        self._forward = (torch.compile(self.network, dynamic=False) if compiled else self.network,)

    def forward(self, batch: StepBatch, settings: PrefixSettings, teacher_weight: float) -> StepLoss:
        reference = batch.reference
        if teacher_weight and reference is None:
            reference = self.criterion.hear(batch.inputs)
        embeddings, targets = self._forward[0](batch.inputs), batch.targets
        if self._gathers:
            embeddings, targets = gather_rows(embeddings), Targets(gather_rows(targets.speakers))
            reference = None if reference is None else gather_rows(reference)
        terms: StepLoss = self.criterion(embeddings, targets, settings, reference, teacher_weight)
        return terms

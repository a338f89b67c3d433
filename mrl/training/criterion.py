"""What a step minimises: the loss over sliced embeddings and the teacher term.

Shapes: B batch, T samples, D widest prefix, E teacher's embedding, K prefixes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mrl.config import Config
from mrl.loss import PrefixSettings, SlicedLoss, Targets, build_loss
from mrl.loss.teacher import TeacherTerm
from mrl.models.encoder import SpeakerEncoder


class StepLoss(NamedTuple):
    """``total`` is what is minimised; ``per_prefix`` [K] and ``teacher`` are its terms, unweighted, detached."""

    total: Tensor
    per_prefix: Tensor
    teacher: Tensor  # 0 where there is no teacher


class Criterion(nn.Module):
    """The classifier of a run, with what else stands between embeddings and a number to minimise.

    Its parameters (class vectors, the map to a teacher's space) are the part ``classifier`` of a stage. The
    teacher's own weights are no part of the module's state: they never change.

    Args:
        loss: over sliced embeddings.
        teacher: a frozen encoder; None without one.
        term: compares with the teacher's embeddings; given together with ``teacher``.
    """

    def __init__(
        self, loss: SlicedLoss, teacher: SpeakerEncoder | None = None, term: TeacherTerm | None = None
    ) -> None:
        super().__init__()
        assert (teacher is None) == (term is None)
        self.loss = loss
        self.term = term
        # In a tuple, so that module.state_dict(), .train() and .parameters() pass it by.
        self._teacher: tuple[SpeakerEncoder, ...] = (
            () if teacher is None else (teacher.eval().requires_grad_(False),)
        )

    @property
    def teacher(self) -> SpeakerEncoder | None:
        return self._teacher[0] if self._teacher else None

    @torch.no_grad()
    def hear(self, waveforms: Tensor) -> Tensor:
        """The teacher's embeddings [B, E] of ``waveforms`` [B, T]."""
        return self._teacher[0](waveforms)

    def forward(
        self,
        embeddings: Tensor,
        targets: Targets,
        settings: PrefixSettings,
        reference: Tensor | None = None,
        teacher_weight: float = 0.0,
    ) -> StepLoss:
        """Terms for ``embeddings`` [B, D]; ``reference`` [B, E] are the teacher's, given with a ``teacher_weight``."""
        terms = self.loss(embeddings, targets, settings)
        if not teacher_weight:
            return StepLoss(terms.total, terms.per_prefix, terms.total.new_zeros(()))
        assert self.term is not None
        assert reference is not None
        apart = self.term(embeddings, reference)
        return StepLoss(terms.total + teacher_weight * apart, terms.per_prefix, apart.detach())

    def _apply(self, fn: Any, recurse: bool = True) -> Criterion:
        """Moves the teacher along with the rest."""
        super()._apply(fn, recurse)
        for teacher in self._teacher:
            teacher._apply(fn, recurse)
        return self


def build_criterion(config: Config, num_speakers: int, teacher: SpeakerEncoder | None) -> Criterion:
    """What ``config`` minimises, with fresh class vectors; ``teacher`` where a stage gives it a weight.

    A teacher that is not ``model.pretrained`` itself has a space of its own, to which a learned map leads.
    """
    loss = build_loss(config, num_speakers)
    if teacher is None:
        return Criterion(loss)
    mapped = config.model.teacher is not None
    return Criterion(loss, teacher, TeacherTerm(config.dims, teacher.head.embedding_dim, mapped=mapped))

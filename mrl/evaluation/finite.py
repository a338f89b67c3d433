"""Embeddings that no score can be made of: found, counted and named after their recordings.

Shapes: N rows, D numbers of each.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mrl.errors import TrainingError
from mrl.models.finite import non_finite_tensor

_NAMED = 3


class EmbeddingError(TrainingError):
    """Embeddings, or the pooled statistics that they are made of, that are NaN, infinite or of infinite length."""


def usable_rows(rows: Tensor) -> Tensor:
    """Which of ``rows`` [N, D] are finite and have a finite length in float32: bool [N]. All zero is usable: its
    cosines are 0."""
    return rows.float().square().sum(1).isfinite()


def embedding_error(names: Sequence[object], total: int, network: nn.Module | None = None) -> EmbeddingError:
    """The error for recordings called ``names``, of ``total``, whose embeddings are not usable.

    ``network`` is what made them: if its weights are not finite, they are what is said to be wrong.
    """
    broken = non_finite_tensor(network.state_dict()) if network is not None else None
    shown = ", ".join(str(name) for name in names[:_NAMED])
    if broken is not None:
        return EmbeddingError(
            f"{shown}: its embedding is not finite; the weights are not either, in {broken}"
        )
    if len(names) == 1:
        return EmbeddingError(
            f"{shown}: its embedding is not finite, and the weights are; listen to the recording"
        )
    more = ", ..." if len(names) > _NAMED else ""
    return EmbeddingError(
        f"{len(names):,} of {total:,} embeddings are not finite, and the weights are; listen to {shown}{more}"
    )


def require_usable(rows: Tensor, names: Sequence[object], network: nn.Module) -> None:
    """EmbeddingError for ``rows`` [N, D] that are not usable, of the recordings ``names`` [N]."""
    if not (usable := usable_rows(rows)).all():
        bad = (~usable).nonzero().flatten().tolist()
        raise embedding_error([names[place] for place in bad], len(rows), network)

"""Warm start: a new head and class vectors that score, before any training, what the released model scores.

For an orthogonal Q the rows ``Q W`` and the bias ``Q b`` of the released projection give embeddings ``Q e``, whose
cosines are those of ``e`` whatever Q is. Q is chosen so that the leading coordinates carry the most
between-speaker variance, so that short prefixes lose least.

Shapes: N utterances, S speakers, P pooled statistics, E released embedding, D widest prefix.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mrl.models.head import MatryoshkaHead
from mrl.models.released import ReleasedModel
from mrl.randomness import torch_generator

HeadInit = Literal["rotated", "truncated", "random"]

# Share of the total scatter added to the between-class one. With fewer speakers than dimensions the latter is
# singular and would order the directions without between-speaker variance by chance.
_TOTAL_SCATTER_SHARE = 1e-3
# Length of the random part of a class vector in coordinates where all embeddings start at zero.
_NEW_COORDINATE_LENGTH = 0.1


class ReleasedProjection(NamedTuple):
    """A released head as BatchNorm and one affine map: ``embedding = weight @ bn(pooled) + bias``."""

    bn: nn.BatchNorm1d
    weight: Tensor  # [E, P]
    bias: Tensor  # [E]


@torch.no_grad()
def released_projection(released: ReleasedModel) -> ReleasedProjection:
    """The head of ``released`` (in eval mode), a BatchNorm after the linear layer folded into it."""
    linear = released.linear
    weight = linear.weight.detach().double()
    bias = torch.zeros(weight.shape[0], dtype=torch.float64) if linear.bias is None else linear.bias.double()
    after: nn.BatchNorm1d | None = getattr(released, "bn2", None)
    if after is not None:
        assert after.running_var is not None
        assert after.running_mean is not None
        gain = (after.running_var.double() + after.eps).rsqrt()
        shift = -after.running_mean.double() * gain
        if after.affine:
            gain, shift = gain * after.weight.double(), shift * after.weight.double() + after.bias.double()
        weight, bias = gain[:, None] * weight, gain * bias + shift
    return ReleasedProjection(released.bn, weight.float(), bias.float())


def between_class_rotation(embeddings: Tensor, speakers: Tensor) -> Tensor:
    """Orthogonal Q [E, E] whose first rows are the directions of largest between-speaker variance.

    ``embeddings`` [N, E] are length-normalised here; ``speakers`` [N] are class numbers. The scatter is taken
    about the global mean as usual, but Q is meant for embeddings that are *not* centred: centring would change
    their cosines, an orthogonal map does not.
    """
    unit = nn.functional.normalize(embeddings.double(), dim=1)
    classes, inverse, counts = torch.unique(speakers, return_inverse=True, return_counts=True)
    means = torch.zeros(len(classes), unit.shape[1], dtype=torch.float64)
    means.index_add_(0, inverse, unit).div_(counts[:, None])
    centred = unit - unit.mean(0)
    spread = means - means.mean(0)
    scatter = spread.T @ spread / len(classes) + _TOTAL_SCATTER_SHARE * (centred.T @ centred) / len(unit)
    _, vectors = torch.linalg.eigh(scatter)  # ascending
    rotation = vectors.flip(1).T
    # The sign of an eigenvector is arbitrary; fix it so that the start does not hang on the LAPACK in use.
    largest = rotation.abs().argmax(1, keepdim=True)
    return (rotation * rotation.gather(1, largest).sign()).float()


@torch.no_grad()
def initialise_head(
    head: MatryoshkaHead,
    projection: ReleasedProjection,
    how: HeadInit,
    rotation: Tensor | None = None,
) -> None:
    """Fill ``head`` from the released ``projection``.

    ``rotated`` needs ``rotation`` [E, E]; ``truncated`` keeps the released coordinates; ``random`` keeps the
    fresh linear layer. The BatchNorm is the released one in every case: its statistics describe the pooled
    vectors, whatever follows. Rows beyond E are zero, bias included. If D < E, the first D rows are kept.
    """
    head.bn.load_state_dict(projection.bn.state_dict())
    if how == "random":
        return
    weight, bias = projection.weight, projection.bias
    if how == "rotated":
        if rotation is None:
            raise ValueError("a rotated start needs a rotation")
        weight = (rotation.double() @ weight.double()).float()
        bias = (rotation.double() @ bias.double()).float()
    rows = min(head.embedding_dim, weight.shape[0])
    head.linear.weight.zero_()[:rows] = weight[:rows]
    head.linear.bias.zero_()[:rows] = bias[:rows]


def class_vectors(embeddings: Tensor, speakers: Tensor, num_speakers: int, seed: int) -> Tensor:
    """Class vectors [S, D]: for each speaker the mean of that speaker's normalised embeddings [N, D].

    Coordinates in which all embeddings are zero (a prefix wider than the released embedding) get small random
    numbers instead: with zeros on both sides the gradient there would be zero and they could never be learnt. The
    embeddings, and so all scores, stay as they are. A speaker without embeddings gets a random direction.
    """
    unit = nn.functional.normalize(embeddings.float(), dim=1)
    generator = torch_generator(seed, "class vectors")
    sums = torch.zeros(num_speakers, unit.shape[1]).index_add_(0, speakers, unit)
    counts = torch.bincount(speakers, minlength=num_speakers)
    noise = nn.functional.normalize(torch.randn(sums.shape, generator=generator), dim=1)
    vectors = sums / counts.clamp_min(1)[:, None]
    new = (unit == 0).all(0)
    if new.any():
        extra = torch.randn(num_speakers, int(new.sum()), generator=generator)
        vectors[:, new] = _NEW_COORDINATE_LENGTH * nn.functional.normalize(extra, dim=1)
    return torch.where((counts > 0)[:, None], vectors, noise)

"""Triplet losses over the pairs of a batch.

Distances are squared Euclidean ones of unit vectors, 2 - 2 cos, from 0 to 4; margins likewise.
Shapes: B batch, P pairs of an anchor and a positive.
"""

from __future__ import annotations

from torch import Tensor

from mrl.loss.pairs import PairObjective, Pairs

_NONE = float("inf")


def batch_hard(cosines: Tensor, pairs: Pairs, margin: float) -> Tensor:
    """Each anchor with its furthest positive and its nearest negative; mean over the anchors that have both.

    Hermans et al., arXiv 1703.07737.
    """
    distances = 2.0 - 2.0 * cosines
    furthest = distances.masked_fill(~pairs.same, -_NONE).amax(1)
    nearest = distances.masked_fill(~pairs.different, _NONE).amin(1)
    losses = (furthest - nearest + margin).relu()  # minus infinity, so 0, for an anchor that lacks either
    usable = pairs.same.any(1) & pairs.different.any(1)
    return losses.sum() / usable.sum().clamp_min(1)


def semi_hard(cosines: Tensor, pairs: Pairs, margin: float) -> Tensor:
    """Each pair with the nearest negative that is further than its positive; mean over the pairs.

    Schroff et al., FaceNet, arXiv 1503.03832. Where every negative is nearer than the positive, the furthest
    one is taken, so that such pairs are trained too (as TensorFlow's ``triplet_semihard_loss`` has it).
    """
    distances = 2.0 - 2.0 * cosines
    to_positive = distances[pairs.anchors, pairs.positives]  # [P]
    negatives = distances.masked_fill(~pairs.different, _NONE)[pairs.anchors]  # [P, B]
    nearest_beyond = negatives.masked_fill(negatives <= to_positive[:, None], _NONE).amin(1)
    furthest = distances.masked_fill(~pairs.different, -_NONE).amax(1)[pairs.anchors]
    to_negative = furthest.where(nearest_beyond == _NONE, nearest_beyond)
    losses = (to_positive - to_negative + margin).relu()
    return losses.sum() / max(1, len(losses))


def every_triplet(cosines: Tensor, pairs: Pairs, margin: float) -> Tensor:
    """Mean over all triplets of the batch that have a loss above 0 ("batch all, non-zero" of Hermans et al.)."""
    distances = 2.0 - 2.0 * cosines
    to_positive = distances[pairs.anchors, pairs.positives]  # [P]
    losses = (to_positive[:, None] - distances[pairs.anchors] + margin).relu()  # [P, B]
    losses = losses.masked_fill(~pairs.different[pairs.anchors], 0.0)
    return losses.sum() / (losses > 0).sum().clamp_min(1)


MINING: dict[str, PairObjective] = {"hard": batch_hard, "semi_hard": semi_hard, "all": every_triplet}

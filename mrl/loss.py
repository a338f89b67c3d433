"""Sliced additive-margin softmax: one class matrix serves every prefix of the embedding.

Shapes: B batch, D widest prefix, S speakers, K sub-centres per speaker.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

# Squared lengths below this count as this: an all-zero prefix then has cosine 0 and a finite gradient.
_SMALLEST_SQUARE = 1e-12
# 1 - cos^2 is kept above this before the square root, whose slope is infinite at 0.
_SMALLEST_SINE_SQUARE = 1e-7


class LossTerms(NamedTuple):
    """``total`` is the weighted sum; ``per_prefix`` [number of prefixes] holds its terms, unweighted, detached."""

    total: Tensor
    per_prefix: Tensor


def prefix_cosines(embeddings: Tensor, class_vectors: Tensor, dims: Sequence[int]) -> Iterator[Tensor]:
    """Cosines [B, S] of ``embeddings`` [B, D] with ``class_vectors`` [S, D], for each prefix in ``dims`` (ascending).

    Dot products and squared lengths over a prefix are those over the prefix before plus those over the block
    between, so all prefixes together cost one D-wide product.
    """
    dots = embeddings.new_zeros(())
    squares_e = embeddings.new_zeros(())
    squares_w = embeddings.new_zeros(())
    start = 0
    for dim in dims:
        block_e, block_w = embeddings[:, start:dim], class_vectors[:, start:dim]
        dots = dots + block_e @ block_w.T
        squares_e = squares_e + block_e.square().sum(1)
        squares_w = squares_w + block_w.square().sum(1)
        lengths_e = squares_e.clamp_min(_SMALLEST_SQUARE).rsqrt()
        lengths_w = squares_w.clamp_min(_SMALLEST_SQUARE).rsqrt()
        yield dots * lengths_e[:, None] * lengths_w[None, :]
        start = dim


def angular_margin(cosines: Tensor, margin: float) -> Tensor:
    """``cos(theta + margin)`` of target ``cosines``; margin in radians.

    Where ``theta + margin`` passes pi the cosine would rise again; there ``cos(theta) - margin sin(margin)``
    continues it downwards (Deng et al., ArcFace, arXiv 1801.07698, and its reference implementation).
    """
    sines = (1.0 - cosines.square()).clamp_min(_SMALLEST_SINE_SQUARE).sqrt()
    shifted = cosines * math.cos(margin) - sines * math.sin(margin)
    return torch.where(cosines > -math.cos(margin), shifted, cosines - margin * math.sin(margin))


def cosine_margin(cosines: Tensor, margin: float) -> Tensor:
    """``cos(theta) - margin`` (Wang et al., CosFace, arXiv 1801.09414)."""
    return cosines - margin


_MARGINS = {"aam": angular_margin, "am": cosine_margin}


class SlicedMarginClassifier(nn.Module):
    """Class vectors and the weighted sum over prefixes of margin-softmax cross-entropies.

    Example:
        >>> classifier = SlicedMarginClassifier(num_speakers=10, prefixes={64: 1.0, 256: 0.5})
        >>> terms = classifier(torch.randn(4, 256), torch.tensor([0, 1, 2, 3]), margin=0.2)
        >>> terms.total.backward()

    Everything here is computed in the precision of the class vectors (float32), whatever the autocast: angles
    near |cos| = 1 do not survive sixteen bits.
    """

    def __init__(
        self,
        num_speakers: int,
        prefixes: dict[int, float],
        *,
        kind: Literal["aam", "am"] = "aam",
        scale: float = 30.0,
        subcenters: int = 1,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.dims = tuple(sorted(prefixes))
        self.prefix_weights = tuple(prefixes[dim] for dim in self.dims)
        self.num_speakers = num_speakers
        self.subcenters = subcenters
        self.scale = scale
        self.label_smoothing = label_smoothing
        self._apply_margin = _MARGINS[kind]
        self.class_vectors = nn.Parameter(torch.empty(num_speakers * subcenters, self.dims[-1]))
        nn.init.xavier_normal_(self.class_vectors)

    @torch.no_grad()
    def set_class_vectors(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Start from ``vectors`` [S, D]; sub-centres of a speaker start near it, a tenth of its length apart."""
        repeated = vectors.repeat_interleave(self.subcenters, dim=0)
        if self.subcenters > 1:
            noise = nn.functional.normalize(torch.randn(repeated.shape, generator=generator), dim=1)
            repeated = repeated + 0.1 * repeated.norm(dim=1, keepdim=True) * noise
        self.class_vectors.copy_(repeated)

    def forward(self, embeddings: Tensor, speakers: Tensor, margin: float) -> LossTerms:
        """Loss of ``embeddings`` [B, D] whose classes are ``speakers`` [B] int64."""
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(self.class_vectors.dtype)
            losses = [
                self._cross_entropy(cosines, speakers, margin)
                for cosines in prefix_cosines(embeddings, self.class_vectors, self.dims)
            ]
            total = sum(
                (weight * loss for weight, loss in zip(self.prefix_weights, losses, strict=True)),
                start=embeddings.new_zeros(()),
            )
        return LossTerms(total, torch.stack([loss.detach() for loss in losses]))

    def _cross_entropy(self, cosines: Tensor, speakers: Tensor, margin: float) -> Tensor:
        if self.subcenters > 1:
            cosines = cosines.view(len(cosines), self.num_speakers, self.subcenters).amax(2)
        target = speakers[:, None]
        with_margin = self._apply_margin(cosines.gather(1, target), margin)
        logits = self.scale * cosines.scatter(1, target, with_margin)
        return nn.functional.cross_entropy(logits, speakers, label_smoothing=self.label_smoothing)

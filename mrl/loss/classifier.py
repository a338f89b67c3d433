"""One matrix of class vectors serves every prefix of the embedding.

Shapes: B batch, D widest prefix, S speakers, N blocks of classes, K sub-centres per class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mrl.loss.chunked import compute_in_chunks
from mrl.loss.cosines import prefix_cosines
from mrl.loss.fused import LARGEST_SCALE, PrefixSoftmax, fused_softmax
from mrl.loss.precomputed import precomputed_terms
from mrl.loss.softmax import MarginSoftmax
from mrl.loss.terms import LossTerms, PrefixSettings, SlicedLoss, Targets

Objective = Callable[[Tensor, Tensor, float, float], Tensor]
"""(cosines [B, C], classes [B], margin, scale) -> losses [B]; a module where it has numbers of its own."""


class SlicedClassifier(SlicedLoss):
    """Class vectors, and an objective over their cosines with each prefix of an embedding.

    Classes come in blocks of S: the speakers as they are, then the speakers at each other speed. A stage uses
    the blocks that :meth:`use_blocks` names; the rows of the others rest, each in its speaker's place.

    Args:
        num_speakers: S.
        dims: prefixes, ascending.
        objectives: one for each prefix.
        scales: factor on the cosines, one for each prefix.
        num_blocks: N.
        subcenters: class vectors per class; the nearest one counts (Deng et al., Sub-center ArcFace, ECCV 2020).

    Everything here is computed in the precision of the class vectors (float32), whatever the autocast: angles
    near |cos| = 1 do not survive sixteen bits.

    Example:
        >>> softmax = MarginSoftmax("aam")
        >>> classifier = SlicedClassifier(10, [64, 256], [softmax, softmax], [30.0, 30.0])
        >>> settings = PrefixSettings(margins=(0.2, 0.2), weights=(1.0, 0.5))
        >>> classifier(torch.randn(4, 256), Targets(torch.tensor([0, 1, 2, 3])), settings).total.backward()
    """

    def __init__(
        self,
        num_speakers: int,
        dims: Sequence[int],
        objectives: Sequence[Objective],
        scales: Sequence[float],
        *,
        num_blocks: int = 1,
        subcenters: int = 1,
    ) -> None:
        super().__init__(dims)
        assert len(objectives) == len(scales) == len(self.dims)
        self.num_speakers = num_speakers
        self.num_blocks = num_blocks
        self.subcenters = subcenters
        self._objectives = tuple(objectives)
        # So that numbers of their own are found as parameters; one that serves several prefixes counts once.
        self.objectives = nn.ModuleList(dict.fromkeys(o for o in objectives if isinstance(o, nn.Module)))
        self._scales = tuple(scales)
        self._blocks: tuple[int, ...] = (0,)
        rows = num_blocks * num_speakers * subcenters
        self.class_vectors = nn.Parameter(torch.empty(rows, self.dims[-1]))
        nn.init.xavier_normal_(self.class_vectors)

    def use_blocks(self, blocks: Sequence[int]) -> None:
        """Class ``j * S + speaker`` is from now on that speaker in block ``blocks[j]``."""
        assert all(0 <= block < self.num_blocks for block in blocks)
        self._blocks = tuple(blocks)

    @torch.no_grad()
    def set_class_vectors(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Start from ``vectors`` [N * S, D]; sub-centres of a class start near it, a tenth of its length apart."""
        repeated = vectors.repeat_interleave(self.subcenters, dim=0)
        if self.subcenters > 1:
            noise = nn.functional.normalize(torch.randn(repeated.shape, generator=generator), dim=1)
            repeated = repeated + 0.1 * repeated.norm(dim=1, keepdim=True) * noise
        self.class_vectors.copy_(repeated)

    def terms(self, embeddings: Tensor, targets: Targets, settings: PrefixSettings) -> LossTerms:
        vectors = self._vectors_in_use()
        inputs = embeddings.to(vectors.dtype), vectors
        softmax = self._as_softmax(settings)
        if softmax is not None and self.subcenters == 1 and targets.partners is None:
            return precomputed_terms(
                partial(fused_softmax, softmax, targets.speakers), settings.weights, inputs
            )

        def item_losses(embeddings: Tensor, vectors: Tensor, rows: slice) -> list[Tensor]:
            of_items = targets.part(rows)
            per_prefix = zip(
                self._cosines(embeddings, vectors),
                self._objectives,
                settings.margins,
                self._scales,
                strict=True,
            )
            return [
                _mixed(objective, cosines, of_items, margin, scale)
                for cosines, objective, margin, scale in per_prefix
            ]

        parameters = list(self.objectives.parameters())
        compute = partial(compute_in_chunks, item_losses, settings.weights, parameters)
        return precomputed_terms(compute, settings.weights, [*inputs, *parameters])

    @torch.no_grad()
    def score(self, embeddings: Tensor, speakers: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [B, prefixes] without a margin, and whether the nearest class is the right one, bool likewise.

        ``embeddings`` [B, D], ``speakers`` [B]; the classes are those at the true speed, whatever is in use.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            losses, hits = [], []
            vectors = self.class_vectors.chunk(self.num_blocks)[0]
            cosines_of = self._cosines(embeddings.to(vectors.dtype), vectors)
            per_prefix = zip(cosines_of, self._objectives, self._scales, strict=True)
            for cosines, objective, scale in per_prefix:
                losses.append(objective(cosines, speakers, 0.0, scale))
                hits.append(cosines.argmax(1) == speakers)
        return torch.stack(losses, 1), torch.stack(hits, 1)

    def _cosines(self, embeddings: Tensor, vectors: Tensor) -> list[Tensor]:
        """Cosines [B, C] with the classes of ``vectors`` [C * K, D], at each prefix."""
        cosines = prefix_cosines(embeddings, vectors, self.dims)
        if self.subcenters == 1:
            return list(cosines)
        # max, not amax, whose gradient takes twice as long.
        return [prefix.unflatten(1, (-1, self.subcenters)).max(2).values for prefix in cosines]

    def _as_softmax(self, settings: PrefixSettings) -> list[PrefixSoftmax] | None:
        """The prefixes as :func:`fused_softmax` takes them; None where one asks for what it does not compute."""
        prefixes = []
        per_prefix = zip(
            self.dims, self._objectives, settings.margins, self._scales, settings.weights, strict=True
        )
        for dim, objective, margin, scale, weight in per_prefix:
            if not isinstance(objective, MarginSoftmax) or not objective.leaves_wrong_classes:
                return None
            if scale > LARGEST_SCALE:
                return None
            prefixes.append(PrefixSoftmax(dim, objective, margin, scale, weight))
        return prefixes

    def _vectors_in_use(self) -> Tensor:
        if self._blocks == tuple(range(self.num_blocks)):
            return self.class_vectors
        blocks = self.class_vectors.chunk(self.num_blocks)
        if len(self._blocks) == 1:
            return blocks[self._blocks[0]]
        return torch.cat([blocks[block] for block in self._blocks])


def _mixed(objective: Objective, cosines: Tensor, targets: Targets, margin: float, scale: float) -> Tensor:
    """Losses [B]; of a mixed item the mean of its two losses, by their shares (mixup, arXiv 1710.09412)."""
    losses = objective(cosines, targets.speakers, margin, scale)
    if targets.partners is not None:
        assert targets.shares is not None
        partner = objective(cosines, targets.partners, margin, scale)
        losses = targets.shares * losses + (1.0 - targets.shares) * partner
    return losses

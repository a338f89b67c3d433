"""One matrix of class vectors serves every prefix of the embedding.

Shapes: B batch, D widest prefix, S speakers, N blocks of classes, K sub-centres per class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mrl.loss.cosines import prefix_cosines
from mrl.loss.terms import SlicedLoss, Targets

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

    def losses(self, embeddings: Tensor, targets: Targets, margins: Sequence[float]) -> list[Tensor]:
        cosines = self._cosines(embeddings, self._vectors_in_use())
        per_prefix = zip(cosines, self._objectives, margins, self._scales, strict=True)
        return [
            _mixed(objective, prefix, targets, margin, scale)
            for prefix, objective, margin, scale in per_prefix
        ]

    @torch.no_grad()
    def score(self, embeddings: Tensor, speakers: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [B, prefixes] without a margin, and whether the nearest class is the right one, bool likewise.

        ``embeddings`` [B, D], ``speakers`` [B]; the classes are those at the true speed, whatever is in use.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            losses, hits = [], []
            cosines_of = self._cosines(embeddings, self.class_vectors.chunk(self.num_blocks)[0])
            per_prefix = zip(cosines_of, self._objectives, self._scales, strict=True)
            for cosines, objective, scale in per_prefix:
                losses.append(objective(cosines, speakers, 0.0, scale))
                hits.append(cosines.argmax(1) == speakers)
        return torch.stack(losses, 1), torch.stack(hits, 1)

    def _cosines(self, embeddings: Tensor, vectors: Tensor) -> list[Tensor]:
        """Cosines [B, C] with the classes of ``vectors`` [C * K, D], at each prefix."""
        cosines = prefix_cosines(embeddings.to(vectors.dtype), vectors, self.dims)
        if self.subcenters == 1:
            return list(cosines)
        # max, not amax, whose gradient takes twice as long.
        return [prefix.unflatten(1, (-1, self.subcenters)).max(2).values for prefix in cosines]

    def _vectors_in_use(self) -> Tensor:
        if self._blocks == tuple(range(self.num_blocks)):
            return self.class_vectors
        blocks = self.class_vectors.chunk(self.num_blocks)
        if len(self._blocks) == 1:
            return blocks[self._blocks[0]]
        return torch.cat([blocks[block] for block in self._blocks])


def _mixed(objective: Objective, cosines: Tensor, targets: Targets, margin: float, scale: float) -> Tensor:
    """The mean loss; of a mixed item the mean of its two losses, by their shares (mixup, arXiv 1710.09412)."""
    losses = objective(cosines, targets.speakers, margin, scale)
    if targets.partners is not None:
        assert targets.shares is not None
        partner = objective(cosines, targets.partners, margin, scale)
        losses = targets.shares * losses + (1.0 - targets.shares) * partner
    return losses.mean()

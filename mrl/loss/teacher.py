"""What keeps a student's embedding close to a teacher's, at every prefix.

Shapes: B batch, N sample of a fit, D widest prefix, E teacher's embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mrl.loss.cosines import full_precision, paired_cosines

# Of the mean square of a coordinate: enough to hold coordinates that are all zero in the sample.
_RIDGE_SHARE = 1e-3


class TeacherTerm(nn.Module):
    """1 - cosine to the teacher's embedding, in float32 whatever the autocast.

    In one space with the teacher, a prefix is compared with the teacher's prefix of the same length; beyond E
    the teacher has zeros. Otherwise a learned linear map M [E, D] leads to the teacher's space: a prefix of
    length d is taken there by the first d columns, and compared with the whole of the teacher's embedding.

    Args:
        dims: prefixes, ascending.
        teacher_dim: E.
        mapped: whether the teacher has a space of its own. The map then starts as the identity; :meth:`fit`
            gives it a better start.
    """

    def __init__(self, dims: Sequence[int], teacher_dim: int, *, mapped: bool) -> None:
        super().__init__()
        self.dims = tuple(dims)
        self.teacher_dim = teacher_dim
        self.map = nn.Parameter(torch.eye(teacher_dim, self.dims[-1])) if mapped else None

    def forward(self, embeddings: Tensor, teacher: Tensor) -> Tensor:
        """Mean over the prefixes and the batch, a scalar, for ``embeddings`` [B, D] and ``teacher`` [B, E]."""
        assert teacher.shape[1] == self.teacher_dim
        with torch.autocast(embeddings.device.type, enabled=False):
            compared = self._compared(full_precision(embeddings), full_precision(teacher))
            return torch.stack([(1.0 - paired_cosines(*pair)).mean() for pair in compared]).mean()

    @torch.no_grad()
    def fit(self, embeddings: Tensor, teacher: Tensor) -> None:
        """Start the map from a sample: ``embeddings`` [N, D] and ``teacher`` [N, E] of the same utterances.

        Ridge least squares from the unit vectors of all prefixes at once to the teacher's unit vectors, as one
        map has to serve them all.
        """
        assert self.map is not None
        assert len(embeddings) == len(teacher)
        wanted = nn.functional.normalize(teacher.double(), dim=1)
        width = self.dims[-1]
        squares = wanted.new_zeros(width, width)
        products = wanted.new_zeros(width, self.teacher_dim)
        for dim in self.dims:
            prefix = nn.functional.normalize(embeddings[:, :dim].to(wanted), dim=1)
            squares[:dim, :dim] += prefix.T @ prefix
            products[:dim] += prefix.T @ wanted
        squares.diagonal().add_(_RIDGE_SHARE * squares.diagonal().mean())
        self.map.copy_(torch.linalg.solve(squares, products).T)

    def _compared(self, embeddings: Tensor, teacher: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each prefix, what is compared with what."""
        if self.map is None:
            padded = nn.functional.pad(teacher, (0, max(0, self.dims[-1] - self.teacher_dim)))
            for dim in self.dims:
                yield embeddings[:, :dim], padded[:, :dim]
            return
        mapped = embeddings.new_zeros(())
        start = 0
        for dim in self.dims:
            mapped = mapped + embeddings[:, start:dim] @ self.map[:, start:dim].T
            yield mapped, teacher
            start = dim

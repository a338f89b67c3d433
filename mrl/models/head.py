"""The Matryoshka head: one projection, every prefix of which is a speaker embedding.

Shapes: B batch, P pooled statistics, D widest embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MatryoshkaHead(nn.Module):
    """BatchNorm over the pooled statistics, dropout, one linear layer: [B, P] -> [B, D].

    The output is raw. A prefix is a slice ``output[:, :d]``, normalised after slicing.

    Reference: Kusupati et al., Matryoshka Representation Learning, arXiv 2205.13147.
    """

    def __init__(self, pooled_dim: int, embedding_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(pooled_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(pooled_dim, embedding_dim)

    @property
    def embedding_dim(self) -> int:
        return self.linear.out_features

    def forward(self, pooled: Tensor) -> Tensor:
        # The head costs next to nothing, and sixteen bits would leave a coarse embedding.
        with torch.autocast(pooled.device.type, enabled=False):
            return self.linear(self.dropout(self.bn(pooled.to(self.linear.weight.dtype))))

"""The blocks of a released network by depth: stem, stages, pooling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from torch import nn

from mrl.models.released import Trunk

POOLING = "pooling"
"""The last block of the backbone: the weighted sum of all outputs, the output layer and the pooling."""

_STAGE = re.compile(r"backbone\.(stage\d+)[._]")


def block_of(name: str) -> str:
    """The block that the backbone's parameter ``name`` belongs to: "stem", "stage0", "stage1", ..., "pooling"."""
    if name.startswith("backbone.stem"):  # ReDimNet2 has stem_gnorm too
        return "stem"
    found = _STAGE.match(name)
    return found[1] if found else POOLING


def named_blocks(trunk: Trunk) -> Iterator[tuple[str, nn.Parameter]]:
    """Each parameter of ``trunk`` with its block."""
    for name, parameter in trunk.named_parameters():
        yield block_of(name), parameter


def distances_to_head(blocks: Iterable[str]) -> dict[str, int]:
    """Blocks between each of ``blocks`` and the head: 0 for the pooling, 1 for the last stage, most for the stem."""
    stages = sorted(
        {block for block in blocks if block.startswith("stage")}, key=lambda block: int(block[5:])
    )
    return {block: distance for distance, block in enumerate([POOLING, *reversed(stages), "stem"])}

"""The network that the benchmarks run: ReDimNet b2, with random weights, and a tiny one to try them with."""

from __future__ import annotations

from typing import Any

DIMS = (64, 128, 192, 256)
"""The prefixes of config.yaml."""

# The options of the released b2-vox2 files (5,067,057 parameters); see docs/results.md.
B2: dict[str, Any] = {
    "F": 72, "C": 16, "block_1d_type": "conv+att", "block_2d_type": "convnext_like", "group_divisor": 4,
    "out_channels": None, "global_context_att": True, "hop_length": 240, "embed_dim": 192, "emb_bn": False,
    "pooling_func": "ASTP", "feat_type": "pt", "spec_params": {},
    "stages_setup": [
        [1, 2, 1, [[3, 3]], 12], [2, 2, 1, [[3, 3]], 12], [1, 3, 1, [[3, 3]], 12],
        [3, 4, 1, [[3, 3]], 8], [1, 4, 1, [[3, 3]], 8], [2, 4, 1, [[3, 3]], 4],
    ],
}  # fmt: skip
TINY: dict[str, Any] = {
    **B2, "F": 24, "C": 4, "embed_dim": 32,
    "stages_setup": [[2, 1, 1, [[3, 3]], 12], [2, 1, 1, [[3, 3]], 12]],
}  # fmt: skip

"""Outputs of fixed weights on a fixed waveform, stored: a guard that needs no reference folder.

The stored numbers were written by this file when every model here agreed with the authors' code
(`test_redimnet_parity.py`). After a change that is meant to move them, write them anew:

    uv run python tests/models/test_reference_outputs.py
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mrl.models.pretrained import build_released
from mrl.models.released import ReleasedModel

STORED = Path(__file__).parent / "reference" / "outputs.npz"
K = [[3, 3]]
FIRST: dict[str, Any] = {"F": 12, "C": 4, "embed_dim": 16, "global_context_att": True}
SECOND: dict[str, Any] = {**FIRST, "causal": "none", "feat_type": "tf", "spec_params": {"norm_signal": True}}
CONFIGS: dict[str, dict[str, Any]] = {
    "convnext_conv_att": {
        **FIRST,
        "block_1d_type": "conv+att",
        "hop_length": 240,
        "stages_setup": [[1, 1, 1, K, None], [2, 1, 1, K, 12], [3, 1, 1, K, 6]],
    },
    "resnet_fwse_att": {
        **FIRST,
        "block_2d_type": "basic_resnet_fwse",
        "stages_setup": [[1, 1, 2, K, 12], [2, 1, 1.5, K, None]],
        "out_channels": 20,
        "global_context_att": False,
    },
    "resnet_fc_tstp_bn": {
        **FIRST,
        "block_1d_type": "fc",
        "block_2d_type": "basic_resnet",
        "group_divisor": None,
        "stages_setup": [[2, 1, 1, K, 4], [1, 1, 2, K, None]],
        "pooling_func": "TSTP",
        "emb_bn": True,
        "spec_params": {"norm_signal": True},
    },
    "convnext_conv_tf": {
        **FIRST,
        "block_1d_type": "conv",
        "feat_type": "tf",
        "stages_setup": [[3, 1, 2, K, 6], [2, 1, 1, K, None]],
    },
    "second_gnorm_2d": {
        **SECOND,
        "agg_gnorm": True,
        "return_2d_output": True,
        "out_channels": 3,
        "stages_setup": [[[1, 1], 1, 2, K, 12], [[2, 2], 1, 0.75, K, None], [[1, 2], 1, 1, K, 6]],
    },
    "second_dual": {
        **SECOND,
        "dual_agg": True,
        "block_2d_type": "convnext_like",
        "stages_setup": [[[1, 1], 1, 1, [[3, 5], [3, 3]], 12], [[3, 2], 1, 1, K, 6]],
    },
}


def uniform(key: str, count: int) -> np.ndarray:
    """``count`` numbers in [0, 1) fixed by ``key``: raw Philox words, which are the same on every platform."""
    return np.random.Philox(key=zlib.crc32(key.encode())).random_raw(count) / 2.0**64


def fill(model: ReleasedModel) -> None:
    """Give every tensor but the front end's constants a value that depends on its name and shape alone."""
    for key, tensor in model.state_dict().items():
        if key.startswith("spec.") or not tensor.is_floating_point():
            continue
        values = torch.from_numpy(uniform(key, tensor.numel())).reshape(tensor.shape)
        if key.endswith("running_var") or (key.endswith("weight") and tensor.ndim == 1):
            values = 0.5 + values
        elif tensor.ndim > 1 and key.endswith("weight"):
            values = (2 * values - 1) * math.sqrt(3 / tensor[0].numel())
        else:
            values = 0.5 * (2 * values - 1)
        tensor.copy_(values)


def fixed_waveform() -> Tensor:
    """Two utterances [2, 6400]: harmonics of a gliding pitch, and a little noise."""
    time = np.arange(6400) / 16_000
    voices = []
    for pitch in (120.0, 210.0):
        phase = 2 * np.pi * (pitch * time + 40 * time**2)
        tone = sum(np.sin(k * phase) / k for k in range(1, 16))
        noise = uniform(f"noise {pitch}", time.size) - 0.5
        voices.append(0.1 * tone * np.cos(6 * time) + 0.01 * noise)
    return torch.tensor(np.stack(voices), dtype=torch.float32)


@torch.no_grad()
def outputs(name: str) -> dict[str, np.ndarray]:
    """What is stored for one model: the embedding, the pooled statistics and the first log-mel."""
    model = build_released(CONFIGS[name]).eval()
    fill(model)
    waveform = fixed_waveform()
    mel = model.mel(waveform)
    pooled = model.pool_features(model.frame_features(mel))
    return {
        f"{name}/mel": mel[0].numpy(),
        f"{name}/pooled": pooled.numpy(),
        f"{name}/embedding": model.project(pooled).numpy(),
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_are_the_stored_ones(name):
    stored = np.load(STORED)
    tolerance = {"mel": 5e-4, "pooled": 5e-4, "embedding": 1e-3}
    for key, values in outputs(name).items():
        np.testing.assert_allclose(
            values, stored[key], atol=tolerance[key.split("/")[1]], rtol=0, err_msg=key
        )


def test_every_tensor_counts():
    """Were some part of the network unused, its stored outputs would guard nothing."""
    name = "second_gnorm_2d"
    model = build_released(CONFIGS[name]).eval()
    fill(model)
    waveform = fixed_waveform()
    with torch.no_grad():
        expected = model(waveform)
        inert = ("k_proj.bias", "pool.linear2.bias", "num_batches_tracked", "stage0.0.w", "kernel_pt")
        for key, tensor in model.state_dict().items():
            if not key.endswith(inert):
                before = tensor.clone()
                tensor.add_(torch.linspace(0.1, 0.3, tensor.numel()).reshape(tensor.shape))
                assert (model(waveform) - expected).abs().max() > 1e-5, key
                tensor.copy_(before)


if __name__ == "__main__":
    STORED.parent.mkdir(exist_ok=True)
    np.savez_compressed(STORED, **{key: values for name in CONFIGS for key, values in outputs(name).items()})
    print(f"{STORED}: {STORED.stat().st_size} bytes")

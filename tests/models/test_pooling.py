"""Poolings: hand-computed statistics, naive loops, and the outputs of the authors' code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.models.pooling import ASTP, MHASTP, POOLINGS, build_pooling

# Two channels over three frames: means 2 and 5, unbiased variances 1 and 0.
FRAMES = torch.tensor([[[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]])
FLOOR = math.sqrt(1e-7)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TAP", [2.0, 5.0]),
        ("TMAP", [5.0, 10.0]),
        ("TSDP", [math.sqrt(1 + 1e-7), FLOOR]),
        ("TSTP", [2.0, 5.0, math.sqrt(1 + 1e-7), FLOOR]),
    ],
)
def test_plain_statistics_by_hand(name, expected):
    pooling = build_pooling(name, 2, global_context=False)
    torch.testing.assert_close(pooling(FRAMES), torch.tensor([expected]))


def test_even_attention_gives_the_population_statistics():
    pooling = ASTP(2)
    torch.nn.init.zeros_(pooling.linear2.weight)
    torch.nn.init.zeros_(pooling.linear2.bias)
    frames = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]])
    expected = torch.tensor([[2.0, 0.0, math.sqrt(2 / 3), FLOOR]])
    torch.testing.assert_close(pooling(frames), expected)


def attentive_by_hand(pooling: ASTP, frames: torch.Tensor) -> torch.Tensor:
    """ASTP of one utterance [D, T], frame by frame, in double precision."""
    frames = frames.double()
    w1, b1 = pooling.linear1.weight[:, :, 0].double(), pooling.linear1.bias.double()
    w2, b2 = pooling.linear2.weight[:, :, 0].double(), pooling.linear2.bias.double()
    context = torch.cat([frames.mean(dim=1), torch.sqrt(frames.var(dim=1, correction=1) + 1e-7)])
    scores = []
    for frame in frames.T:
        seen = torch.cat([frame, context]) if pooling.global_context else frame
        scores.append(w2 @ torch.tanh(w1 @ seen + b1) + b2)
    weights = torch.softmax(torch.stack(scores, dim=1), dim=1)
    mean = (weights * frames).sum(dim=1)
    deviation = torch.sqrt((weights * (frames - mean[:, None]) ** 2).sum(dim=1))
    return torch.cat([mean, deviation]).float()


@pytest.mark.parametrize("global_context", [False, True])
def test_attentive_statistics_match_a_loop_over_frames(global_context):
    torch.manual_seed(0)
    pooling = ASTP(6, global_context=global_context, bottleneck_dim=8)
    frames = torch.randn(3, 6, 11)
    expected = torch.stack([attentive_by_hand(pooling, utterance) for utterance in frames])
    torch.testing.assert_close(pooling(frames), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
def test_out_dim_and_float32_under_autocast(name):
    pooling = build_pooling(name, 16, global_context=True)
    frames = torch.randn(2, 16, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = pooling(frames.bfloat16())
    assert pooled.shape == (2, pooling.out_dim)
    assert pooled.dtype == torch.float32


def test_a_small_deviation_survives_half_precision_frames():
    """E[x^2] - E[x]^2 of bfloat16 numbers near 8 would be off by more than the variance itself."""
    frames = 8.0 + 0.0625 * torch.tensor([[[1.0, -1.0] * 8]])
    pooling = ASTP(1)
    torch.nn.init.zeros_(pooling.linear2.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = pooling(frames.bfloat16())
    torch.testing.assert_close(pooled, torch.tensor([[8.0, 0.0625]]), atol=1e-3, rtol=0)


@settings(deadline=None)
@given(st.sampled_from(sorted(POOLINGS)), st.integers(min_value=0, max_value=10_000))
def test_the_order_of_frames_does_not_matter(name, seed):
    generator = torch.Generator().manual_seed(seed)
    pooling = build_pooling(name, 16, global_context=True)
    frames = torch.randn(2, 16, 7, generator=generator)
    shuffled = frames[:, :, torch.randperm(7, generator=generator)]
    torch.testing.assert_close(pooling(frames), pooling(shuffled), atol=1e-4, rtol=1e-4)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="10 channels cannot be cut into 4 heads"):
        MHASTP(10, heads=4)


def test_outputs_equal_those_of_the_authors(parity):
    stored = torch.load(parity / "poolings_unit.pt", weights_only=True)
    assert {case["pooling_func"] for case in stored["cases"]} == set(POOLINGS)
    for case in stored["cases"]:
        options = case["kwargs"]
        pooling = build_pooling(
            case["pooling_func"],
            options["in_dim"],
            global_context=options.get("global_context_att", False),
        )
        pooling.load_state_dict(case["state_dict"], strict=True)
        assert pooling.out_dim == case["out_dim"]
        torch.testing.assert_close(pooling(stored["input"]), case["output"], atol=1e-5, rtol=1e-5)

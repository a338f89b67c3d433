"""ReDimNet as its description reads, line by line: the plain path beside `mrl.models.redimnet`.

First generation, with 2-D blocks "convnext_like", 1-D blocks "conv+att" and the torchaudio front end: what the
released b2 is made of. Nothing is arranged for speed; the tensor names are those of the released files, so that
both load the same weights.

B batch, T samples or frames, C channels, F frequency rows, D = C F.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.transforms import MelSpectrogram


class PreEmphasis(nn.Module):
    """[B, T] -> [B, T]: y[t] = x[t] - 0.97 x[t - 1], one reflected sample in front."""

    flipped_filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("flipped_filter", torch.tensor([[[-0.97, 1.0]]]))

    def forward(self, waveform: Tensor) -> Tensor:
        padded = functional.pad(waveform.unsqueeze(1), (1, 0), mode="reflect")
        return functional.conv1d(padded, self.flipped_filter).squeeze(1)


class MelBank(nn.Module):
    """Waveform [B, T] -> log-mel [B, F, frames], each band's mean subtracted."""

    def __init__(self, bands: int, hop_samples: int) -> None:
        super().__init__()
        mel = MelSpectrogram(
            sample_rate=16_000,
            n_fft=512,
            win_length=400,
            hop_length=hop_samples,
            f_min=20.0,
            f_max=7600.0,
            n_mels=bands,
            window_fn=torch.hamming_window,
        )
        self.torchfbank = nn.Sequential(nn.Identity(), PreEmphasis(), mel)

    def forward(self, waveform: Tensor) -> Tensor:
        log_mel = torch.log(self.torchfbank(waveform) + 1e-6)
        return log_mel - log_mel.mean(dim=-1, keepdim=True)


class ChannelNorm(nn.Module):
    """LayerNorm over dimension 1 of [B, C, ...]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1, keepdim=True)
        variance = (x - mean).pow(2).mean(dim=1, keepdim=True)
        normed = (x - mean) / torch.sqrt(variance + 1e-6)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return self.weight.view(shape) * normed + self.bias.view(shape)


class To1d(nn.Module):
    """[B, C, F, T] -> [B, F C, T]."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, rows, frames = x.shape
        return x.permute(0, 2, 1, 3).contiguous().view(batch, rows * channels, frames)


class To2d(nn.Module):
    """[B, F C, T] -> [B, C, F, T]."""

    def __init__(self, channels: int, rows: int) -> None:
        super().__init__()
        self.channels, self.rows = channels, rows

    def forward(self, x: Tensor) -> Tensor:
        batch, _, frames = x.shape
        return x.view(batch, self.rows, self.channels, frames).permute(0, 2, 1, 3).contiguous()


class WeightedSum(nn.Module):
    """All outputs so far, each [B, D, T] -> their sum, weighted by a softmax over them."""

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, count, channels, 1))

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(outputs), dim=1)
        return (torch.softmax(self.w, dim=1) * stacked).sum(dim=1)


class ConvNeXt2d(nn.Module):
    """Grouped 3x3 convolution -> BatchNorm -> GELU -> 1x1, and a skip; [B, C, F, T]."""

    def __init__(self, channels: int, group_divisor: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels // group_divisor)
        self.dwconvs = nn.ModuleList([conv])
        self.norm = nn.BatchNorm2d(channels)
        self.pwconv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pwconv1(functional.gelu(self.norm(self.dwconvs[0](x))))


class ConvNeXt1d(nn.Module):
    """Depthwise convolution over ``kernel`` frames -> BatchNorm -> GELU -> 1x1, and a skip; [B, D, T]."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.dwconvs = nn.ModuleList([conv])
        self.norm = nn.BatchNorm1d(channels)
        self.pwconv1 = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pwconv1(functional.gelu(self.norm(self.dwconvs[0](x))))


class Block2d(nn.Module):
    """A ConvNeXt block under the name that the files give it."""

    def __init__(self, channels: int, group_divisor: int) -> None:
        super().__init__()
        self.conv_block = ConvNeXt2d(channels, group_divisor)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_block(x)


class Attention(nn.Module):
    """Self-attention over the frames [B, T, D], four heads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, channels = x.shape
        shape = (batch, frames, 4, channels // 4)
        query = self.q_proj(x).view(shape).transpose(1, 2)
        key = self.k_proj(x).view(shape).transpose(1, 2)
        value = self.v_proj(x).view(shape).transpose(1, 2)
        scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(channels // 4)
        attended = torch.matmul(torch.softmax(scores, dim=-1), value)
        return self.out_proj(attended.transpose(1, 2).contiguous().view(batch, frames, channels))


class FeedForward(nn.Module):
    """Linear -> GELU (tanh approximation) -> Linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(channels, channels)
        self.output_dense = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_dense(functional.gelu(self.intermediate_dense(x), approximate="tanh"))


class Transformer(nn.Module):
    """Post-norm transformer layer on [B, D, T]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = Attention(channels)
        self.layer_norm = nn.LayerNorm(channels, eps=1e-6)
        self.feed_forward = FeedForward(channels)
        self.final_layer_norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 1)
        x = self.layer_norm(x + self.attention(x))
        x = self.final_layer_norm(x + self.feed_forward(x))
        return x.permute(0, 2, 1)


class TimeBlock(nn.Module):
    """Reduce the channels, four convolutions and a transformer along time, expand, and a skip; [B, D, T]."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.red_dim_conv = nn.Sequential(nn.Conv1d(channels, hidden, 1), ChannelNorm(hidden))
        convs = (ConvNeXt1d(hidden, kernel) for kernel in (7, 19, 31, 59))
        self.tcm = nn.Sequential(*convs, Transformer(hidden))
        self.exp_dim_conv = nn.Conv1d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.exp_dim_conv(self.tcm(self.red_dim_conv(x)))


class Backbone(nn.Module):
    """[B, 1, F, T] -> [B, D, T]."""

    def __init__(
        self, bands: int, channels: int, group_divisor: int, stages_setup: Sequence[Sequence[Any]]
    ) -> None:
        super().__init__()
        width, rows = channels * bands, bands
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), ChannelNorm(channels), To1d())
        self.stages = len(stages_setup)
        for index, (stride, blocks, expansion, _, reduction) in enumerate(stages_setup):
            assert expansion == 1, "the plain path has no squeeze"
            layers: list[nn.Module] = [WeightedSum(index + 1, width if index else 1), To2d(channels, rows)]
            channels, rows = channels * stride, rows // stride
            layers.append(nn.Conv2d(channels // stride, channels, (stride, 1), stride=(stride, 1)))
            layers += [Block2d(channels, group_divisor) for _ in range(blocks)]
            layers.append(To1d())
            if reduction is not None:
                layers.append(TimeBlock(width, width // reduction))
            self.add_module(f"stage{index}", nn.Sequential(*layers))
        self.fin_wght1d = WeightedSum(self.stages + 1, width)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self.stem(x)]
        for index in range(self.stages):
            outputs.append(self.get_submodule(f"stage{index}")(outputs))
        return self.fin_wght1d(outputs)


class AttentiveStatistics(nn.Module):
    """[B, D, T] -> weighted mean and deviation [B, 2 D]; the attention sees the mean and deviation over time."""

    def __init__(self, in_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Conv1d(3 * in_dim, 128, 1)
        self.linear2 = nn.Conv1d(128, in_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=-1, keepdim=True).expand_as(x)
        deviation = torch.sqrt(x.var(dim=-1, keepdim=True) + 1e-7).expand_as(x)
        context = torch.cat([x, mean, deviation], dim=1)
        weights = torch.softmax(self.linear2(torch.tanh(self.linear1(context))), dim=2)
        mean = torch.sum(weights * x, dim=2)
        variance = torch.sum(weights * x**2, dim=2) - mean**2
        return torch.cat([mean, torch.sqrt(variance.clamp(min=1e-7))], dim=1)


class PlainReDimNet(nn.Module):
    """Waveform [B, T] -> embedding [B, E], not normalised, from the options of a released `model_config`."""

    def __init__(self, model_config: Mapping[str, Any]) -> None:
        super().__init__()
        config = dict(model_config)
        assert (config["block_1d_type"], config["block_2d_type"]) == ("conv+att", "convnext_like")
        assert config["global_context_att"]
        assert config["out_channels"] is None
        width = config["C"] * config["F"]
        self.spec = MelBank(config["F"], config["hop_length"])
        self.backbone = Backbone(config["F"], config["C"], config["group_divisor"], config["stages_setup"])
        self.pool = AttentiveStatistics(width)
        self.bn = nn.BatchNorm1d(2 * width)
        self.linear = nn.Linear(2 * width, config.get("embed_dim", 192))

    def pooled(self, waveform: Tensor) -> Tensor:
        """Waveform [B, T] -> pooled statistics [B, 2 D]."""
        return self.pool(self.backbone(self.spec(waveform).unsqueeze(1)))

    def forward(self, waveform: Tensor) -> Tensor:
        return self.linear(self.bn(self.pooled(waveform)))

"""The benchmark of the backbone: the plain reading and our model agree, and the table is whole."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import backbone, timing
from benchmarks.b2 import B2, TINY
from benchmarks.plain_redimnet import PlainReDimNet
from mrl.models.pretrained import build_released, load_released


def lively(model):
    """Every number of ``model`` moved from where a fresh one begins, so that each of them shows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return model


def outputs_and_gradients(model, waveforms):
    model.zero_grad()
    embeddings = model(waveforms)
    embeddings.square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return embeddings.detach(), gradients


def assert_agree(ours, config, waveforms):
    plain = PlainReDimNet(config).train(ours.training)
    plain.load_state_dict(ours.state_dict(), strict=True)
    embeddings, gradients = outputs_and_gradients(ours, waveforms)
    expected, its_gradients = outputs_and_gradients(plain, waveforms)
    torch.testing.assert_close(embeddings, expected, atol=2e-5, rtol=1e-4)
    # The weight of a sum of one moves nothing, and ours asks for no gradient of it.
    assert its_gradients.keys() - gradients.keys() <= {"backbone.stage0.0.w"}
    scale = max(float(gradient.abs().max()) for gradient in its_gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient,
            its_gradients[name],
            atol=2e-5 * scale,
            rtol=2e-3,
            msg=lambda text, n=name: f"{n}: {text}",
        )


@pytest.mark.parametrize("training", [False, True])
def test_plain_and_ours_agree_in_outputs_and_gradients(training):
    torch.manual_seed(4)
    ours = lively(build_released(TINY, seed=1)).train(training)
    assert_agree(ours, TINY, 0.1 * torch.randn(3, 8000))


def test_plain_and_ours_agree_on_a_checkpoint_of_the_authors():
    folder = os.environ.get("MRL_PARITY")
    if not folder:
        pytest.skip("MRL_PARITY is not set: it names the folder of outputs of the authors' code")
    path = Path(folder) / "rdn_t01_convnext_convatt_s3.pt"
    stored = torch.load(path, weights_only=True)
    ours = load_released(path)
    assert_agree(ours, stored["model_config"], stored["waveform"])
    plain = PlainReDimNet(stored["model_config"]).eval()
    plain.load_state_dict(stored["state_dict"], strict=True)
    torch.testing.assert_close(plain(stored["waveform"]), stored["embedding"], atol=5e-4, rtol=0)


def test_plain_and_ours_have_the_tensors_of_b2():
    plain = PlainReDimNet(B2)
    plain.load_state_dict(build_released(B2).state_dict(), strict=True)
    assert sum(parameter.numel() for parameter in plain.parameters()) == 5_067_057


def run_here(function, *arguments):
    """In place of a fresh process, which takes seconds to begin."""
    assert function(*arguments)().isfinite()
    return 1000


def test_the_table_is_whole(monkeypatch):
    monkeypatch.setattr(timing, "peak_bytes", run_here)
    table = backbone.run(quick=True)[0]
    assert [row[0] for row in table.rows] == list(backbone.WORKS)
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert len(table.claims) == 2
    assert all(claim.value > 0 for claim in table.claims)

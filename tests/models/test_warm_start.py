"""Before any training the encoder scores what the released model scores, and class vectors are speaker means."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional

from mrl.evaluation.scoring import prefix_scores
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import build_released
from mrl.models.released import ReleasedModel
from mrl.models.warm_start import (
    HeadInit,
    between_class_rotation,
    class_vectors,
    initialise_head,
    released_projection,
)
from tests.conftest import TINY

K = [[3, 3]]
SECOND: dict[str, Any] = {
    "F": 24,
    "C": 4,
    "causal": "none",
    "block_1d_type": "conv+att",
    "block_2d_type": "basic_resnet",
    "stages_setup": [[[1, 1], 1, 2, K, 12], [[2, 2], 1, 1, K, None], [[1, 2], 1, 1, K, 8]],
    "spec_params": {"norm_signal": True},
}


def randomise_norms(module: torch.nn.Module, seed: int) -> None:
    """BatchNorms of a trained model do not have the fresh 0, 1, 1, 0."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            for tensor in (part.weight.data, part.running_var):
                tensor.uniform_(0.5, 2.0, generator=generator)
            for tensor in (part.bias.data, part.running_mean):
                tensor.normal_(0.0, 0.3, generator=generator)


def between_class_scatter(prefixes: torch.Tensor, embeddings: torch.Tensor) -> float:
    """Variance between the means of the speakers, over all directions, of ``prefixes`` of unit ``embeddings``."""
    unit = prefixes.double() / embeddings.double().norm(dim=1, keepdim=True)
    means = torch.stack([unit[chosen].mean(0) for chosen in SPEAKERS.unique()[:, None] == SPEAKERS])
    return (means - means.mean(0)).square().sum(1).mean().item()


def cosines(embeddings: torch.Tensor) -> torch.Tensor:
    unit = functional.normalize(embeddings.double(), dim=1)
    return unit @ unit.T


FAMILIES: dict[str, dict[str, Any]] = {
    "first": TINY,
    "first, output layer": {
        **TINY,
        "block_1d_type": "att",
        "block_2d_type": "basic_resnet_fwse",
        "out_channels": 20,
        "global_context_att": False,
    },
    "first, other pooling": {**TINY, "pooling_func": "TSTP", "spec_params": {"norm_signal": True}},
    "second": SECOND,
    "second, 2-d output and as many groups as channels": {
        **SECOND,
        "agg_gnorm": True,
        "return_2d_output": True,
        "out_channels": 3,
    },
    "second, both kinds of output and a number of groups": {**SECOND, "agg_gnorm": 8, "dual_agg": True},
}
SPEAKERS = torch.tensor([0, 0, 1, 1, 2, 2])


class Start(NamedTuple):
    """A released model, its embeddings [6, E] of ``waveforms``, and their rotation [E, E]."""

    released: ReleasedModel
    waveforms: torch.Tensor
    expected: torch.Tensor
    rotation: torch.Tensor

    def encoder(self, how: HeadInit, dims: list[int]) -> SpeakerEncoder:
        head = MatryoshkaHead(self.released.pooled_dim, dims[-1])
        initialise_head(head, released_projection(self.released), how, self.rotation)
        return SpeakerEncoder(self.released, head, dims).eval()


@torch.no_grad()
def start(config: dict[str, Any], **options: Any) -> Start:
    """Half a second of noise from each of three speakers, twice, and a model with lived-in statistics."""
    released = build_released({**config, **options}, seed=3).eval()
    randomise_norms(released, 4)
    waveforms = 0.1 * torch.randn(6, 8_000, generator=torch.Generator().manual_seed(5))
    # As after training: the statistics of the head's BatchNorm are those of its input. Otherwise an offset
    # that all utterances share would bring all cosines to 1.
    pooled = released.pooled(waveforms)
    released.bn.running_mean.copy_(pooled.mean(0))
    released.bn.running_var.copy_(pooled.var(0))
    if released.bn2 is not None:
        released.bn2.running_var[::2] *= 1e-3  # so small that its eps counts
    expected = released(waveforms)
    assert cosines(expected).min() < 0.7
    return Start(released, waveforms, expected, between_class_rotation(expected, SPEAKERS))


@pytest.mark.parametrize("how", ["rotated", "truncated"])
@pytest.mark.parametrize("emb_bn", [False, True], ids=["linear", "linear and bn2"])
@pytest.mark.parametrize("embed_dim", [64, 256, 512])
@pytest.mark.parametrize("feat_type", ["pt", "tf"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cosines_at_full_size_are_the_released_ones(family, feat_type, embed_dim, emb_bn, how):
    it = start(FAMILIES[family], feat_type=feat_type, embed_dim=embed_dim, emb_bn=emb_bn)
    for widest in (embed_dim, embed_dim + 64):
        ours = it.encoder(how, [8, widest])(it.waveforms)
        torch.testing.assert_close(cosines(ours), cosines(it.expected), atol=1e-5, rtol=0)
        assert (ours[:, embed_dim:] == 0).all()


@pytest.mark.parametrize("emb_bn", [False, True], ids=["linear", "linear and bn2"])
@pytest.mark.parametrize("embed_dim", [64, 256, 512])
@pytest.mark.parametrize("family", ["first", "second"])
@torch.no_grad()
def test_a_widest_prefix_below_the_embedding_is_its_turned_start_and_rotated_keeps_more_than_truncated(
    family, embed_dim, emb_bn
):
    it = start(FAMILIES[family], embed_dim=embed_dim, emb_bn=emb_bn)
    turned = it.expected @ it.rotation.T
    close = {"atol": 1e-5 * it.expected.norm(dim=1).max().item(), "rtol": 0}
    torch.testing.assert_close(it.rotation @ it.rotation.T, torch.eye(embed_dim), atol=1e-5, rtol=0)
    full = between_class_scatter(it.expected, it.expected)
    for widest in (3, embed_dim // 2):
        rotated = it.encoder("rotated", [2, widest])(it.waveforms)
        truncated = it.encoder("truncated", [2, widest])(it.waveforms)
        torch.testing.assert_close(rotated, turned[:, :widest], **close)
        torch.testing.assert_close(truncated, it.expected[:, :widest], **close)
        # Three speakers differ along two directions, which the rotation puts first.
        assert between_class_scatter(rotated, it.expected) > 0.99 * full
        assert between_class_scatter(truncated, it.expected) < 0.8 * full


@pytest.mark.parametrize("how", ["rotated", "truncated"])
@pytest.mark.parametrize("family", ["first", "second"])
@torch.no_grad()
def test_every_prefix_from_the_embedding_to_the_widest_scores_what_the_released_model_scores(family, how):
    it = start(FAMILIES[family], embed_dim=192, emb_bn=True)
    encoder = it.encoder(how, [64, 192, 256])
    first, second = np.triu_indices(6, k=1)
    released = prefix_scores(it.expected.numpy(), first, second, [192])
    ours = prefix_scores(encoder(it.waveforms).numpy(), first, second, [64, 192, 200, 255, 256])
    np.testing.assert_allclose(ours[1:], np.repeat(released, 4, axis=0), atol=1e-5, rtol=0)
    assert np.abs(ours[0] - released).max() > 1e-3
    for dim in (192, 256):
        unit = encoder.embed(it.waveforms, dim)
        torch.testing.assert_close((unit @ unit.T).double(), cosines(it.expected), atol=1e-5, rtol=0)


def test_truncated_keeps_the_released_coordinates(released):
    waveforms = torch.randn(3, 16_000, generator=torch.Generator().manual_seed(5)) * 0.1
    head = MatryoshkaHead(released.pooled_dim, 32)
    initialise_head(head, released_projection(released), "truncated")
    encoder = SpeakerEncoder(released, head, [32]).eval()
    with torch.no_grad():
        torch.testing.assert_close(encoder(waveforms)[:, :24], released(waveforms), atol=1e-5, rtol=1e-4)


def test_random_keeps_the_fresh_projection_and_takes_the_statistics(released):
    randomise_norms(released, 9)
    head = MatryoshkaHead(released.pooled_dim, 32)
    before = head.linear.weight.clone()
    initialise_head(head, released_projection(released), "random")
    assert torch.equal(head.linear.weight, before)
    assert torch.equal(head.bn.running_mean, released.bn.running_mean)


def test_rotation_puts_between_speaker_variance_first():
    """Speakers differ along coordinates 5 (much) and 2 (less); everything else is noise and a common offset."""
    generator = torch.Generator().manual_seed(0)
    speakers = torch.arange(30).repeat_interleave(10)
    offsets = torch.zeros(30, 8)
    offsets[:, 5] = torch.randn(30, generator=generator)
    offsets[:, 2] = 0.5 * torch.randn(30, generator=generator)
    noise = 0.1 * torch.randn(300, 8, generator=generator)
    common = torch.zeros(8)
    common[0] = 6.0
    rotation = between_class_rotation(common + offsets[speakers] + noise, speakers)
    assert rotation[0].abs().argmax() == 5
    assert rotation[1].abs().argmax() == 2
    assert rotation[0, 5] > 0  # the sign is fixed


def test_fewer_speakers_than_dimensions_still_give_an_orthogonal_rotation():
    embeddings = torch.randn(12, 24, generator=torch.Generator().manual_seed(2))
    rotation = between_class_rotation(embeddings, torch.arange(12) // 4)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(24), atol=1e-5, rtol=0)


def test_rotated_prefix_beats_plain_truncation_on_labelled_data():
    """Between-speaker variance spread over all coordinates: the rotation gathers it into the prefix."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.linalg.qr(torch.randn(48, 48, generator=generator)).Q
    scales = torch.cat([torch.full((8,), 1.0), torch.full((40,), 0.15)])

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        speakers = torch.arange(count).repeat_interleave(6)
        means = torch.randn(count, 48, generator=generator) * scales
        return (means[speakers] + 0.3 * torch.randn(count * 6, 48, generator=generator)) @ mixing, speakers

    def separation(embeddings: torch.Tensor, speakers: torch.Tensor) -> float:
        similar = cosines(embeddings)
        same = speakers[:, None] == speakers[None, :]
        different = ~same
        same.fill_diagonal_(False)
        return ((similar[same].mean() - similar[different].mean()) / similar[different].std()).item()

    rotation = between_class_rotation(*draw(60))
    test, speakers = draw(40)
    assert separation((test @ rotation.T)[:, :8], speakers) > 1.5 * separation(test[:, :8], speakers)


def test_class_vectors_are_means_of_normalised_embeddings():
    embeddings = torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 5.0]])
    vectors = class_vectors(embeddings, torch.tensor([0, 0, 1]), 3, seed=0)
    torch.testing.assert_close(vectors[0], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(vectors[1], torch.tensor([0.0, 1.0]))
    assert vectors[2].norm().item() == pytest.approx(1.0)  # nobody heard: a random direction


def test_coordinates_beyond_the_released_embedding_can_learn():
    """With zeros in both embedding and class vector their gradient would be zero for ever."""
    embeddings = functional.pad(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), (0, 2))
    vectors = class_vectors(embeddings, torch.arange(8) // 2, 4, seed=0)
    assert (vectors[:, 4:].norm(dim=1) > 0.05).all()
    points = embeddings.clone().requires_grad_()
    similar = functional.normalize(points, dim=1) @ functional.normalize(vectors, dim=1).T
    functional.cross_entropy(10 * similar, torch.arange(8) // 2).backward()
    assert (points.grad[:, 4:].abs().sum(0) > 0).all()

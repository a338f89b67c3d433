"""Before any training the encoder scores what the released model scores, and class vectors are speaker means."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import build_released
from mrl.models.warm_start import (
    between_class_rotation,
    class_vectors,
    initialise_head,
    released_projection,
)


def randomise_norms(module: torch.nn.Module, seed: int) -> None:
    """BatchNorms of a trained model do not have the fresh 0, 1, 1, 0."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            for tensor in (part.weight.data, part.running_var):
                tensor.uniform_(0.5, 2.0, generator=generator)
            for tensor in (part.bias.data, part.running_mean):
                tensor.normal_(0.0, 0.3, generator=generator)


def cosines(embeddings: torch.Tensor) -> torch.Tensor:
    unit = functional.normalize(embeddings.double(), dim=1)
    return unit @ unit.T


@pytest.mark.parametrize("emb_bn", [False, True])
@pytest.mark.parametrize("embed_dim", [24, 40])
@pytest.mark.parametrize("widest", [24, 40, 64])
def test_cosines_at_full_size_are_the_released_ones(tiny_config, emb_bn, embed_dim, widest):
    released = build_released({**tiny_config, "embed_dim": embed_dim, "emb_bn": emb_bn}, seed=3).eval()
    randomise_norms(released, 4)
    waveforms = torch.randn(6, 16_000, generator=torch.Generator().manual_seed(5)) * 0.1
    with torch.no_grad():
        expected = released(waveforms)
        speakers = torch.tensor([0, 0, 1, 1, 2, 2])
        rotation = between_class_rotation(expected, speakers)
        head = MatryoshkaHead(released.pooled_dim, widest)
        initialise_head(head, released_projection(released), "rotated", rotation)
        encoder = SpeakerEncoder(released, head, [8, widest]).eval()
        ours = encoder(waveforms)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(embed_dim), atol=1e-5, rtol=0)
    if widest >= embed_dim:
        for dim in range(embed_dim, widest + 1):
            torch.testing.assert_close(cosines(ours[:, :dim]), cosines(expected), atol=1e-5, rtol=0)
        assert (ours[:, embed_dim:] == 0).all()
    else:
        turned = expected @ rotation.T
        torch.testing.assert_close(cosines(ours), cosines(turned[:, :widest]), atol=1e-5, rtol=0)


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

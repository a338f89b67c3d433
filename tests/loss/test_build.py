"""From configurations to losses: every option arrives."""

from __future__ import annotations

import pytest
import torch

from mrl.config import Config
from mrl.loss import MarginSoftmax, PrefixSettings, SlicedClassifier, SlicedPairLoss, Targets, build_loss
from mrl.loss.pairs import SupervisedContrastive
from mrl.loss.sphereface2 import SphereFace2
from mrl.loss.triplet import MINING

SPEAKERS = torch.tensor([0, 1, 2, 0, 1, 2])


def configured(loss, prefixes=None, **stage):
    """A configuration with this ``loss`` and, besides what its kind needs, these options of its only stage."""
    has_classes = loss.get("type", "aam") not in ("triplet", "supcon")
    rates = {"head": 1e-3, "classifier": 1e-3} if has_classes else {"head": 1e-3}
    only = {"name": "head", "train": ["head"], "epochs": 1, "crop_seconds": 1.0, "batch_size": 4}
    only |= {"learning_rate": rates} | ({} if has_classes else {"utterances_per_speaker": 2})
    return Config.model_validate(
        {
            "model": {"pretrained": "some.pt"},
            "prefixes": prefixes or [{"dim": 4}, {"dim": 8}],
            "loss": loss,
            "data": {"train": "somewhere"},
            "validation": {"lists": [{"name": "dev", "root": "elsewhere"}]},
            "stages": [only | stage],
        }
    )


def loss_of(built, margins=(0.2, 0.2)):
    """Its terms for one fixed batch, with fixed class vectors."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(6, 8, generator=generator)
    if isinstance(built, SlicedClassifier):
        with torch.no_grad():
            built.class_vectors.copy_(torch.randn(built.class_vectors.shape, generator=generator))
    return built(embeddings, Targets(SPEAKERS), PrefixSettings(margins, (1.0, 1.0))).per_prefix


@pytest.mark.parametrize("kind", ["aam", "am", "sphereface2", "triplet", "supcon"])
def test_every_type_gives_a_finite_loss(kind):
    built = build_loss(configured({"type": kind}), 3)
    assert loss_of(built).isfinite().all()
    assert isinstance(built, SlicedPairLoss if kind in ("triplet", "supcon") else SlicedClassifier)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"type": "aam", "label_smoothing": 0.1}, MarginSoftmax("aam", label_smoothing=0.1)),
        ({"type": "aam", "easy_margin": True}, MarginSoftmax("aam", easy_margin=True)),
        (
            {"type": "am", "inter_top_k": 1, "inter_top_k_penalty": 0.3},
            MarginSoftmax("am", inter_top_k=1, inter_top_k_penalty=0.3),
        ),
    ],
)
def test_options_of_the_softmax_arrive(loss, expected):
    plain = loss_of(build_loss(configured({"type": loss["type"]}), 3))
    ours = loss_of(build_loss(configured(loss), 3))
    by_hand = loss_of(SlicedClassifier(3, [4, 8], [expected] * 2, [30.0, 30.0]))
    torch.testing.assert_close(ours, by_hand)
    assert not torch.allclose(ours, plain)


def test_options_of_sphereface2_arrive_with_a_bias_for_each_prefix():
    loss = {
        "type": "sphereface2",
        "sphereface2_margin": "a",
        "sphereface2_positive_share": 0.6,
        "sphereface2_curvature": 2,
    }
    prefixes = [{"dim": 4, "margin": 0.1, "scale": 20.0}, {"dim": 8}]
    speeds = {"augmentation": {"speed_probability": 0.5}}
    built = build_loss(configured(loss, prefixes, margin=0.3, **speeds), 3)
    options = {"kind": "a", "positive_share": 0.6, "curvature": 2}
    by_hand = [SphereFace2(9, 0.1, 20.0, **options), SphereFace2(9, 0.3, 30.0, **options)]
    torch.testing.assert_close(
        loss_of(built), loss_of(SlicedClassifier(3, [4, 8], by_hand, [20.0, 30.0], num_blocks=3))
    )
    assert built.num_blocks == 3
    assert len([name for name, _ in built.named_parameters() if "bias" in name]) == 2


def test_a_scale_of_its_own_belongs_to_its_prefix():
    same = loss_of(build_loss(configured({"type": "am"}), 3))
    own = loss_of(build_loss(configured({"type": "am"}, [{"dim": 4}, {"dim": 8, "scale": 7.0}]), 3))
    alone = loss_of(build_loss(configured({"type": "am", "scale": 7.0}), 3))
    assert own.tolist() == [same[0].item(), alone[1].item()]
    assert own[1] != same[1]


def test_subcenters_arrive():
    built = build_loss(configured({"type": "aam", "subcenters": 3}), 4)
    assert built.class_vectors.shape == (12, 8)


@pytest.mark.parametrize("mining", MINING)
def test_mining_arrives(mining):
    built = build_loss(configured({"type": "triplet", "mining": mining}), 3)
    torch.testing.assert_close(loss_of(built), loss_of(SlicedPairLoss([4, 8], MINING[mining])))


def test_the_temperature_arrives():
    built = build_loss(configured({"type": "supcon", "temperature": 0.3}), 3)
    torch.testing.assert_close(loss_of(built), loss_of(SlicedPairLoss([4, 8], SupervisedContrastive(0.3))))


def test_a_positive_share_of_zero_is_refused():
    with pytest.raises(ValueError, match="sphereface2_positive_share must be above 0"):
        configured({"type": "sphereface2", "sphereface2_positive_share": 0.0})

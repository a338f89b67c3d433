"""The batch in parts against the batch as a whole, for objectives that the fused softmax does not compute."""

from __future__ import annotations

import pytest
import torch

from mrl.loss import MarginSoftmax, PrefixSettings, SlicedClassifier, Targets, chunked
from mrl.loss.chunked import compute_in_chunks
from mrl.loss.sphereface2 import SphereFace2

DIMS = (4, 6)
SETTINGS = PrefixSettings(margins=(0.2, 0.1), weights=(1.0, 0.5))


def make(kind, subcenters):
    torch.manual_seed(2)
    if kind == "sphereface2":
        objectives = [SphereFace2(7, 0.2, 20.0), SphereFace2(7, 0.2, 20.0)]
    else:
        objectives = [MarginSoftmax("aam", inter_top_k=2, inter_top_k_penalty=0.1, label_smoothing=0.1)] * 2
    return SlicedClassifier(7, DIMS, objectives, [20.0, 20.0], subcenters=subcenters).double()


def measure(module, targets, settings=SETTINGS):
    generator = torch.Generator().manual_seed(4)
    embeddings = torch.randn(11, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    module.zero_grad()
    terms = module(embeddings, targets, settings)
    (3.0 * terms.total).backward()
    gradients = [parameter.grad for parameter in module.parameters()]
    return terms.per_prefix, embeddings.grad, [None if grad is None else grad.clone() for grad in gradients]


@pytest.mark.parametrize("kind", ["top_k", "sphereface2"])
@pytest.mark.parametrize("subcenters", [1, 2])
@pytest.mark.parametrize("is_mixed", [False, True], ids=["pure", "mixed"])
@pytest.mark.parametrize("numbers", [1, 100], ids=["one by one", "some at once"])
def test_parts_give_the_losses_and_gradients_of_the_whole(monkeypatch, kind, subcenters, is_mixed, numbers):
    speakers = torch.arange(11) % 7
    mixed = (speakers.roll(1), torch.linspace(0, 1, 11, dtype=torch.float64)) if is_mixed else ()
    module = make(kind, subcenters)
    whole = measure(module, Targets(speakers, *mixed))
    monkeypatch.setattr(chunked, "_NUMBERS", numbers)
    torch.testing.assert_close(measure(module, Targets(speakers, *mixed)), whole)


def test_an_objective_of_weight_zero_has_no_gradient_in_parts_either(monkeypatch):
    monkeypatch.setattr(chunked, "_NUMBERS", 1)
    weights = SETTINGS._replace(weights=(1.0, 0.0))
    _, embeddings, (vectors, first, second) = measure(
        make("sphereface2", 1), Targets(torch.arange(11) % 7), weights
    )
    assert (embeddings[:, 4:] == 0).all()
    assert (vectors[:, 4:] == 0).all()
    assert first != 0
    assert second is None


@pytest.mark.parametrize(
    ("batch", "numbers", "sizes"), [(10, 9, [10]), (10, 4, [4, 4, 2]), (7, 3, [3, 3, 1]), (3, 0.5, [1, 1, 1])]
)
def test_no_part_holds_more_cosines_than_allowed(monkeypatch, batch, numbers, sizes):
    """Five classes and two prefixes: ten cosines an item; ``numbers`` counts items."""
    monkeypatch.setattr(chunked, "_NUMBERS", max(int(numbers * 10), 1))
    seen = []

    def item_losses(embeddings, vectors, rows):
        seen.append(rows.stop - rows.start)
        assert embeddings.shape == (rows.stop - rows.start, 3)
        return [embeddings.sum(1), vectors.sum() * embeddings.sum(1)]

    inputs = torch.ones(batch, 3), torch.ones(5, 3)
    found = compute_in_chunks(item_losses, (1.0, 1.0), [], inputs, [True, False])
    assert seen == (sizes if numbers < batch and numbers != 9 else seen)
    assert max(seen) <= max(numbers, 1)
    assert sum(seen) == batch
    assert found.per_prefix.tolist() == pytest.approx([3.0, 45.0])
    assert found.gradients[1] is None

"""What a step minimises: the sum of its terms; the teacher is heard and never learns."""

from __future__ import annotations

import copy

import pytest
import torch

from mrl.loss import PrefixSettings, Targets
from mrl.loss.teacher import TeacherTerm
from mrl.training.criterion import Criterion

SETTINGS = PrefixSettings((0.2, 0.2), (1.0, 0.5))
WAVEFORMS = torch.randn(4, 6_000, generator=torch.Generator().manual_seed(0)) * 0.1
TARGETS = Targets(torch.tensor([0, 1, 2, 3]))


@pytest.fixture
def with_teacher(parts):
    encoder, classifier = parts
    teacher = copy.deepcopy(encoder)
    with torch.no_grad():
        teacher.head.linear.weight.add_(0.05)
    return encoder.eval(), Criterion(classifier, teacher, TeacherTerm(classifier.dims, 32, mapped=False))


def test_the_total_is_the_loss_and_the_weighted_teacher_term(with_teacher):
    encoder, criterion = with_teacher
    embeddings = encoder(WAVEFORMS)
    heard = criterion.hear(WAVEFORMS)
    plain = criterion(embeddings, TARGETS, SETTINGS)
    both = criterion(embeddings, TARGETS, SETTINGS, heard, teacher_weight=3.0)
    expected = criterion.term(embeddings, criterion.teacher(WAVEFORMS))
    assert plain.teacher == 0
    assert expected > 1e-4
    torch.testing.assert_close(both.teacher, expected.detach())
    torch.testing.assert_close(both.total, plain.total + 3.0 * expected)
    torch.testing.assert_close(both.per_prefix, plain.per_prefix)


def test_the_teacher_is_no_part_of_the_module(with_teacher):
    encoder, criterion = with_teacher
    assert set(criterion.state_dict()) == {"loss.class_vectors"}
    assert [parameter.shape for parameter in criterion.parameters()] == [(5, 32)]
    criterion.train()
    assert not any(part.training for part in criterion.teacher.modules())
    heard = criterion.hear(WAVEFORMS)
    assert not heard.requires_grad
    criterion(encoder(WAVEFORMS), TARGETS, SETTINGS, heard, teacher_weight=1.0).total.backward()
    assert all(parameter.grad is None for parameter in criterion.teacher.parameters())
    assert criterion.loss.class_vectors.grad is not None
    criterion.double()
    assert criterion.teacher.head.linear.weight.dtype == torch.float64

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from mrl.audio import read_crop
from mrl.data.corpus import Corpus
from mrl.data.loading import Crop, CropDataset, collate
from mrl.errors import AudioError, DataError
from mrl.randomness import numpy_generator
from tests.data.crops import SAMPLES


def test_a_crop_is_a_function_of_seed_epoch_and_utterance(corpus: Corpus) -> None:
    crop = CropDataset(corpus, SAMPLES, seed=7)[(3, 5)]
    position = numpy_generator(7, "crop", 3, 5).random()
    np.testing.assert_array_equal(crop.waveform.numpy(), read_crop(corpus.path(5), SAMPLES, position))
    assert crop.waveform.dtype == torch.float32
    assert (crop.speaker, crop.utterance, crop.replaced) == (1, 5, None)
    others = [(7, 4, 5), (8, 3, 5), (7, 3, 4)]
    for seed, epoch, utterance in others:
        other = CropDataset(corpus, SAMPLES, seed)[(epoch, utterance)]
        assert not torch.equal(other.waveform, crop.waveform)


def test_a_dataset_can_be_sent_to_a_process(corpus: Corpus) -> None:
    dataset = CropDataset(corpus, SAMPLES, seed=7)
    sent = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(sent[(3, 5)].waveform, dataset[(3, 5)].waveform)


def test_unreadable_file_is_replaced_by_its_speaker(corpus: Corpus) -> None:
    corpus.path(4).write_bytes(b"damaged")
    dataset = CropDataset(corpus, SAMPLES, seed=7)
    replacements = set()
    for epoch in range(12):
        crop = dataset[(epoch, 4)]
        assert crop.speaker == 1
        assert crop.replaced is not None
        assert str(corpus.path(4)) in crop.replaced
        position = numpy_generator(7, "crop", epoch, 4).random()
        expected = read_crop(corpus.path(crop.utterance), SAMPLES, position)
        np.testing.assert_array_equal(crop.waveform.numpy(), expected)
        assert torch.equal(dataset[(epoch, 4)].waveform, crop.waveform)
        replacements.add(crop.utterance)
    assert replacements == {3, 5}


def test_a_speaker_without_readable_files_is_replaced_by_another(corpus: Corpus) -> None:
    for utterance in (3, 4, 5):
        corpus.path(utterance).unlink()
    crop = CropDataset(corpus, SAMPLES, seed=7)[(1, 4)]
    assert crop.speaker == corpus.speaker_ids[crop.utterance] != 1
    assert crop.replaced == f"{corpus.path(4)}: no such file"


def test_nothing_readable_is_an_error(corpus: Corpus) -> None:
    for utterance in range(len(corpus)):
        corpus.path(utterance).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"id1/u1\.wav: damaged.* None of \d+ others") as caught:
        CropDataset(corpus, SAMPLES, seed=7)[(1, 4)]
    assert not isinstance(caught.value, AudioError)
    alone = corpus.select(np.arange(len(corpus)) == 0)
    with pytest.raises(DataError, match="None of 0 others"):
        CropDataset(alone, SAMPLES, seed=7)[(1, 0)]


def test_collate_stacks() -> None:
    crops = [Crop(torch.full((4,), float(i)), i, 10 + i, None) for i in range(3)]
    crops[1] = crops[1]._replace(replaced="a.wav: gone")
    batch = collate(crops)
    assert batch.waveforms.shape == (3, 4)
    assert batch.waveforms[:, 0].tolist() == [0.0, 1.0, 2.0]
    assert (batch.speakers.tolist(), batch.utterances.tolist()) == ([0, 1, 2], [10, 11, 12])
    assert batch.speakers.dtype == batch.utterances.dtype == torch.int64
    assert batch.replaced == ["a.wav: gone"]


def test_a_repeat_in_an_epoch_is_another_crop(corpus: Corpus) -> None:
    dataset = CropDataset(corpus, SAMPLES, seed=7)
    first, second, third = (dataset[key].waveform for key in ((3, 5), (3, 5, 1), (3, 5, 2)))
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert torch.equal(second, dataset[(3, 5, 1)].waveform)

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from mrl.audio import SAMPLE_RATE, read_crop
from mrl.config import AugmentationConfig, DataConfig
from mrl.data.augment import Augmenter
from mrl.data.clips import ClipBanks
from mrl.data.corpus import Corpus, scan
from mrl.data.epoch_batches import EpochBatches
from mrl.data.loading import Batch, Crop, CropDataset, collate, make_loader
from mrl.data.sampling import Sampling
from mrl.errors import AudioError, DataError
from mrl.randomness import numpy_generator

SPEAKERS, UTTERANCES, SAMPLES = 4, 3, 800


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    for speaker in range(SPEAKERS):
        (tmp_path / f"id{speaker}").mkdir()
        for utterance in range(UTTERANCES):
            seed = 10 * speaker + utterance
            samples = np.random.default_rng(seed).uniform(-0.5, 0.5, 3000 + 100 * seed).astype(np.float32)
            suffix = "flac" if utterance == 0 else "wav"
            soundfile.write(tmp_path / f"id{speaker}" / f"u{utterance}.{suffix}", samples, SAMPLE_RATE)
    return scan(tmp_path, manifest_dir=None)


def assert_same(one: Batch, other: Batch) -> None:
    for mine, theirs in zip(one[:3], other[:3], strict=True):
        assert torch.equal(mine, theirs)
    assert one.replaced == other.replaced


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


def test_a_repeat_is_augmented_in_its_own_way(corpus: Corpus) -> None:
    augmenter = Augmenter(AugmentationConfig(gain_probability=1.0), seed=7, banks=ClipBanks())
    keys = [[(3, 5), (3, 5, 1), (3, 5)]]
    (batch,) = make_loader(CropDataset(corpus, SAMPLES, seed=7), keys, 0, False, augmenter)
    assert batch.plan is not None
    first, again, same = augmenter.apply(torch.ones(3, SAMPLES), batch.plan)
    assert torch.equal(first, same)
    assert not torch.equal(first, again)


def test_workers_change_nothing(corpus: Corpus) -> None:
    corpus.path(4).write_bytes(b"damaged")
    dataset = CropDataset(corpus, SAMPLES, seed=7)
    batches = EpochBatches(Sampling(corpus, DataConfig(train=corpus.root), 7), 4)
    alone = make_loader(dataset, batches, workers=0, pin_memory=False)
    together = make_loader(dataset, batches, workers=2, pin_memory=False)
    for epoch, start in ((1, 0), (2, 1), (1, 0)):
        batches.set_epoch(epoch, start)
        one, two = list(alone), list(together)
        assert len(one) == len(alone) == 3 - start
        for mine, theirs in zip(one, two, strict=True):
            assert_same(mine, theirs)
        assert start or sum(len(batch.replaced) for batch in two) == 1


def test_an_epoch_left_early_does_not_leak_into_the_next(corpus: Corpus) -> None:
    dataset = CropDataset(corpus, SAMPLES, seed=7)
    batches = EpochBatches(Sampling(corpus, DataConfig(train=corpus.root), 7), 2)
    loader = make_loader(dataset, batches, workers=2, pin_memory=False)
    batches.set_epoch(1)
    for _ in loader:
        break
    batches.set_epoch(2, start_step=2)
    expected = list(make_loader(dataset, batches, workers=0, pin_memory=False))
    for mine, theirs in zip(loader, expected, strict=True):
        assert_same(mine, theirs)


def _error_of(loader: DataLoader) -> str:
    """The message alone: the error itself would hold the loader, whose workers end with it."""
    try:
        list(loader)
    except DataError as error:
        return str(error)
    raise AssertionError("no DataError was raised")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_arrives_without_a_traceback_in_its_message(corpus: Corpus, workers: int) -> None:
    for utterance in range(len(corpus)):
        corpus.path(utterance).write_bytes(b"damaged")
    dataset = CropDataset(corpus, SAMPLES, seed=7)
    message = _error_of(make_loader(dataset, [[(0, 0)]], workers, pin_memory=False))
    assert message.startswith(f"{corpus.path(0)}: damaged or cut short")
    assert "\n" not in message


class _AboutTheWorker(CropDataset):
    def __getitem__(self, key: tuple[int, int]) -> Crop:
        return super().__getitem__(key)._replace(speaker=torch.get_num_threads(), utterance=os.getpid())


def test_workers_use_one_thread_and_outlive_the_epoch(corpus: Corpus) -> None:
    loader = make_loader(_AboutTheWorker(corpus, SAMPLES, seed=7), [[(0, 0)]], workers=1, pin_memory=False)
    (first,), (second,) = list(loader), list(loader)
    assert first.speakers.tolist() == [1]
    assert first.utterances.tolist() == second.utterances.tolist() != [os.getpid()]


def test_m4a_is_decoded_in_workers_after_the_main_process_did() -> None:
    if "MRL_SPEECH" not in os.environ:
        pytest.skip("MRL_SPEECH, a folder of real speech, is not set")
    corpus = scan(Path(os.environ["MRL_SPEECH"]) / "train", manifest_dir=None)
    dataset, keys = CropDataset(corpus, SAMPLES, seed=7), [[(1, 0), (1, 300)], [(1, 600), (1, 900)]]
    here = list(make_loader(dataset, keys, workers=0, pin_memory=False))
    for mine, theirs in zip(here, make_loader(dataset, keys, workers=2, pin_memory=False), strict=True):
        assert_same(mine, theirs)


def test_batches_are_planned_and_prepared_where_they_are_read(corpus: Corpus) -> None:
    config = AugmentationConfig(codec_probability=0.5, codecs=("mp3",), speed_probability=0.5)
    augment = Augmenter(config, seed=7, banks=ClipBanks())
    dataset, keys = CropDataset(corpus, augment.source_samples(SAMPLES), seed=7), [[(1, 0), (1, 3), (1, 7)]]
    (plain,) = make_loader(dataset, keys, workers=0, pin_memory=False)
    plan = augment.plan(plain.utterances, plain.speakers, epoch=1, num_samples=plain.waveforms.shape[1])
    assert plan.codec is not None
    for workers in (0, 2):
        (batch,) = make_loader(dataset, keys, workers, pin_memory=False, augmenter=augment)
        assert torch.equal(batch.waveforms, augment.prepare(plain.waveforms, plan))
        augmented = augment.apply(batch.waveforms, batch.plan)
        assert augmented.shape == (3, SAMPLES)
        assert torch.equal(augmented, augment.apply(augment.prepare(plain.waveforms, plan), plan))

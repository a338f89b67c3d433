from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mrl.audio import SAMPLE_RATE, read_crop
from mrl.data.corpus import Corpus, scan
from mrl.data.loading import Batch, Crop, CropDataset, EpochBatches, collate, make_loader
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


def test_an_epoch_holds_each_utterance_once() -> None:
    batches = EpochBatches(12, 4, seed=1)
    batches.set_epoch(5)
    keys = [key for batch in batches for key in batch]
    assert sorted(keys) == [(5, utterance) for utterance in range(12)]
    assert all(type(number) is int for key in keys for number in key)
    batches.set_epoch(6)
    assert [utterance for batch in batches for _, utterance in batch] != [utterance for _, utterance in keys]


@given(
    num_utterances=st.integers(1, 60),
    part=st.integers(1, 8),
    world_size=st.integers(1, 4),
    epoch=st.integers(0, 3),
    data=st.data(),
)
def test_parts_of_all_processes_make_the_batches(
    num_utterances: int, part: int, world_size: int, epoch: int, data: st.DataObject
) -> None:
    batch_size = part * world_size
    if num_utterances < world_size:
        with pytest.raises(ValueError, match="too few"):
            EpochBatches(num_utterances, batch_size, 1, world_size=world_size)
        return
    steps = max(1, num_utterances // batch_size)
    start = data.draw(st.integers(0, steps))
    of_ranks = []
    for rank in range(world_size):
        batches = EpochBatches(num_utterances, batch_size, 1, rank=rank, world_size=world_size)
        assert batches.steps_per_epoch == steps
        batches.set_epoch(epoch)
        whole_epoch = list(batches)
        assert len(whole_epoch) == len(batches) == steps
        batches.set_epoch(epoch, start)
        assert len(batches) == steps - start
        assert list(batches) == whole_epoch[start:]
        of_ranks.append(whole_epoch)
    united = [[key for part in parts for key in part] for parts in zip(*of_ranks, strict=True)]
    order = numpy_generator(1, "order", epoch).permutation(num_utterances).tolist()
    size = min(batch_size, num_utterances - num_utterances % world_size)
    assert united == [
        [(epoch, utterance) for utterance in order[step * size : (step + 1) * size]] for step in range(steps)
    ]
    assert len({len(part) for parts in of_ranks for part in parts}) == 1


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of 10 cannot be cut into 4"):
        EpochBatches(100, 10, 1, world_size=4)


def test_workers_change_nothing(corpus: Corpus) -> None:
    corpus.path(4).write_bytes(b"damaged")
    dataset = CropDataset(corpus, SAMPLES, seed=7)
    batches = EpochBatches(len(corpus), 4, seed=7)
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
    dataset, batches = CropDataset(corpus, SAMPLES, seed=7), EpochBatches(len(corpus), 2, seed=7)
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

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from mrl.config import AugmentationConfig
from mrl.data.augment import AugmentationPlan, Augmenter
from mrl.data.clips import ClipBank
from mrl.data.noise import white_noise

RATE = 16000
UTTERANCES = [11, 4, 907, 52, 3, 1000003]
SPEAKERS = [0, 0, 1, 2, 3, 3]
EVERYTHING = {name: 1.0 for name in AugmentationConfig.model_fields if name.endswith("_probability")}


def speech(num_items: int = 6, num_samples: int = 8000) -> Tensor:
    levels = torch.logspace(-2, 0, num_items)[:, None]
    return white_noise(range(num_items), num_samples, torch.device("cpu")) * levels


def augmenter(
    *, seed: int = 1, noise: Path | None = None, rooms: Path | None = None, **keys: object
) -> Augmenter:
    return Augmenter(
        AugmentationConfig.model_validate(keys),
        seed=seed,
        noise=None if noise is None else ClipBank.from_folder(noise, "noise"),
        rooms=None if rooms is None else ClipBank.from_folder(rooms, "room_responses"),
        sample_rate=RATE,
    )


def power_db(waveforms: Tensor) -> Tensor:
    return 10.0 * waveforms.double().square().mean(dim=1).log10()


@pytest.fixture
def noise_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "noise"
    folder.mkdir()
    for index in range(3):
        clip = np.random.default_rng(index).uniform(-0.5, 0.5, size=5000 * (index + 1))
        soundfile.write(folder / f"{index}.wav", clip, RATE)
    return folder


@pytest.fixture
def room_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "rooms"
    folder.mkdir()
    for index in range(3):
        response = np.random.default_rng(index).normal(size=3000) * np.exp(-np.arange(3000) / 500) * 0.1
        response[40] = 0.9
        soundfile.write(folder / f"{index}.wav", response, RATE)
    return folder


def test_nothing_configured_changes_nothing() -> None:
    waveforms = speech()
    augmented = augmenter()(waveforms, UTTERANCES, SPEAKERS, epoch=0)
    assert torch.equal(augmented, waveforms)


@pytest.mark.parametrize("part", ["noise", "babble", "room", "gain"])
def test_probability_one_changes_every_item_and_never_the_input(part: str) -> None:
    waveforms = speech()
    before = waveforms.clone()
    augmented = augmenter(**{f"{part}_probability": 1.0})(waveforms, UTTERANCES, SPEAKERS, epoch=0)
    assert torch.equal(waveforms, before)
    assert augmented.shape == waveforms.shape
    assert augmented.isfinite().all()
    assert (augmented != waveforms).any(dim=1).all()


def test_a_probability_is_the_share_of_items() -> None:
    keys = dict.fromkeys(EVERYTHING, 0.3)
    plan = augmenter(**keys).plan(range(1000), range(1000), epoch=0, num_samples=8)
    rows = [plan.room.rows, plan.noise.rows, plan.babble.rows, torch.nonzero(plan.gain != 1.0)[:, 0]]
    for chosen in rows:
        assert 250 <= len(chosen) <= 350  # 3.4 standard deviations
    both = len(set(rows[1].tolist()) & set(rows[2].tolist()))
    assert 60 <= both <= 120  # noise and babble are drawn independently


def test_an_item_draws_the_same_whichever_others_are_augmented() -> None:
    numbers, size = list(range(40)), {"num_samples": 8, "epoch": 0}
    some = augmenter(**dict.fromkeys(EVERYTHING, 0.5)).plan(numbers, numbers, **size)
    every = augmenter(**EVERYTHING).plan(numbers, numbers, **size)
    for partly, fully in zip(some[:3], every[:3], strict=True):
        assert 0 < len(partly.rows) < 40
        for field, values in partly._asdict().items():
            reference = getattr(fully, field)
            if field == "seeds":
                assert values == [reference[row] for row in partly.rows.tolist()]
            elif values is not None:
                assert torch.equal(values, reference[partly.rows])
    changed = some.gain != 1.0
    assert torch.equal(some.gain[changed], every.gain[changed])
    assert some.gain[changed].min() < 0.6  # whether and by how much are two draws
    assert some.gain[changed].max() > 1.5


def test_draws_fill_their_ranges() -> None:
    plan = augmenter(**EVERYTHING, babble_speakers=(2, 5)).plan(
        range(300), range(300), epoch=0, num_samples=8
    )
    for drawn, low, high in [
        (plan.noise.snr_db, 0, 15),
        (plan.noise.exponents, 0, 2),
        (plan.babble.snr_db, 13, 20),
        (plan.room.decay_seconds, 0.2, 0.8),
        (20 * plan.gain.log10(), -10, 6),
    ]:
        margin = 0.03 * (high - low)
        assert low - 1e-4 <= drawn.min() <= low + margin
        assert high - margin <= drawn.max() <= high + 1e-4
    talkers = plan.babble.chosen.sum(dim=1).int()
    assert talkers.unique().tolist() == [2, 3, 4, 5]
    assert not plan.babble.chosen.diagonal().any()


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_has_the_ratio_asked_for(recorded: bool, snr_db: float, noise_folder: Path) -> None:
    waveforms = speech()
    augment = augmenter(
        noise=noise_folder if recorded else None, noise_probability=1.0, noise_snr_db=(snr_db, snr_db)
    )
    added = augment(waveforms, UTTERANCES, SPEAKERS, epoch=0) - waveforms
    measured = power_db(waveforms) - power_db(added)
    torch.testing.assert_close(measured, torch.full((6,), snr_db, dtype=torch.float64), atol=0.01, rtol=0)


def test_babble_has_the_ratio_asked_for() -> None:
    waveforms = speech()
    augment = augmenter(babble_probability=1.0, babble_snr_db=(13.0, 13.0))
    added = augment(waveforms, UTTERANCES, SPEAKERS, epoch=0) - waveforms
    measured = power_db(waveforms) - power_db(added)
    torch.testing.assert_close(measured, torch.full((6,), 13.0, dtype=torch.float64), atol=0.01, rtol=0)


def test_the_ratio_is_to_the_speech_in_its_room() -> None:
    waveforms = speech()
    in_room = augmenter(room_probability=1.0)(waveforms, UTTERANCES, SPEAKERS, epoch=0)
    keys = {"noise_probability": 1.0, "noise_snr_db": (3.0, 3.0)}
    noisy = augmenter(room_probability=1.0, **keys)(waveforms, UTTERANCES, SPEAKERS, epoch=0)
    added = noisy - in_room  # a room's draws do not depend on whether there is noise
    measured = power_db(in_room) - power_db(added)
    torch.testing.assert_close(measured, torch.full((6,), 3.0, dtype=torch.float64), atol=0.01, rtol=0)
    torch.testing.assert_close(power_db(in_room), power_db(waveforms), atol=0.01, rtol=0)


def test_noise_and_babble_add_up() -> None:
    waveforms = speech()
    added = [
        augmenter(**{f"{part}_probability": 1.0 for part in parts})(waveforms, UTTERANCES, SPEAKERS, epoch=0)
        - waveforms
        for parts in (("noise",), ("babble",), ("noise", "babble"))
    ]
    torch.testing.assert_close(added[0] + added[1], added[2], atol=1e-5, rtol=1e-4)


def test_gain_is_in_decibels_and_never_clips() -> None:
    waveforms = speech() * 4.0
    augment = augmenter(gain_probability=1.0, gain_db=(6.0, 6.0))
    augmented = augment(waveforms, UTTERANCES, SPEAKERS, epoch=0)
    torch.testing.assert_close(augmented, waveforms * 1.9952623)


@pytest.mark.parametrize("recorded", [False, True])
def test_items_do_not_depend_on_their_batch(recorded: bool, noise_folder: Path, room_folder: Path) -> None:
    keys = {**EVERYTHING, "babble_probability": 0.0}
    folders = {"noise": noise_folder, "rooms": room_folder} if recorded else {}
    augment = augmenter(**keys, **folders)
    waveforms = speech()
    together = augment(waveforms, UTTERANCES, SPEAKERS, epoch=2)
    for order in ([5, 3, 1, 0, 2, 4], [4], [1, 2]):
        again = augment(
            waveforms[order], [UTTERANCES[i] for i in order], [SPEAKERS[i] for i in order], epoch=2
        )
        torch.testing.assert_close(again, together[order], atol=1e-6, rtol=1e-5)


def test_the_same_call_gives_the_same_bits_and_other_keys_give_others() -> None:
    waveforms = speech()
    first = augmenter(**EVERYTHING)(waveforms, UTTERANCES, SPEAKERS, epoch=1)
    torch.manual_seed(99)
    assert torch.equal(augmenter(**EVERYTHING)(waveforms, UTTERANCES, SPEAKERS, epoch=1), first)
    numbers = torch.tensor(UTTERANCES), torch.tensor(SPEAKERS)
    assert torch.equal(augmenter(**EVERYTHING)(waveforms, *numbers, epoch=1), first)
    others = [
        augmenter(**EVERYTHING)(waveforms, UTTERANCES, SPEAKERS, epoch=2),
        augmenter(**EVERYTHING, seed=2)(waveforms, UTTERANCES, SPEAKERS, epoch=1),
        augmenter(**EVERYTHING)(waveforms, [n + 1 for n in UTTERANCES], SPEAKERS, epoch=1),
    ]
    for other in others:
        assert (other != first).any(dim=1).all()


def test_babble_is_left_out_where_nobody_else_is_in_the_batch() -> None:
    waveforms = speech(num_items=1)
    augmented = augmenter(babble_probability=1.0)(waveforms, [7], [0], epoch=0)
    assert torch.equal(augmented, waveforms)


def test_babble_comes_from_the_rest_of_the_batch() -> None:
    waveforms = speech(num_items=2)
    augment = augmenter(babble_probability=1.0, babble_snr_db=(0.0, 0.0))
    added = augment(waveforms, [7, 8], [0, 1], epoch=0) - waveforms
    similarity = torch.nn.functional.cosine_similarity(added, waveforms.flip(0))
    torch.testing.assert_close(similarity, torch.ones(2), atol=1e-4, rtol=0)


def test_silence_stays_finite(noise_folder: Path) -> None:
    for clip in noise_folder.iterdir():
        soundfile.write(clip, np.eye(1, 200000)[0] * 0.5, RATE)  # a click, then nothing
    waveforms = speech()
    waveforms[2] = 0.0
    augmented = augmenter(noise=noise_folder, noise_probability=1.0)(waveforms, UTTERANCES, SPEAKERS, epoch=0)
    assert torch.equal(augmented, waveforms)
    everything = augmenter(**EVERYTHING)(torch.zeros(6, 800), UTTERANCES, SPEAKERS, epoch=0)
    assert not everything.any()


def test_autocast_and_half_precision_do_not_touch_the_arithmetic() -> None:
    waveforms = speech().half()
    plain = augmenter(**EVERYTHING)(waveforms.float(), UTTERANCES, SPEAKERS, epoch=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        augmented = augmenter(**EVERYTHING)(waveforms, UTTERANCES, SPEAKERS, epoch=0)
    assert augmented.dtype == torch.float32
    assert torch.equal(augmented, plain)


def test_a_plan_travels_between_processes(noise_folder: Path, room_folder: Path) -> None:
    waveforms = speech()
    augment = augmenter(**EVERYTHING, noise=noise_folder, rooms=room_folder)
    plan = augment.plan(UTTERANCES, SPEAKERS, epoch=0, num_samples=8000)
    sent = pickle.loads(pickle.dumps(plan))
    assert isinstance(sent, AugmentationPlan)
    direct = pickle.loads(pickle.dumps(augment))(waveforms, UTTERANCES, SPEAKERS, epoch=0)
    assert torch.equal(augment.apply(waveforms, sent), direct)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_does_the_same(noise_folder: Path, room_folder: Path) -> None:
    waveforms = speech()
    augment = augmenter(**EVERYTHING, noise=noise_folder, rooms=room_folder)
    plan = augment.plan(UTTERANCES, SPEAKERS, epoch=0, num_samples=8000)
    on_cpu = augment.apply(waveforms, plan)
    on_gpu = augment.apply(waveforms.cuda(), plan)
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-4, rtol=1e-3)


@pytest.mark.skipif("MRL_SPEECH" not in os.environ, reason="needs real noise and rooms: set MRL_SPEECH")
def test_real_clips_at_the_ratio_asked_for() -> None:
    folder = Path(os.environ["MRL_SPEECH"])
    utterances = list(range(12))
    waveforms = speech(num_items=12, num_samples=48000)
    keys = {"noise": folder / "noise", "rooms": folder / "room_responses", "room_probability": 1.0}
    in_room = augmenter(**keys)(waveforms, utterances, utterances, epoch=0)
    noisy = augmenter(**keys, noise_probability=1.0, noise_snr_db=(5.0, 5.0))
    added = noisy(waveforms, utterances, utterances, epoch=0) - in_room
    torch.testing.assert_close(power_db(in_room), power_db(waveforms), atol=0.01, rtol=0)
    measured = power_db(in_room) - power_db(added)
    torch.testing.assert_close(measured, torch.full((12,), 5.0, dtype=torch.float64), atol=0.01, rtol=0)

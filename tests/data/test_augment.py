from __future__ import annotations

import itertools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mrl.config import AugmentationConfig
from mrl.data.augment import EFFECTS, AugmentationPlan, Augmenter, ramp
from mrl.data.clips import ClipBank, ClipBanks
from mrl.data.mixup import MixupPlan
from mrl.data.noise import white_noise
from mrl.data.speed import SpeedPlan
from mrl.loss import Targets

RATE = 16000
UTTERANCES = [11, 4, 907, 52, 3, 1000003]
SPEAKERS = [0, 0, 1, 2, 3, 3]
SYNTHETIC = [name for name in EFFECTS if name != "music"]  # which needs clips
EVERYTHING = {f"{name}_probability": 1.0 for name in SYNTHETIC}
FROM_CLIPS = EVERYTHING | {"music_probability": 1.0}


def speech(num_items: int = 6, num_samples: int = 8000) -> Tensor:
    levels = torch.logspace(-2, 0, num_items)[:, None]
    return white_noise(range(num_items), num_samples, torch.device("cpu")) * levels


def bank(folder: Path | None, kind: str) -> ClipBank | None:
    return None if folder is None else ClipBank.from_folder(folder, kind)


def augmenter(
    *, seed: int = 1, noise: Path | None = None, rooms: Path | None = None, **keys: object
) -> Augmenter:
    """With noise clips for music and babble too."""
    music, babble = (bank(noise, kind) for kind in ("music", "babble"))
    banks = ClipBanks(bank(noise, "noise"), music, babble, bank(rooms, "room_responses"))
    return Augmenter(AugmentationConfig.model_validate(keys), seed=seed, banks=banks)


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


def same(one: object, other: object) -> bool:
    """Whether two plans are equal, tensors and plans within them included."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, tuple):
        return isinstance(other, tuple) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def rows_of(plan: AugmentationPlan, name: str) -> set[int]:
    """The items that something happens to."""
    step = getattr(plan, name)
    if name == "gain":
        return set(torch.nonzero(step.factors != 1.0)[:, 0].tolist())
    if name == "mixup":
        return set(torch.nonzero(step.partners != torch.arange(len(step.partners)))[:, 0].tolist())
    rows = torch.cat(step.rows) if name == "speed" else torch.as_tensor(step.rows)
    return set(rows.tolist())


def test_each_effect_has_a_probability_and_a_place_in_the_plan() -> None:
    assert tuple(EFFECTS) == AugmentationPlan._fields
    fields = {name for name in AugmentationConfig.model_fields if name.endswith("_probability")}
    assert fields == {f"{name}_probability" for name in EFFECTS} | {"spec_probability"}


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("recorded", [False, True])
def test_probability_one_changes_every_item_and_never_the_input(
    name: str, recorded: bool, noise_folder: Path, room_folder: Path
) -> None:
    if name == "music" and not recorded:
        pytest.skip("music is always recorded")
    folders = {"noise": noise_folder, "rooms": room_folder} if recorded else {}
    augment = augmenter(**{f"{name}_probability": 1.0}, **folders)
    waveforms = speech(num_samples=augment.source_samples(8000)) * 0.2
    before = waveforms.clone()
    augmented = augment(waveforms, UTTERANCES, SPEAKERS, epoch=0)
    assert torch.equal(waveforms, before)
    assert augmented.shape == (6, 8000)
    assert augmented.isfinite().all()
    assert (augmented != waveforms[:, :8000]).any(dim=1).all()


def test_a_probability_is_the_share_of_items(noise_folder: Path) -> None:
    keys = dict.fromkeys(FROM_CLIPS, 0.3)
    plan = augmenter(**keys, noise=noise_folder).plan(range(1000), range(1000), epoch=0, num_samples=11)
    rows = {name: rows_of(plan, name) for name in EFFECTS}
    for name, chosen in rows.items():
        assert 250 <= len(chosen) <= 350, name  # 3.4 standard deviations
    names = list(EFFECTS)
    for one, other in itertools.combinations(names, 2):
        assert 60 <= len(rows[one] & rows[other]) <= 120, (one, other)  # they are drawn independently


@pytest.mark.parametrize("name", SYNTHETIC)
def test_to_switch_an_effect_on_leaves_the_others_as_they_were(name: str) -> None:
    numbers, every = list(range(40)), dict.fromkeys(EVERYTHING, 0.5)
    among_all = augmenter(**every).plan(numbers, numbers, epoch=0, num_samples=88)
    length = 88 if name == "speed" else 80  # both ways 80 samples come out
    alone = augmenter(**{f"{name}_probability": 0.5}).plan(numbers, numbers, epoch=0, num_samples=length)
    assert 0 < len(rows_of(alone, name)) < 40
    assert same(getattr(alone, name), getattr(among_all, name))
    assert [step for step in alone if step is not None] == [getattr(alone, name)]


def test_an_item_draws_the_same_whichever_others_are_augmented() -> None:
    numbers, size = list(range(40)), {"num_samples": 8, "epoch": 0}
    some = augmenter(**dict.fromkeys(EVERYTHING, 0.5)).plan(numbers, numbers, **size)
    every = augmenter(**EVERYTHING).plan(numbers, numbers, **size)
    for name in ("room", "noise", "babble", "telephone", "clipping"):
        partly, fully = getattr(some, name), getattr(every, name)
        assert 0 < len(partly.rows) < 40
        for field, values in partly._asdict().items():
            reference = getattr(fully, field)
            if field == "seeds":
                assert values == [reference[row] for row in partly.rows.tolist()]
            elif values is not None:
                assert torch.equal(values, reference[partly.rows])
    some_gain, every_gain = some.gain.factors, every.gain.factors
    changed = some_gain != 1.0
    assert torch.equal(some_gain[changed], every_gain[changed])
    assert some_gain[changed].min() < 0.6  # whether and by how much are two draws
    assert some_gain[changed].max() > 1.5


def test_draws_fill_their_ranges(noise_folder: Path) -> None:
    keys = {**EVERYTHING, "babble_speakers": (2, 5)}
    plan = augmenter(**keys).plan(range(300), range(300), epoch=0, num_samples=8)
    music = augmenter(music_probability=1.0, noise=noise_folder)
    for drawn, low, high in [
        (plan.noise.snr_db, 0, 15),
        (plan.noise.exponents, 0, 2),
        (plan.babble.snr_db, 13, 20),
        (plan.room.decay_seconds, 0.2, 0.8),
        (music.plan(range(300), range(300), epoch=0, num_samples=8).music.snr_db, 5, 15),
        (torch.tensor(plan.codec.kbps), 8, 32),
        (plan.clipping.levels, 0.2, 0.8),
        (20 * plan.gain.factors.log10(), -10, 6),
        (plan.mixup.shares, 0, 1),
    ]:
        margin = 0.03 * (high - low)
        assert low - 1e-4 <= drawn.min() <= low + margin
        assert high - margin <= drawn.max() <= high + 1e-4
    talkers = plan.babble.chosen.sum(dim=1).int()
    assert talkers.unique().tolist() == [2, 3, 4, 5]
    assert not plan.babble.chosen.diagonal().any()
    assert set(plan.codec.codecs) == {"opus", "mp3"}


def test_probabilities_rise_with_the_epochs_of_the_stage() -> None:
    config = AugmentationConfig(ramp_epochs=4.0, noise_probability=0.5)
    assert [ramp(config, epoch) for epoch in (0, 1, 2, 3, 4, 9)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert ramp(AugmentationConfig(), 0) == 1.0


def test_the_ramp_begins_with_the_stage() -> None:
    config = AugmentationConfig(ramp_epochs=2.0, **EVERYTHING)
    augment = Augmenter(config, seed=1, banks=ClipBanks(), first_epoch=7)
    plans = {epoch: augment.plan(range(400), range(400), epoch=epoch, num_samples=8) for epoch in (7, 8, 9)}
    for name in SYNTHETIC:
        if name != "speed":
            assert getattr(plans[7], name) is None
        assert 150 <= len(rows_of(plans[8], name)) <= 250
        assert len(rows_of(plans[9], name)) == 400
    assert rows_of(plans[7], "speed") == set()


def test_classes_are_blocks_of_speakers_and_those_of_the_partner() -> None:
    speakers = torch.tensor([4, 0, 2])
    speed = SpeedPlan(8, (torch.tensor([2]), torch.tensor([0])), torch.tensor([2, 0, 1]))
    mixup = MixupPlan(torch.tensor([2, 1, 0]), torch.tensor([0.75, 1.0, 0.5]))
    assert same(AugmentationPlan().targets(speakers, 5), Targets(speakers))
    fast = torch.tensor([14, 0, 7])
    assert same(AugmentationPlan(speed=speed).targets(speakers, 5), Targets(fast))
    mixed = AugmentationPlan(speed=speed, mixup=mixup).targets(speakers, 5)
    assert same(mixed, Targets(fast, torch.tensor([7, 0, 14]), mixup.shares))
    old_names = AugmentationPlan(speed=speed._replace(blocks=None)).targets(speakers, 5)
    assert same(old_names, Targets(speakers))


def test_only_the_longest_speed_decides_how_much_is_read() -> None:
    assert augmenter().source_samples(1000) == 1000
    assert augmenter(speed_probability=0.1).source_samples(1001) == 1102  # 1.1 times it, rounded up
    slow = augmenter(speed_probability=0.1, speed_factors=(0.8, 0.9))
    assert slow.source_samples(1000) == 1000


class _Synchronising(TorchDispatchMode):
    """Names what makes the host wait for a device: numbers read from it, and sizes that depend on them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        by_mask = name.startswith("aten::index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if by_mask or any(
            part in name for part in ("_local_scalar_dense", "nonzero", "masked_select", "unique")
        ):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_apply_never_waits_for_the_device(noise_folder: Path, room_folder: Path) -> None:
    for keys in (EVERYTHING, FROM_CLIPS | {"noise": noise_folder, "rooms": room_folder}):
        augment = augmenter(**keys)
        plan = augment.plan(UTTERANCES, SPEAKERS, epoch=0, num_samples=8000)
        waveforms = augment.prepare(speech() * 0.2, plan)
        augment.apply(waveforms, plan)  # which makes the filters that are then held
        with _Synchronising() as watch:
            augment.apply(waveforms, plan)
            plan.targets(torch.tensor(SPEAKERS), 4)
        # Once for each speed torchaudio reads the length of its result from a tensor of its own on the CPU.
        assert watch.found == ["aten::_local_scalar_dense"] * 2
    with _Synchronising() as watch:
        waveforms[waveforms > 0.5].sum().item()
    assert len(watch.found) == 2  # the watch can see


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
    # Not the telephone: a rounding of a transform of another size moves a sample to another of its steps.
    without = {"mixup_probability": 0.0, "telephone_probability": 0.0}
    keys = EVERYTHING | without | ({} if recorded else {"babble_probability": 0.0})
    folders = {"noise": noise_folder, "rooms": room_folder, "music_probability": 1.0} if recorded else {}
    augment = augmenter(**keys, **folders)
    waveforms = speech() * 0.2
    together = augment(waveforms, UTTERANCES, SPEAKERS, epoch=2)
    for order in ([5, 3, 1, 0, 2, 4], [4], [1, 2]):
        again = augment(
            waveforms[order], [UTTERANCES[i] for i in order], [SPEAKERS[i] for i in order], epoch=2
        )
        torch.testing.assert_close(again, together[order], atol=1e-6, rtol=1e-5)


def test_a_telephone_item_depends_on_its_batch_by_single_steps_at_most() -> None:
    augment = augmenter(telephone_probability=1.0)
    waveforms = speech() * 0.2
    together = augment(waveforms, UTTERANCES, SPEAKERS, epoch=2)
    for item in range(len(waveforms)):
        alone = augment(waveforms[item : item + 1], [UTTERANCES[item]], [SPEAKERS[item]], epoch=2)[0]
        difference = (alone - together[item]).abs()
        assert (difference > 1e-6).float().mean() < 0.1
        assert difference.max() < 0.1 * together[item].abs().max()


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
    assert everything.abs().max() < 1e-4  # of which codecs make a faint noise


def test_autocast_and_half_precision_do_not_touch_the_arithmetic() -> None:
    waveforms, augment = speech().half(), augmenter(**EVERYTHING)
    plan = augment.plan(UTTERANCES, SPEAKERS, epoch=0, num_samples=8000)
    plain = augment.apply(waveforms.float(), plan)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        augmented = augment.apply(waveforms, plan)
    assert augmented.dtype == torch.float32
    assert torch.equal(augmented, plain)


def test_a_plan_travels_between_processes(noise_folder: Path, room_folder: Path) -> None:
    waveforms = speech()
    augment = augmenter(**FROM_CLIPS, noise=noise_folder, rooms=room_folder)
    plan = augment.plan(UTTERANCES, SPEAKERS, epoch=0, num_samples=8000)
    sent = pickle.loads(pickle.dumps(plan))
    assert isinstance(sent, AugmentationPlan)
    direct = pickle.loads(pickle.dumps(augment))(waveforms, UTTERANCES, SPEAKERS, epoch=0)
    assert torch.equal(augment.apply(augment.prepare(waveforms, sent), sent), direct)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_does_the_same(noise_folder: Path, room_folder: Path) -> None:
    waveforms = speech()
    augment = augmenter(**FROM_CLIPS, noise=noise_folder, rooms=room_folder)
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

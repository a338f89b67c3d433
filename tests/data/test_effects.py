from __future__ import annotations

import numpy as np
import torch

from mrl.data.effects import Items, between, to_device
from mrl.data.rooms import RoomPlan
from mrl.randomness import numpy_generator

# Earlier runs repeat only while this order holds.
COLUMNS = [
    *("room", "room_choice", "room_decay", "room_direct"),
    *("noise", "noise_choice", "noise_position", "noise_colour", "noise_snr"),
    *("babble", "babble_talkers", "babble_snr", "gain", "gain_db"),
]


def items(utterances: list[int], ramp: float = 1.0) -> Items:
    return Items(7, 3, np.array(utterances), np.zeros(len(utterances)), 100, ramp)


def test_room_noise_babble_and_gain_draw_in_the_order_that_they_always_did() -> None:
    batch = items([11, 5])
    for row, utterance in enumerate((11, 5)):
        drawn = numpy_generator(7, "augment", 3, utterance).random(len(COLUMNS) + 2)
        for column, name in enumerate(COLUMNS):
            assert batch.shared_draws[name][row] == drawn[column]
        assert np.array_equal(batch.rankings[row], drawn[-2:])


def test_other_effects_draw_from_generators_of_their_own() -> None:
    draws = items([11, 5]).draws("music", ("whether", "snr"))
    assert list(draws) == ["whether", "snr"]
    assert draws["snr"][1] == numpy_generator(7, "augment", 3, 5, "music").random(2)[1]


def test_chosen_are_those_below_the_probability_times_the_ramp() -> None:
    draws = np.array([0.0, 0.2, 0.3, 0.99])
    assert items([1, 2, 3, 4]).chosen(draws, 0.3).tolist() == [0, 1]
    assert items([1, 2, 3, 4], ramp=0.5).chosen(draws, 0.3).tolist() == [0]
    assert items([1, 2, 3, 4], ramp=0.0).chosen(draws, 1.0).tolist() == []
    assert items([1, 2, 3, 4]).chosen(draws, 1.0).tolist() == [0, 1, 2, 3]


def test_between_spreads_shares() -> None:
    assert between((-2.0, 6.0), np.array([0.0, 0.25, 0.5])).tolist() == [-2.0, 0.0, 2.0]


def test_plans_keep_their_kind_on_the_way_to_a_device() -> None:
    plan = (RoomPlan(torch.ones(2), None, torch.ones(2), torch.ones(2), [3, 4]), (torch.zeros(1),), None)
    moved = to_device(plan, torch.device("meta"))
    assert isinstance(moved[0], RoomPlan)
    assert moved[0].rows.device.type == moved[1][0].device.type == "meta"
    assert moved[0].seeds == [3, 4]
    assert moved[0].recorded is moved[2] is None

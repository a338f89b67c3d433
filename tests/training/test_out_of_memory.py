from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mrl.config import Config, LearningRates, StageConfig
from mrl.errors import TrainingError
from mrl.training.device_memory import GIBI, Memory, is_out_of_memory, measure, reset_peak
from mrl.training.out_of_memory import crops_that_fit, naming_memory, steps_for, training_advice

CPU = torch.device("cpu")


def stage_of(batch_size: int = 256, **changes: object) -> StageConfig:
    rates = LearningRates(head=1e-3, classifier=1e-3)
    return StageConfig(
        name="full", train=("head",), epochs=1, batch_size=batch_size, learning_rate=rates, **changes  # type: ignore[arg-type]
    )  # fmt: skip


def config_of(loss: str = "aam") -> Config:
    return Config.model_construct(loss=Config.model_fields["loss"].annotation(type=loss))  # type: ignore[misc]


def test_a_step_that_took_nearly_everything_is_halved() -> None:
    # 2 GiB of weights, 100 crops took 77 GiB more: 0.77 GiB each.
    assert crops_that_fit(100, 2 * GIBI, Memory(80 * GIBI, 79 * GIBI, 79 * GIBI)) == 50


def test_where_others_hold_the_device_less_than_half_fits() -> None:
    # 1 GiB each; of 22 GiB 2 are weights, and four fifths of the other 20 count: 16 crops.
    assert crops_that_fit(40, 2 * GIBI, Memory(22 * GIBI, 42 * GIBI, 42 * GIBI)) == 16


@given(st.integers(1, 4096), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_what_should_fit_is_never_more_than_half_and_never_negative(
    crops: int, before: int, peak: int, capacity: int
) -> None:
    fitting = crops_that_fit(crops, before * GIBI, Memory(capacity * GIBI, 0, max(before, peak) * GIBI))
    assert 0 <= fitting <= crops // 2


@given(st.integers(1, 512), st.sampled_from([1, 2, 4]), st.integers(0, 600))
def test_steps_are_the_fewest_that_cut_a_batch_small_enough(own: int, world_size: int, fitting: int) -> None:
    steps = steps_for(stage_of(own * world_size), world_size, fitting)
    possible = [n for n in range(1, own + 1) if own % n == 0 and own / n <= fitting]
    assert steps == (min(possible) if possible else None)


def test_an_error_of_memory_says_what_to_write() -> None:
    advice = training_advice(config_of(), stage_of(), 2)
    text = advice(2 * GIBI, Memory(80 * GIBI, 79 * GIBI, 79 * GIBI))
    assert text.startswith(
        "128 crops of 3 s were computed together (batch_size 256, accumulate_steps 1, 2 processes). 64 crops at a "
        "time should fit: set stages.full.accumulate_steps to 2, for the same gradient, and go on with --resume auto"
    )


def test_a_batch_that_must_stay_whole_is_made_smaller() -> None:
    memory = Memory(80 * GIBI, 79 * GIBI, 79 * GIBI)
    whole = training_advice(config_of(), stage_of(norm_statistics="batch"), 1)(2 * GIBI, memory)
    pairs = training_advice(config_of("triplet"), stage_of(utterances_per_speaker=2), 1)(2 * GIBI, memory)
    for text in (whole, pairs):
        assert "Lower stages.full.batch_size to 128" in text
        assert "accumulate_steps to" not in text
    single = training_advice(config_of(), stage_of(1), 1)(2 * GIBI, memory)
    assert "Shorten stages.full.crop_seconds" in single


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
        MemoryError(),
    ],
)
def test_every_error_of_memory_is_named(error: Exception) -> None:
    with (
        pytest.raises(
            TrainingError, match=r"^out of memory in training: .* GiB were in use.*before it; lower it$"
        ),
        naming_memory("in training", CPU, lambda *_: "lower it"),
    ):
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), naming_memory("in training", CPU, lambda *_: ""):
        raise RuntimeError("shapes cannot be multiplied")


def test_what_pytorch_really_raises_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as numpys:
        np.empty(1 << 60, dtype=np.uint8)
    assert is_out_of_memory(numpys.value)


def test_memory_of_this_process_is_measured_and_the_peak_begins_anew() -> None:
    block = 200 * 2**20
    reset_peak(CPU)
    before = measure(CPU)
    taken = np.ones(block, dtype=np.uint8)
    during = measure(CPU)
    assert during.held - before.held == pytest.approx(block, rel=0.1)
    del taken
    after = measure(CPU)
    assert after.peak - before.held == pytest.approx(block, rel=0.1)
    assert after.held - before.held < 0.1 * block
    reset_peak(CPU)
    assert measure(CPU).peak - before.held < 0.1 * block
    assert measure(CPU).capacity > during.held

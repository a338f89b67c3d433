"""The step: accumulation equals the large batch, clipping is of the true gradient, non-finite numbers stop it."""

from __future__ import annotations

import copy

import pytest
import torch

from mrl.config import RuntimeConfig, StageConfig
from mrl.loss import MarginSoftmax, PrefixSettings, SlicedClassifier, Targets
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import build_released
from mrl.training.criterion import Criterion
from mrl.training.schedules import StagePlan
from mrl.training.stages import enter_stage
from mrl.training.step_module import StepBatch
from mrl.training.step_values import NonFiniteError
from mrl.training.updater import Updater

STAGE = {
    "name": "full", "train": ["backbone", "head"], "epochs": 4, "batch_size": 8, "schedule": "constant",
    "learning_rate": {"backbone": 1e-3, "head": 1e-3, "classifier": 1e-2},
}  # fmt: skip
CROPS = torch.randn(8, 8_000, generator=torch.Generator().manual_seed(0)) * 0.1
TARGETS = Targets(torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]))
PEAK = PrefixSettings(margins=(0.2, 0.2), weights=(1.0, 0.5))


def make(tiny_config, dropout=0.0, precision="float32", **changes):
    """A fresh updater with its encoder and criterion; the same weights every time."""
    torch.manual_seed(0)
    released = build_released(tiny_config, seed=1)
    encoder = SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 16, dropout), [8, 16])
    criterion = Criterion(SlicedClassifier(4, [8, 16], [MarginSoftmax("aam")] * 2, [30.0, 30.0]))
    plan = StagePlan(StageConfig(**{**STAGE, **changes}), 0, 5, (8, 16), PEAK)
    enter_stage(encoder, criterion, plan.stage)
    runtime = RuntimeConfig(device="cpu", precision=precision)
    return Updater(encoder, criterion, plan, runtime, 3), encoder, criterion


def batch_of(crops=CROPS, targets=TARGETS):
    return StepBatch(crops, targets, None, torch.arange(len(crops)), [])


def run(updater, steps, start=0):
    values = []
    for step in range(start, start + steps):
        values += updater.update(batch_of(), stage_step=step, run_step=step)
    return values + updater.finish()


def gradients(*modules):
    return [p.grad.clone() for module in modules for p in module.parameters() if p.grad is not None]


def test_class_vectors_head_and_backbone_move_and_the_loss_falls(tiny_config):
    updater, encoder, criterion = make(tiny_config)
    before = copy.deepcopy({**encoder.state_dict(), "classes": criterion.loss.class_vectors.detach()})
    values = run(updater, 12)
    after = {**encoder.state_dict(), "classes": criterion.loss.class_vectors.detach()}
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert "classes" in moved
    assert {"head.linear.weight", "head.linear.bias", "head.bn.weight"} <= moved
    assert any(key.startswith("backbone.backbone.stage1") for key in moved)
    assert not any("running" in key or "num_batches" in key for key in moved)
    assert values[-1].loss < 0.8 * values[0].loss


def test_accumulated_parts_equal_the_large_batch(tiny_config):
    whole, *modules = make(tiny_config)
    parted, *modules_parted = make(tiny_config, accumulate_steps=4)
    (a,), (b,) = run(whole, 1), run(parted, 1)
    assert b.loss == pytest.approx(a.loss, rel=1e-5)
    assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=1e-4)
    assert b.loss_per_prefix == pytest.approx(a.loss_per_prefix, rel=1e-5)
    for one, other in zip(gradients(*modules), gradients(*modules_parted), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * one.abs().max().item() + 1e-7, rtol=1e-3)


@pytest.mark.parametrize("parts", [1, 4])
def test_clipping_is_of_the_whole_gradient_and_the_norm_is_reported_unclipped(tiny_config, parts):
    free, *modules = make(tiny_config, gradient_clip=None)
    (values,) = run(free, 1)
    norm = torch.stack([g.norm() for g in gradients(*modules)]).norm().item()
    assert values.gradient_norm == pytest.approx(norm, rel=1e-4)
    clip = norm / 3
    clipped, *modules = make(tiny_config, gradient_clip=clip, accumulate_steps=parts)
    (values,) = run(clipped, 1)
    assert values.gradient_norm == pytest.approx(norm, rel=1e-3)
    assert torch.stack([g.norm() for g in gradients(*modules)]).norm().item() == pytest.approx(clip, rel=1e-3)


def test_rates_follow_the_schedule(tiny_config):
    updater, *_ = make(tiny_config, warmup_epochs=1)
    values = run(updater, 6)
    assert [v.rates["classifier"] for v in values] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01, 0.01])
    assert values[2].rates["backbone"] == pytest.approx(0.6e-3)


def test_a_plateau_lowers_the_rates(tiny_config):
    updater, *_ = make(tiny_config, schedule="plateau", plateau_factor=0.1, final_rate_share=0.0)
    (values,) = updater.update(batch_of(), stage_step=0, run_step=0, plateau_reductions=2)
    assert values.rates["head"] == pytest.approx(1e-5)


def test_a_prefix_that_has_not_joined_is_not_minimised(tiny_config):
    updater, *_ = make(tiny_config, prefix_start={16: 2})
    before, after = run(updater, 1, start=4)[0], run(updater, 1, start=5)[0]  # five steps an epoch
    assert before.loss == pytest.approx(before.loss_per_prefix[0])
    assert after.loss == pytest.approx(after.loss_per_prefix[0] + 0.5 * after.loss_per_prefix[1])


def test_the_gradient_flow_is_measured_where_asked_for_and_before_clipping(tiny_config):
    updater, *_ = make(tiny_config)
    assert run(updater, 1)[0].flow is None
    flows = []
    for clip in (None, 1e-3):
        updater, *_ = make(tiny_config, gradient_clip=clip)
        (values,) = updater.update(batch_of(), stage_step=0, run_step=0, measure_flow=True)
        flows.append(values.flow.metrics)
    assert {"gradient/stem", "gradient/stage1", "gradient/pooling", "gradient/head"} < set(flows[0])
    assert flows[0] == flows[1]


def test_dropout_depends_on_seed_and_step_alone(tiny_config):
    first, *_ = make(tiny_config, dropout=0.5)
    a = run(first, 3)
    torch.manual_seed(99)
    second, *_ = make(tiny_config, dropout=0.5)
    torch.rand(17)
    assert run(second, 3) == a
    other, *_ = make(tiny_config, dropout=0.0)
    assert run(other, 1)[0].loss != a[0].loss


def test_a_restored_state_goes_on_bit_for_bit(tiny_config):
    straight, *modules = make(tiny_config, dropout=0.3)
    run(straight, 6)
    broken, *halves = make(tiny_config, dropout=0.3)
    run(broken, 3)
    resumed, *rest = make(tiny_config, dropout=0.3)
    for module, source in zip(rest, halves, strict=True):
        module.load_state_dict(source.state_dict())
    resumed.load_state_dict(copy.deepcopy(broken.state_dict()))
    run(resumed, 3, start=3)
    for module, reference in zip(rest, modules, strict=True):
        for key, value in reference.state_dict().items():
            assert torch.equal(module.state_dict()[key], value), key


@pytest.mark.parametrize("where", ["crop", "weight"])
def test_a_non_finite_loss_stops_before_the_update(tiny_config, where):
    updater, encoder, criterion = make(tiny_config)
    crops = CROPS.clone()
    if where == "crop":
        crops[3, 100] = float("nan")
    else:
        with torch.no_grad():
            encoder.head.linear.weight[0, 0] = float("inf")
    before = copy.deepcopy([*encoder.state_dict().values(), *criterion.state_dict().values()])
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        updater.update(batch_of(crops), stage_step=0, run_step=0)
    after = [*encoder.state_dict().values(), *criterion.state_dict().values()]
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(before, after, strict=True))


def test_a_non_finite_gradient_stops_before_the_update(tiny_config):
    updater, encoder, criterion = make(tiny_config)
    encoder.head.linear.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = criterion.loss.class_vectors.detach().clone()
    with pytest.raises(NonFiniteError, match="norm of the gradient"):
        run(updater, 1)
    assert torch.equal(criterion.loss.class_vectors, before)


@pytest.mark.parametrize("optimizer", [{}, {"optimizer": "sgd"}], ids=["adamw", "sgd"])
def test_no_later_update_moves_the_weights_either(tiny_config, optimizer):
    """A GPU may have begun the next update before anybody reads that this one went wrong."""
    updater, encoder, criterion = make(tiny_config, **optimizer)
    run(updater, 2)
    before = copy.deepcopy([*encoder.state_dict().values(), *criterion.state_dict().values()])
    state = copy.deepcopy(updater.state_dict()["optimizer"]["state"])
    broken = CROPS.clone()
    broken[0, 0] = float("inf")
    for step, crops in ((2, broken), (3, CROPS)):
        with pytest.raises(NonFiniteError, match="the loss is nan") as caught:
            updater.update(batch_of(crops), stage_step=step, run_step=step)
        assert caught.value.run_step == step
    after = [*encoder.state_dict().values(), *criterion.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    for index, values in updater.state_dict()["optimizer"]["state"].items():
        assert all(torch.equal(value, state[index][name]) for name, value in values.items())


def test_a_first_update_that_must_not_happen_leaves_sgd_without_momentum(tiny_config):
    updater, *_ = make(tiny_config, optimizer="sgd")
    broken = CROPS.clone()
    broken[0, 0] = float("nan")
    with pytest.raises(NonFiniteError):
        updater.update(batch_of(broken), stage_step=0, run_step=0)
    state = updater.state_dict()["optimizer"]["state"]
    assert not any(values["momentum_buffer"].any() for values in state.values())


def test_bf16_autocast_trains_with_the_loss_in_float32(tiny_config):
    exact, *_ = make(tiny_config)
    coarse, encoder, criterion = make(tiny_config, precision="bf16")
    a, b = run(exact, 1)[0], run(coarse, 1)[0]
    assert b.loss != a.loss
    assert b.loss == pytest.approx(a.loss, rel=0.05)
    assert all(p.dtype == torch.float32 for p in [*encoder.parameters(), criterion.loss.class_vectors])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fp16_overflow_is_skipped_and_the_scale_falls(tiny_config):
    updater, encoder, criterion = make(tiny_config)
    encoder.cuda(), criterion.cuda()
    plan = StagePlan(StageConfig(**STAGE), 0, 5, (8, 16), PEAK)
    updater = Updater(encoder, criterion, plan, RuntimeConfig(device="cuda", precision="fp16"), 3)
    updater._scaler = torch.amp.GradScaler("cuda", init_scale=2.0**30)
    before = criterion.loss.class_vectors.detach().clone()
    batch = batch_of(CROPS.cuda(), Targets(TARGETS.speakers.cuda()))
    assert updater.update(batch, stage_step=0, run_step=0) == []  # read one update late
    (first,) = updater.finish()
    assert first.skipped
    assert torch.equal(criterion.loss.class_vectors, before)
    assert updater.state_dict()["scaler"]["scale"] < 2.0**30


def skipping(tiny_config, max_skipped=3, dropout=0.0, **changes):
    """As `make`, for a run that skips."""
    _, encoder, criterion = make(tiny_config, dropout, **changes)
    plan = StagePlan(StageConfig(**{**STAGE, **changes}), 0, 5, (8, 16), PEAK)
    runtime = RuntimeConfig(device="cpu", non_finite="skip", max_skipped=max_skipped)
    return Updater(encoder, criterion, plan, runtime, 3), encoder, criterion


def poisoned():
    crops = CROPS.clone()
    crops[5, 100] = float("nan")
    return batch_of(crops)


def all_numbers(updater, *modules):
    numbers = [value for module in modules for value in module.state_dict().values()]
    for values in updater.state_dict()["optimizer"]["state"].values():
        numbers += values.values()
    return copy.deepcopy(numbers)


@pytest.mark.parametrize(
    "changes",
    [{}, {"accumulate_steps": 4}, {"optimizer": "sgd"}, {"norm_statistics": "batch"}],
    ids=["adamw", "accumulated", "sgd", "statistics"],
)
def test_a_skipped_update_changes_nothing_and_training_goes_on(tiny_config, changes):
    updater, *modules = skipping(tiny_config, **changes)
    run(updater, 2)
    before = all_numbers(updater, *modules)
    (skipped,) = updater.update(poisoned(), stage_step=2, run_step=2)
    assert skipped.skipped
    assert skipped.fault == "the loss is nan"
    assert not updater.applied
    after = all_numbers(updater, *modules)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    (values,) = run(updater, 1, start=3)
    assert values.fault is None
    assert updater.applied
    assert not all(torch.equal(a, b) for a, b in zip(before, all_numbers(updater, *modules), strict=True))


def test_more_than_are_allowed_stop_the_run_and_say_so(tiny_config):
    updater, *modules = skipping(tiny_config, max_skipped=2)
    for step in range(2):
        updater.update(poisoned(), stage_step=step, run_step=step)
    before = all_numbers(updater, *modules)
    with pytest.raises(
        NonFiniteError, match=r"3 skipped in a row and 3 in this epoch, runtime\.max_skipped is 2"
    ):
        updater.update(poisoned(), stage_step=2, run_step=2)
    with pytest.raises(NonFiniteError):
        run(updater, 1, start=3)  # as on a GPU, where it has begun already
    assert all(torch.equal(a, b) for a, b in zip(before, all_numbers(updater, *modules), strict=True))


def test_a_resumed_run_counts_the_updates_that_were_skipped_before(tiny_config):
    straight, *modules = skipping(tiny_config, dropout=0.3)
    broken, *halves = skipping(tiny_config, dropout=0.3)
    for updater in (straight, broken):
        run(updater, 1)
        for step in (1, 2):
            updater.update(poisoned(), stage_step=step, run_step=step)
    resumed, *rest = skipping(tiny_config, dropout=0.3)
    for module, source in zip(rest, halves, strict=True):
        module.load_state_dict(source.state_dict())
    resumed.load_state_dict(copy.deepcopy(broken.state_dict()))
    for updater in (straight, resumed):
        updater.update(poisoned(), stage_step=3, run_step=3)
        run(updater, 1, start=4)
        updater.update(poisoned(), stage_step=5, run_step=5)  # another epoch
    numbers = all_numbers(straight, *modules), all_numbers(resumed, *rest)
    assert all(torch.equal(a, b) for a, b in zip(*numbers, strict=True))
    assert straight.state_dict()["skips"] == resumed.state_dict()["skips"] == {
        "in_a_row": 1, "in_epoch": 1, "epoch": 1, "overflows": 0,
    }  # fmt: skip


def test_after_resuming_the_device_too_stops_where_the_limit_is_passed(tiny_config):
    before, *_ = skipping(tiny_config, max_skipped=2)
    for step in range(2):
        before.update(poisoned(), stage_step=step, run_step=step)
    resumed, *modules = skipping(tiny_config, max_skipped=2)
    resumed.load_state_dict(copy.deepcopy(before.state_dict()))
    numbers = all_numbers(resumed, *modules)
    with pytest.raises(NonFiniteError):
        resumed.update(poisoned(), stage_step=2, run_step=2)
    with pytest.raises(NonFiniteError):
        run(resumed, 1, start=3)
    assert all(torch.equal(a, b) for a, b in zip(numbers, all_numbers(resumed, *modules), strict=True))


def test_a_state_from_before_updates_were_skipped_is_read(tiny_config):
    updater, *_ = make(tiny_config)
    run(updater, 1)
    old = {key: value for key, value in updater.state_dict().items() if key != "skips"}
    updater.load_state_dict({**old, "skipped_in_a_row": 0})
    assert updater.state_dict()["skips"]["in_a_row"] == 0


def test_the_gradient_at_fault_is_named_by_the_one_nearest_to_the_loss(tiny_config):
    updater, encoder, _ = make(tiny_config)
    for name in ("head.linear.weight", "head.bn.bias"):
        encoder.get_parameter(name).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(
        NonFiniteError, match=r"norm of the gradient is .*, that of head\.linear\.weight among others"
    ):
        run(updater, 1)


SHORT = CROPS[:, :3_000]


def run_short(updater, steps, start=0):
    """`run` on shorter crops: a CPU is slow in fp16."""
    return [
        values
        for step in range(start, start + steps)
        for values in updater.update(batch_of(SHORT), stage_step=step, run_step=step)
    ]


def fp16(tiny_config, scale):
    updater, encoder, criterion = make(tiny_config, precision="fp16")
    updater._scaler.load_state_dict({**updater._scaler.state_dict(), "scale": scale})
    return updater, encoder, criterion


def test_fp16_overflow_is_skipped_until_the_scale_fits_and_training_goes_on(tiny_config):
    updater, *modules = fp16(tiny_config, 2.0**22)
    before = copy.deepcopy([value for module in modules for value in module.state_dict().values()])
    (first,) = run_short(updater, 1)
    assert first.overflowed
    assert first.skipped
    assert first.fault is None
    assert not updater.applied
    after = [value for module in modules for value in module.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert updater.state_dict()["scaler"]["scale"] == 2.0**21
    values = run_short(updater, 11, start=1)
    overflows = [value.overflowed for value in values]
    assert overflows == sorted(overflows, reverse=True)  # until it fits, and then no more
    assert not overflows[-1]
    assert updater.state_dict()["skips"]["overflows"] == 0
    taken = [value.loss for value in values if not value.overflowed]
    assert taken[-1] < taken[0]


def test_so_many_overflows_in_a_row_are_borne_and_one_more_stops(tiny_config, monkeypatch):
    monkeypatch.setattr("mrl.training.updater._MAX_OVERFLOWS", 4)
    updater, encoder, criterion = fp16(tiny_config, 2.0**16)
    encoder.head.linear.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = criterion.loss.class_vectors.detach().clone()
    assert all(values.overflowed for values in run_short(updater, 4))
    with pytest.raises(NonFiniteError, match=r"overflowed 5 times in a row; .*head\.linear\.weight"):
        run_short(updater, 1, start=4)
    assert torch.equal(criterion.loss.class_vectors, before)


def test_a_loss_that_is_not_finite_stops_fp16_at_once(tiny_config):
    updater, *_ = fp16(tiny_config, 8.0)
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        updater.update(poisoned(), stage_step=0, run_step=0)

"""The released b2: front end, forward pass and training step, beside a plain reading of the architecture.

Both hold the same weights and take 3 s crops. A training step is forward and backward through the trained backbone,
with frozen BatchNorm statistics, which is the default, or with those of the batch; there is no optimizer.
B batch, T samples.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

from benchmarks.b2 import B2, TINY
from benchmarks.plain_redimnet import PlainReDimNet
from benchmarks.table import Claim, Table
from benchmarks.timing import Timing, alternate, peak_on, ratio
from mrl.models import memory_order
from mrl.models.pretrained import build_released
from mrl.models.released import ReleasedModel

COMMAND = "python -m benchmarks.backbone"
WORKS = ("front end", "forward", "training step", "training step, statistics of the batch")
_COLUMNS = ("work", "plain ms", "ours ms", "ours steps/s", "times as fast", "plain peak MB", "ours peak MB")
_CLAIMED = ("forward", "training step")


class Size(NamedTuple):
    """What is measured: the network, and the batch that goes through it."""

    tiny: bool
    batch: int
    num_samples: int
    rounds: int


FULL, QUICK = Size(False, 16, 48_000, 5), Size(True, 2, 4_000, 2)
ON_GPU = Size(False, 64, 48_000, 20)


class Contenders:
    """The plain model and ours with the same weights, and a batch."""

    def __init__(self, size: Size, device: str) -> None:
        config = TINY if size.tiny else B2
        self.ours: ReleasedModel = build_released(config, seed=1).to(device).eval()
        self.plain = PlainReDimNet(config).to(device).eval()
        self.plain.load_state_dict(self.ours.state_dict(), strict=True)
        generator = torch.Generator().manual_seed(2)
        self.waveforms = 0.1 * torch.randn(size.batch, size.num_samples, generator=generator).to(device)

    def work(self, name: str, contender: str, *, bf16: bool = False) -> Callable[[], Tensor]:
        """What :data:`WORKS` calls ``name``, for "plain" or "ours"."""
        model = self.plain if contender == "plain" else self.ours
        device = self.waveforms.device.type

        def run() -> Tensor:
            model.train(name == WORKS[3])
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                if not name.startswith("training"):
                    with torch.no_grad():
                        return model.spec(self.waveforms) if name == "front end" else model(self.waveforms)
                model.zero_grad(set_to_none=True)
                pooled: Tensor = model.pooled(self.waveforms)
                objective = pooled.square().mean()
            objective.backward()
            return objective.detach()

        return run


def prepare(name: str, contender: str, size: Size, device: str) -> Callable[[], object]:
    """A work in a process of its own, its libraries loaded by a batch of one short crop."""
    contenders = Contenders(size, device)
    work = contenders.work(name, contender)
    whole, contenders.waveforms = contenders.waveforms, contenders.waveforms[:2, :4000]
    work()
    contenders.waveforms = whole
    return work


def peak(name: str, contender: str, size: Size, device: str) -> int:
    """Bytes above weights and input while a work runs, gradients included."""
    return peak_on(device, prepare, name, contender, size, device)


def run(*, quick: bool = False) -> list[Table]:
    """A table for the CPU, and one for a GPU where there is one."""
    tables = [_table("cpu", QUICK if quick else FULL)]
    if torch.cuda.is_available():
        tables.append(_table("cuda", QUICK if quick else ON_GPU))
    return tables


def _table(device: str, size: Size) -> Table:
    contenders = Contenders(size, device)
    rows, claims = [], []
    for name in WORKS:
        works = {contender: contenders.work(name, contender) for contender in ("plain", "ours")}
        timings = alternate(works, rounds=size.rounds)
        peaks = {}
        if name == "training step":
            peaks = {contender: peak(name, contender, size, device) for contender in works}
        rows.append(_row(name, timings, peaks))
        if name in _CLAIMED:
            # On a GPU the promise is to be no slower; there is no other memory order, and less to win.
            bound = 1.5 if device == "cpu" else 0.98
            claims.append(Claim(f"{name}, times as fast", ratio(timings["plain"], timings["ours"]), bound))
    if device == "cuda":
        rows += _gpu_rows(contenders, size)
    seconds = size.num_samples / 16_000
    return Table(
        f"ReDimNet b2 on {device}, batches of {size.batch} crops of {seconds:g} s",
        COMMAND,
        _COLUMNS,
        rows,
        claims,
        "Peaks count what rises above weights and input, gradients included.",
    )


def _gpu_rows(contenders: Contenders, size: Size) -> list[list[str]]:
    """The same in bfloat16, and in the order of memory that is used on a CPU."""
    rows = []
    for bf16 in (False, True):
        for outermost in (False, True):
            if not bf16 and not outermost:
                continue
            marks = [mark for mark, on in (("bf16", bf16), ("frames outermost", outermost)) if on]
            for name in _CLAIMED:
                works = {
                    contender: contenders.work(name, contender, bf16=bf16) for contender in ("plain", "ours")
                }
                with ExitStack() as stack:
                    if outermost:
                        order = mock.patch.object(memory_order, "DEVICES", frozenset({"cuda"}))
                        stack.enter_context(order)
                    timings = alternate(works, rounds=size.rounds, warm_ups=3)
                rows.append(_row(f"{name}, {', '.join(marks)}", timings, {}))
    return rows


def _row(name: str, timings: dict[str, Timing], peaks: dict[str, int]) -> list[str]:
    plain, ours = timings["plain"], timings["ours"]
    memory = [f"{peaks[contender] / 1e6:,.0f}" if peaks else "" for contender in ("plain", "ours")]
    speed = [f"{1 / ours.median:.3g}", f"{ratio(plain, ours):.2f}"]
    return [name, plain.milliseconds, ours.milliseconds, *speed, *memory]


if __name__ == "__main__":
    for table in run():
        table.show()

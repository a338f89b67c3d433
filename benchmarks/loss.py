"""The sliced margin softmax against one full loss per prefix: time and memory of forward and backward.

The plain path is the usual one: slice and normalise embeddings and class vectors, multiply, take the sine of every
angle, choose by a one-hot matrix, cross-entropy; then again for the next prefix.
Shapes: B batch, C classes, D widest prefix.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.table import Claim, Table
from benchmarks.timing import alternate, peak_on, ratio
from mrl.loss import MarginSoftmax, PrefixSettings, SlicedClassifier, Targets

DIMS = (64, 128, 192, 256)
MARGIN, SCALE = 0.2, 30.0
_COLUMNS = (
    "batch x classes",
    "plain ms",
    "ours ms",
    "times as fast",
    "plain peak MB",
    "ours peak MB",
    "share",
)


class Size(NamedTuple):
    """How much one table row asks for."""

    batch: int
    classes: int
    rounds: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.classes:,}"


SIZES = (Size(256, 5_994, 5), Size(512, 5_994, 5), Size(256, 100_000, 2), Size(512, 100_000, 2))
MILLION = Size(256, 1_000_000, 1)
QUICK_SIZES = (Size(16, 300, 2), Size(32, 300, 2))
QUICK_MILLION = Size(16, 3_000, 1)


def plain_loss(embeddings: Tensor, vectors: Tensor, speakers: Tensor, dims: Sequence[int]) -> Tensor:
    """Sum over ``dims`` of the additive angular margin softmax, each prefix by itself."""
    total = embeddings.new_zeros(())
    for dim in dims:
        cosines = functional.linear(
            functional.normalize(embeddings[:, :dim]), functional.normalize(vectors[:, :dim])
        )
        sines = (1.0 - cosines.pow(2)).clamp(0.0, 1.0).sqrt()
        shifted = cosines * math.cos(MARGIN) - sines * math.sin(MARGIN)
        shifted = torch.where(cosines > -math.cos(MARGIN), shifted, cosines - MARGIN * math.sin(MARGIN))
        one_hot = torch.zeros_like(cosines).scatter_(1, speakers[:, None], 1.0)
        logits = SCALE * (one_hot * shifted + (1.0 - one_hot) * cosines)
        total = total + functional.cross_entropy(logits, speakers)
    return total


class Problem:
    """Random embeddings and class vectors; :meth:`plain` and :meth:`ours` leave gradients on both."""

    def __init__(self, batch: int, classes: int, dims: Sequence[int], device: str) -> None:
        torch.manual_seed(0)
        self.dims = tuple(dims)
        self.embeddings = torch.randn(batch, dims[-1], device=device, requires_grad=True)
        self.speakers = torch.randint(0, classes, (batch,), device=device)
        objectives = [MarginSoftmax("aam")] * len(dims)
        self.classifier = SlicedClassifier(classes, dims, objectives, [SCALE] * len(dims)).to(device)
        self._settings = PrefixSettings((MARGIN,) * len(dims), (1.0,) * len(dims))

    def plain(self) -> Tensor:
        return self._backward(
            plain_loss(self.embeddings, self.classifier.class_vectors, self.speakers, self.dims)
        )

    def ours(self) -> Tensor:
        return self._backward(self.classifier(self.embeddings, Targets(self.speakers), self._settings).total)

    def _backward(self, loss: Tensor) -> Tensor:
        self.embeddings.grad = self.classifier.class_vectors.grad = None
        loss.backward()
        return loss.detach()


def prepare(contender: str, batch: int, classes: int, device: str) -> Callable[[], object]:
    """A step of ``contender`` ("plain" or "ours"), its libraries loaded; run in a process of its own."""
    warm_up, problem = Problem(8, 50, DIMS, device), Problem(batch, classes, DIMS, device)
    warm_up.plain(), warm_up.ours()
    return problem.plain if contender == "plain" else problem.ours


def peak(contender: str, batch: int, classes: int, device: str) -> int:
    """Bytes above weights and inputs while a step runs, the gradients included."""
    return peak_on(device, prepare, contender, batch, classes, device)


def run(*, quick: bool = False) -> list[Table]:
    """One table for each device there is."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [_table(device, quick) for device in devices]


def _table(device: str, quick: bool) -> Table:
    sizes, million = (QUICK_SIZES, QUICK_MILLION) if quick else (SIZES, MILLION)
    rows, claims = [], []
    bytes_per_cosine = 0.0
    for size in sizes:
        needed, free = 1.25 * bytes_per_cosine * size.batch * size.classes, _free_bytes(device)
        if needed > free:
            why = f"left out: needs {needed / 1e9:.0f} GB, {free / 1e9:.0f} are free"
            rows.append(_ours_alone(size, device, why))
            continue
        faster, plain, ours, row = _compare(size, device)
        bytes_per_cosine = plain / (size.batch * size.classes)
        rows.append(row)
        claims += [
            Claim(f"{size}, times as fast", faster, 2.0),
            Claim(f"{size}, share of the plain peak", ours / plain, 0.1, at_most=True),
        ]
    rows.append(_ours_alone(million, device, "not tried"))
    vectors = million.classes * DIMS[-1] * 4
    notes = (
        "Peaks count what rises above weights and inputs, so the gradient of the class vectors too. With "
        f"{million.classes:,} classes that is {_megabytes(vectors)} MB, as much as the class vectors themselves; "
        "the rest is work memory."
    )
    return Table(
        f"Sliced margin softmax on {device}", "python -m benchmarks.loss", _COLUMNS, rows, claims, notes
    )


def _compare(size: Size, device: str) -> tuple[float, int, int, list[str]]:
    """How many times as fast, the two peaks in bytes, and the row that says so."""
    problem = Problem(size.batch, size.classes, DIMS, device)
    timings = alternate({"plain": problem.plain, "ours": problem.ours}, rounds=size.rounds)
    del problem
    gc.collect()
    plain, ours = (peak(contender, size.batch, size.classes, device) for contender in ("plain", "ours"))
    faster = ratio(timings["plain"], timings["ours"])
    row = [
        str(size),
        timings["plain"].milliseconds,
        timings["ours"].milliseconds,
        f"{faster:.1f}",
        _megabytes(plain),
        _megabytes(ours),
        f"{100 * ours / plain:.1f} %",
    ]
    return faster, plain, ours, row


def _ours_alone(size: Size, device: str, why: str) -> list[str]:
    problem = Problem(size.batch, size.classes, DIMS, device)
    timing = alternate({"ours": problem.ours}, rounds=size.rounds, warm_ups=0)["ours"]
    del problem
    gc.collect()
    rise = peak("ours", size.batch, size.classes, device)
    return [str(size), why, timing.milliseconds, "", "", _megabytes(rise), ""]


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f}"


def _free_bytes(device: str) -> int:
    """Memory that a process may still take; without limit where the system does not say."""
    if device != "cpu":
        return torch.cuda.mem_get_info()[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 1 << 60
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


if __name__ == "__main__":
    for table in run():
        table.show()

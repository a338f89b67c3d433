"""Where a run's numbers go: a file of JSON lines, TensorBoard, Weights & Biases.

A sink may raise on any call, whatever the reason; :class:`mrl.training.tracking.Tracker` says so once and
switches it off. TensorBoard and Weights & Biases are imported only where they are used.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from mrl.config import LoggingConfig
from mrl.line_file import LineFile, reason
from mrl.training.run_folder import NOTHING_YET, Reached
from mrl.training.wandb_service import WandbMode, WandbService

Value = float | int | str | bool


@dataclass(frozen=True)
class Record:
    """Named values at one optimizer step or at the end of one epoch."""

    kind: Literal["step", "epoch"]
    step: int
    values: Mapping[str, Value]
    epoch: int | None = None
    time: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))

    def as_dict(self) -> dict[str, Value]:
        """The values under their names, after ``kind``, ``step``, ``epoch`` (of an epoch) and ``time``."""
        epoch = {} if self.epoch is None else {"epoch": self.epoch}
        return {"kind": self.kind, "step": self.step, **epoch, "time": self.time, **self.values}


def recorded(values: Mapping[str, Any]) -> Record:
    """The record whose ``as_dict`` is ``values``, as a metrics file has them; null values are left out."""
    fields = {"kind", "step", "epoch", "time"}
    is_epoch = values["kind"] == "epoch"  # a step's own value has the same name
    named = {
        name: value
        for name, value in values.items()
        if value is not None and (name not in fields or (name == "epoch" and not is_epoch))
    }
    return Record(
        values["kind"], values["step"], named, values["epoch"] if is_epoch else None, values.get("time", "")
    )


class Sink(Protocol):
    """One place that records go to."""

    name: str

    def write(self, record: Record) -> None: ...

    def close(self, *, failed: bool) -> None:
        """End the recording; ``failed`` says that the run ended with an error."""


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line; NaN and infinities are written as null."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._lines = LineFile(path)

    def write(self, record: Record) -> None:
        values = {name: _json_value(value) for name, value in record.as_dict().items()}
        self._lines.write(json.dumps(values, allow_nan=False, ensure_ascii=False))

    def close(self, *, failed: bool) -> None:
        self._lines.close()


class TensorBoardSink:
    """Scalars under their names; text is left out.

    ``purge_step`` (steps) makes TensorBoard forget the scalars from that step on that an interrupted run left
    in the same folder.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        from mrl.training.event_file import EventFile

        self._events = EventFile(folder, purge_step)

    def write(self, record: Record) -> None:
        scalars = {name: float(value) for name, value in record.values.items() if not isinstance(value, str)}
        self._events.scalars(record.step, scalars)

    def discard(self) -> None:
        """End the recording, and leave nothing of it."""
        self._events.discard()

    def close(self, *, failed: bool) -> None:
        self._events.close()


class WandbSink:
    """A Weights & Biases run, online where that works and offline otherwise.

    It never asks for a key and never waits for the network without a limit. Values are plotted against our
    own ``step``: the service's counter refuses steps that it has seen, which a resumed run repeats. What the run
    recorded before it was cut off, up to ``reached``, is not sent again: the service cannot forget it.
    """

    name = "Weights & Biases"

    def __init__(
        self,
        config: LoggingConfig,
        run_config: Mapping[str, Any],
        run_id: str | None,
        reached: Reached = NOTHING_YET,
    ) -> None:
        self._reached = reached if run_id is not None else NOTHING_YET
        mode: WandbMode = "online" if config.wandb == "online" else "offline"
        obstacle = ""
        if mode == "online" and not os.environ.get("WANDB_API_KEY"):
            mode, obstacle = "offline", "WANDB_API_KEY is not set in the environment or .env; "
        try:
            self._service = WandbService(config, run_config, run_id, mode)
        except Exception as error:  # its client raises many kinds, none of which is worth a run
            if mode == "offline" or isinstance(error, ImportError):
                raise
            mode, obstacle = "offline", f"{reason(error)}; "
            self._service = WandbService(config, run_config, run_id, mode)
        self._run = self._service.run
        self._run.define_metric("*", step_metric="step")
        self.run_id: str = self._run.id
        folder = Path(self._run.dir).parent
        self.status = (
            self._run.url if mode == "online" else f"{obstacle}offline, send it with wandb sync {folder}"
        )
        """The run's page, or how to send an offline run, and why it is one."""

    def write(self, record: Record) -> None:
        if record.step <= self._reached.step if record.epoch is None else record.epoch <= self._reached.epoch:
            return
        epoch = {} if record.epoch is None else {"epoch": record.epoch}
        self._service.log({**record.values, **epoch, "step": record.step})

    def close(self, *, failed: bool) -> None:
        self._service.finish(exit_code=int(failed))


def _json_value(value: Value) -> Value | None:
    if isinstance(value, (bool, int, str)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None

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

Value = float | int | str | bool
WandbMode = Literal["online", "offline"]

WANDB_INIT_SECONDS = 20.0
"""How long the start of an online run may wait for the network."""
WANDB_FINISH_SECONDS = 60.0
"""How long the end of an online run may wait for uploads; what is left stays on disk."""
TENSORBOARD_FLUSH_SECONDS = 10


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
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=TENSORBOARD_FLUSH_SECONDS)

    def write(self, record: Record) -> None:
        for name, value in record.values.items():
            if not isinstance(value, str):
                self._writer.add_scalar(name, float(value), record.step)
        if record.kind == "epoch":
            self._writer.flush()

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class WandbSink:
    """A Weights & Biases run, online where that works and offline otherwise.

    It never asks for a key and never waits for the network without a limit. Values are plotted against our
    own ``step``: the service's counter refuses steps that it has seen, which a resumed run repeats.
    """

    name = "Weights & Biases"

    def __init__(self, config: LoggingConfig, run_config: Mapping[str, Any], run_id: str | None) -> None:
        mode: WandbMode = "online" if config.wandb == "online" else "offline"
        obstacle = ""
        if mode == "online" and not os.environ.get("WANDB_API_KEY"):
            mode, obstacle = "offline", "WANDB_API_KEY is not set in the environment or .env; "
        try:
            self._run = _start_wandb(config, run_config, run_id, mode)
        except Exception as error:  # its client raises many kinds, none of which is worth a run
            if mode == "offline" or isinstance(error, ImportError):
                raise
            mode, obstacle = "offline", f"{reason(error)}; "
            self._run = _start_wandb(config, run_config, run_id, mode)
        self._run.define_metric("*", step_metric="step")
        self.run_id: str = self._run.id
        folder = Path(self._run.dir).parent
        self.status = (
            self._run.url if mode == "online" else f"{obstacle}offline, send it with wandb sync {folder}"
        )
        """The run's page, or how to send an offline run, and why it is one."""

    def write(self, record: Record) -> None:
        epoch = {} if record.epoch is None else {"epoch": record.epoch}
        self._run.log({**record.values, **epoch, "step": record.step})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def _start_wandb(
    config: LoggingConfig, run_config: Mapping[str, Any], run_id: str | None, mode: WandbMode
) -> Any:
    import wandb

    settings = wandb.Settings(
        init_timeout=WANDB_INIT_SECONDS,
        finish_timeout=WANDB_FINISH_SECONDS,
        silent=True,
        console="off",  # capturing stdout would record every redraw of the progress bar
    )
    try:
        return wandb.init(
            project=config.project,
            name=config.run_name,
            dir=str(config.directory),
            config=dict(run_config),
            mode=mode,
            id=run_id,
            resume="allow" if run_id else None,
            reinit="create_new",
            settings=settings,
        )
    except Exception:
        # The failed start keeps its run id in the background service; without this, the offline run that
        # follows is refused ("run ID is in use") or waits for its whole timeout.
        wandb.teardown()
        raise


def _json_value(value: Value) -> Value | None:
    if isinstance(value, (bool, int, str)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None

"""What train.py does: wire configuration, data, model and tracker, then train, plan, overfit or measure."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from mrl.config import Config
from mrl.config_file import config_to_dict
from mrl.console import Console
from mrl.data.assemble import RunData
from mrl.device import choose_device
from mrl.errors import CheckpointError
from mrl.models.encoder import SpeakerEncoder, encoder_from_checkpoint
from mrl.models.load_encoder import encoder_from_released
from mrl.processes import Processes, joined_processes
from mrl.training.batch_search import find_batch_sizes
from mrl.training.courses import courses_of
from mrl.training.criterion import Criterion, build_criterion
from mrl.training.fitting import load_fitting
from mrl.training.inputs import Inputs, Released, require_inputs
from mrl.training.out_of_memory import naming_memory
from mrl.training.overfit import overfit_stages
from mrl.training.plan import describe_plan
from mrl.training.preflight import require_equal_parts, require_one_process
from mrl.training.replaced import count_replaced
from mrl.training.resume import AUTO, Resumed, checkpoint_to_resume, resume_from, with_data
from mrl.training.run_checkpoints import progress_words
from mrl.training.run_guards import alone_with, naming_saved
from mrl.training.run_state import RunState
from mrl.training.summary import write_summary
from mrl.training.taking_up import set_earlier_run_aside
from mrl.training.tracking import Tracker
from mrl.training.trainer import Trainer
from mrl.training.warm_start import num_embedded, warm_start


def train(config: Config, source: str, resume: str | None, *, allow_config_change: bool = False) -> None:
    """Run all stages, or what is left of them; write checkpoints, logs, summary and plots. Raises MRLError.

    Started by ``torchrun``, this is one of several processes that share the work; the first one writes and speaks.
    """
    with joined_processes() as processes:
        _train(config, source, resume, allow_config_change, processes)


def _train(
    config: Config, source: str, resume: str | None, allow_config_change: bool, processes: Processes
) -> None:
    require_equal_parts(config, source, processes.world_size)
    device = choose_device(config.runtime.device, config.runtime.precision, processes.local_rank)
    console = _RememberingConsole(silent=not processes.is_first)
    with alone_with("checkpoints.directory", config.checkpoints.directory, processes):
        resumed = _read_checkpoint(config, resume, allow_config_change, console, processes)
        with naming_saved(lambda: _saved_before(resumed), resume):
            # Everything that can be wrong with the input is found before a file of an earlier run is touched.
            inputs = processes.first_then_rest(
                lambda: require_inputs(
                    config, source, console, needs_weights=resumed is None, write_lists=processes.is_first
                )
            )
            if resumed is not None:
                resumed = with_data(resumed, inputs.data, config, allow_config_change, console.say)
            _run(config, inputs, device, console, resumed, processes)


def _saved_before(resumed: Resumed | None) -> str | None:
    return None if resumed is None else f"{progress_words(resumed.state)}, in {resumed.source}"


def _read_checkpoint(
    config: Config, resume: str | None, allow_config_change: bool, console: Console, processes: Processes
) -> Resumed | None:
    """What the run goes on from; None where it begins."""
    if resume is None:
        return None
    path = processes.from_first(lambda: checkpoint_to_resume(resume, config, console.say))
    return None if path is None else resume_from(path, config, allow_config_change)


def _run(
    config: Config,
    inputs: Inputs,
    device: torch.device,
    console: _RememberingConsole,
    resumed: Resumed | None,
    processes: Processes,
) -> None:
    data, released = inputs
    with (
        alone_with("logging.directory", config.logging.directory, processes),
        Tracker(
            config.logging,
            run_config=config_to_dict(config),
            courses=None if resumed is None else resumed.courses,
            resumed=None if resumed is None else resumed.resumption,
            silent=not processes.is_first,
        ) as tracker,
        processes.noticing_lost_peers(),
    ):
        for line in console.said:
            tracker.note(line)
        if processes.world_size > 1:
            tracker.say(f"{processes.world_size} processes share each batch")
        if resumed is not None:
            trainer = _resumed_trainer(config, data, device, tracker, resumed, processes)
        else:
            assert released is not None
            processes.from_first(lambda: set_earlier_run_aside(config.checkpoints, tracker.say))
            trainer = _fresh_trainer(config, released, data, device, tracker, processes)
        with naming_saved(trainer.checkpoints.saved_words, AUTO):
            trainer.run()
            if processes.is_first:
                write_summary(trainer, config.logging.directory, tracker)
                if config.logging.plots:
                    tracker.draw_plots()


def dry_run(config: Config, source: str) -> None:
    """Check configuration, data and weights, and print the plan; nothing is trained. Raises MRLError."""
    with _warm_start_alone(config, source, "--dry-run") as made:
        describe_plan(config, made.encoder, made.criterion, made.data.train, made.tracker)


def overfit(config: Config, source: str, num_utterances: int) -> None:
    """Train each stage on ``num_utterances`` utterances; TrainingError if the loss does not fall near zero."""
    with _warm_start_alone(config, source, "--overfit") as made:
        overfit_stages(config, made.encoder, made.data.train, num_utterances, made.tracker)


def find_batch_size(config: Config, source: str) -> None:
    """Measure how much of each stage's batch trains in memory at a time; TrainingError where nothing does."""
    with _warm_start_alone(config, source, "--find-batch-size") as made:
        find_batch_sizes(config, made.encoder, made.criterion, made.data, made.tracker)


class _Made(NamedTuple):
    """What a run has when its stages begin."""

    encoder: SpeakerEncoder
    criterion: Criterion
    data: RunData
    tracker: Tracker


@contextmanager
def _warm_start_alone(config: Config, source: str, option: str) -> Iterator[_Made]:
    """A run up to its warm start, for ``option``: in one process, and without a file being written."""
    require_one_process(option)
    device = choose_device(config.runtime.device, config.runtime.precision)
    console = Console()
    data, released = require_inputs(config, source, console, write_lists=False)
    assert released is not None
    with Tracker(config.logging, run_config=config_to_dict(config), files=False) as tracker:
        encoder, criterion = _warm_started(config, released, data, device, tracker, Processes(), RunState())
        yield _Made(encoder, criterion, data, tracker)


class _RememberingConsole(Console):
    """Keeps what was said before there was a log to write it to."""

    def __init__(self, *, silent: bool) -> None:
        super().__init__(stream=io.StringIO() if silent else None)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)
        super().say(text)


def _fresh_trainer(
    config: Config,
    released: Released,
    data: RunData,
    device: torch.device,
    tracker: Tracker,
    processes: Processes,
) -> Trainer:
    state = RunState()
    encoder, criterion = _warm_started(config, released, data, device, tracker, processes, state)
    baseline = None
    if config.model.head_init == "random":
        baseline = encoder_from_released(released.student).to(device)
    return Trainer(
        config, encoder, criterion, data, tracker, baseline=baseline, state=state, processes=processes
    )


def _warm_started(
    config: Config,
    released: Released,
    data: RunData,
    device: torch.device,
    tracker: Tracker,
    processes: Processes,
    state: RunState,
) -> tuple[SpeakerEncoder, Criterion]:
    """The warm start, which counts in ``state`` what it could not read."""

    def replaced(messages: Sequence[str]) -> None:
        count_replaced(messages, state, config, len(data.train), tracker.say, processes)

    parameters = sum(parameter.numel() for parameter in released.student.parameters())
    tracker.say(f"pretrained: {config.model.pretrained}, {parameters:,} parameters")
    count_here = -(-num_embedded(config, data.train) // processes.world_size)
    busy = "look what else runs on the device"  # some crops without gradients take little
    with (
        tracker.progress("warm start", count_here) as bar,
        naming_memory("in the warm start", device, lambda *_: busy),
    ):
        return warm_start(
            *(config, released.student, data.train, device, bar.advance, tracker.say),
            replaced=replaced,
            teacher=released.teacher,
            processes=processes,
        )


def _resumed_trainer(
    config: Config,
    data: RunData,
    device: torch.device,
    tracker: Tracker,
    resumed: Resumed,
    processes: Processes,
) -> Trainer:
    content, source = resumed.content, resumed.source
    encoder = encoder_from_checkpoint(content, source, config.model.dropout).to(device)
    teacher = None
    if content["teacher"] is not None:
        teacher = encoder_from_checkpoint(content["teacher"], f"{source}: its teacher")
    criterion = build_criterion(config, len(data.train.speakers), teacher).to(device)
    try:
        load_fitting(criterion, content["criterion"])
    except ValueError as error:
        raise CheckpointError(
            f"{source}: its class vectors do not fit the configuration: {error}; go on with the loss and the speeds of "
            "the run, or begin a new run"
        ) from None
    left = "" if resumed.state.stage < len(config.stages) else "; nothing is left to train"
    tracker.say(
        f"resumed from {source}: {progress_words(resumed.state)} done, best so far epoch "
        f"{resumed.best.epoch}{left}"
    )
    trainer = Trainer(
        config,
        encoder,
        criterion,
        data,
        tracker,
        state=resumed.state,
        best=resumed.best,
        stage_state=content["stage_state"],
        run_id=content["run_id"],
        processes=processes,
    )
    trainer.checkpoints.go_on_from(resumed.best, resumed.state, Path(source), courses_of(content))
    return trainer

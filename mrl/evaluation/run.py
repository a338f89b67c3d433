"""What evaluate.py does: score a checkpoint on trial lists, compare, report, and save what decides beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl.config import Config
from mrl.config_file import config_from_dict, load_config
from mrl.console import Console
from mrl.data.assemble import configured_lists
from mrl.data.overlap import shared_speakers
from mrl.data.trial_speakers import speaker_numbers
from mrl.data.trials import TrialList, check_audio_exists, read_trials
from mrl.device import choose_device
from mrl.errors import ConfigError, DataError
from mrl.evaluation.bundle import bundle_of, bundle_to_keep, merged, write_bundle, write_cohort
from mrl.evaluation.cohort import cohort_means
from mrl.evaluation.list_report import Compared, ListAnalysis, ListFindings
from mrl.evaluation.other_encoders import OtherEncoders, other_encoders
from mrl.evaluation.projections import fit_projections
from mrl.evaluation.report_files import ListScores, write_report
from mrl.evaluation.report_tables import print_report
from mrl.evaluation.request import Request
from mrl.evaluation.results import Report, SearchPoint
from mrl.evaluation.scoring import scores_by_prefix
from mrl.evaluation.search import require_faiss, search_work, shortlist_search
from mrl.evaluation.session import Session
from mrl.models.checkpoint_format import read_checkpoint
from mrl.models.decision_bundle import bundle_path
from mrl.models.encoder import SpeakerEncoder, encoder_from_checkpoint
from mrl.models.fingerprint import fingerprint_of
from mrl.writable import why_unwritable

Vectors = NDArray[np.float32]


def evaluate(request: Request) -> Report:
    """Carry out ``request``: print the report, write it, and save the decisions beside the checkpoint.

    Thresholds and calibration are those of the first list that compares single recordings. Raises MRLError.
    """
    content = read_checkpoint(request.checkpoint)
    config = _configuration(request, content)
    encoder = encoder_from_checkpoint(content, request.checkpoint)
    dims = _prefixes(request.dims, encoder.dims)
    console = Console()
    lists = _lists(request, config, content)
    device = choose_device(request.device)
    session = Session(config, lists, device, request.workers, console)
    others = _require_all(request, session, dims, content)
    remarks = _who_was_heard(session)
    embeddings = session.embed(encoder, "the checkpoint")
    cohort = (
        cohort_means(*session.embed_cohort(encoder, "the checkpoint")) if "cohort" in request.parts else None
    )
    findings = _Analyst(request, session, encoder, embeddings, dims, cohort, others).findings()
    search: tuple[SearchPoint, ...] = ()
    if "search" in request.parts:
        search = _search(session, embeddings, dims)
    report = Report(
        encoder=request.checkpoint,
        dims=tuple(dims),
        confidence=config.evaluation.confidence,
        lists=tuple(found.report for found in findings),
        search=search,
        seconds={name: round(value, 3) for name, value in session.seconds.items()},
        command=request.command,
        resamples=config.evaluation.bootstrap,
        cost_miss=config.evaluation.cost_miss,
        cost_false_accept=config.evaluation.cost_false_accept,
    )
    print_report(console, report)
    for remark in [*remarks, *(remark for found in findings for remark in found.remarks)]:
        console.say(remark)
    console.say(", ".join(f"{name} {seconds:.1f} s" for name, seconds in session.seconds.items()))
    _write(request, config, session, report, findings, embeddings, dims)
    _save_decisions(request, session, encoder, report, cohort)
    return report


def _require_all(
    request: Request, session: Session, dims: Sequence[int], content: dict[str, Any]
) -> OtherEncoders | None:
    """Find what is wrong with the request before hours of embedding; the other encoders, where they are asked for."""
    parts = request.parts
    for part in sorted(parts & {"search", "cascade"}):
        if len(dims) < 2:
            raise ConfigError(f"--with {part}", ["it needs two prefixes, a short one and the full size"])
    if "search" in parts:
        require_faiss()
    if session.config.evaluation.bootstrap or parts & {"cascade", "search"}:
        for trials in session.lists:
            speaker_numbers(trials)
    if parts & {"cohort", "baselines"}:
        session.require_cohort()
    if (why := why_unwritable(folder := _report_folder(request, session.config))) is not None:
        raise DataError(f"{folder}: the report cannot be written: {why}; name another folder with --output")
    if (problem := _why_unsaved(request)) is not None:
        if request.replace_decisions:
            raise DataError(problem)
        session.console.say(problem)
    if "baselines" not in parts:
        return None
    return other_encoders(session.config, Path(request.checkpoint), content.get("run_id"), session.console)


def _who_was_heard(session: Session) -> list[str]:
    """A sentence for each list with speakers that were trained on, as far as the training corpus is there."""
    try:
        corpus = session.training_corpus
    except DataError:
        return [
            "the training corpus is not there, so that nobody checked whether it holds speakers of a list"
        ]
    remarks = []
    for trials in session.lists:
        if shared := shared_speakers(corpus, trials):
            remarks.append(
                f"{trials.name}: {len(shared)} of its speakers were trained on ({shared[0]}, ...): its figures say "
                "nothing of new speakers"
            )
    return remarks


class _Analyst:
    """Makes the findings of each list."""

    def __init__(
        self,
        request: Request,
        session: Session,
        encoder: SpeakerEncoder,
        embeddings: Vectors,
        dims: Sequence[int],
        cohort: Vectors | None,
        others: OtherEncoders | None,
    ) -> None:
        self._parts = request.parts
        self._session = session
        self._dims = dims
        self._cohort = cohort if "cohort" in request.parts else None
        self._embeddings = embeddings
        self._durations: dict[float | None, Vectors] | None = None
        if "grids" in request.parts:
            seconds = session.config.evaluation.durations
            self._durations = {each: session.embed(encoder, "the checkpoint", each) for each in seconds}
            self._durations[None] = embeddings
        self._compared = None if others is None else self._compare(others)

    def findings(self) -> list[ListFindings]:
        return [self._of_list(number) for number in range(len(self._session.lists))]

    def _of_list(self, number: int) -> ListFindings:
        session = self._session
        trials = session.lists[number]

        def rows(embeddings: Vectors) -> Vectors:
            return session.of_list(embeddings, number)

        compared = durations = None
        if self._compared is not None:
            released, projections, trained = self._compared
            compared = Compared(
                rows(released), projections, {name: rows(each) for name, each in trained.items()}
            )
        if self._durations is not None:
            durations = {seconds: rows(each) for seconds, each in self._durations.items()}
        resamples = session.config.evaluation.bootstrap
        intervals = f", {resamples:,} resamples of its speakers" if resamples else ""
        session.console.say(f"scoring {trials.name}: {len(trials):,} trials{intervals}")
        with session.timed("scoring"):
            return ListAnalysis(trials, rows(self._embeddings), self._dims, session.config).report(
                cohort=self._cohort,
                compared=compared,
                durations=durations,
                with_precisions="grids" in self._parts,
                with_cascade="cascade" in self._parts,
            )

    def _compare(self, others: OtherEncoders) -> Compared:
        session = self._session
        sample, speakers = session.embed_cohort(others.released, "the released model")
        return Compared(
            session.embed(others.released, "the released model"),
            fit_projections(sample, speakers, session.config.seed),
            {name: session.embed(encoder, name) for name, encoder in others.trained.items()},
        )


def _configuration(request: Request, content: dict[str, Any]) -> Config:
    """The checkpoint's configuration with the overrides, or with the sections of another file."""
    if request.config is None:
        return config_from_dict(content["config"], request.checkpoint, request.overrides)
    sections = ("evaluation", "data")
    if lost := [text for text in request.overrides if text.split(".")[0].strip() not in sections]:
        problem = f"--set {lost[0]}: with --config only {' and '.join(sections)} can be set"
        raise ConfigError(request.config, [problem])
    given = load_config(request.config, request.overrides)
    config = config_from_dict(content["config"], request.checkpoint)
    return config.model_copy(update={name: getattr(given, name) for name in sections})


def _lists(request: Request, config: Config, content: dict[str, Any]) -> tuple[TrialList, ...]:
    """The lists of the command line, or else of the section evaluation, or else those of the run."""
    if request.lists:
        found = [read_trials(Path(path), Path(root)) for path, root in request.lists]
    elif config.evaluation.lists:
        found = [
            read_trials(entry.trials, entry.root, entry.name, enrolment_map=entry.enrolment_map)
            for entry in config.evaluation.lists
        ]
    else:
        return configured_lists(config, content["lists"])
    names = [trials.name for trials in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError("--trials", [f"two lists are called {twice[0]}; give the files different names"])
    for trials in found:
        check_audio_exists(trials)
    return tuple(found)


def _prefixes(asked: Sequence[int] | None, trained: tuple[int, ...]) -> list[int]:
    if asked is None:
        return list(trained)
    if wrong := [dim for dim in asked if not 1 <= dim <= trained[-1]]:
        raise ConfigError("--dims", [f"{wrong[0]} is not a prefix: the embedding has {trained[-1]} numbers"])
    return sorted(set(asked))


def _search(session: Session, embeddings: Vectors, dims: Sequence[int]) -> tuple[SearchPoint, ...]:
    """Among vectors made around the recordings of the first list."""
    numbers = session.config.evaluation
    trials = session.lists[0]
    speakers = speaker_numbers(trials)
    with (
        session.timed("search"),
        session.console.progress("shortlist search", search_work(numbers.search_enrolled)) as bar,
    ):
        return shortlist_search(
            session.of_list(embeddings, 0)[:, : dims[-1]],
            speakers,
            dims[0],
            enrolled=numbers.search_enrolled,
            shortlist=numbers.search_shortlist,
            seed=session.config.seed,
            advance=bar.advance,
        )


def _write(
    request: Request,
    config: Config,
    session: Session,
    report: Report,
    findings: Sequence[ListFindings],
    embeddings: Vectors,
    dims: Sequence[int],
) -> None:
    curves = [curve for found in findings for curve in found.curves]
    scores = None
    if request.with_scores:
        scores = [
            ListScores(
                trials, dims, scores_by_prefix(*trials.vectors(session.of_list(embeddings, number)), dims)
            )
            for number, trials in enumerate(session.lists)
        ]
    for path in write_report(report, curves, _report_folder(request, config), scores):
        session.console.say(f"written: {path}")


def _report_folder(request: Request, config: Config) -> Path:
    return Path(request.output) if request.output else config.logging.directory / "evaluation"


def _why_unsaved(request: Request) -> str | None:
    """Why no decisions can be saved beside the checkpoint, which may be another's, to be read only."""
    if (why := why_unwritable(Path(request.checkpoint).parent)) is None:
        return None
    return f"no decisions can be saved beside {request.checkpoint}: {why}; for those, evaluate a copy of the checkpoint"


def _save_decisions(
    request: Request, session: Session, encoder: SpeakerEncoder, report: Report, cohort: Vectors | None
) -> None:
    """Thresholds and calibration of the first list of single recordings, beside the checkpoint.

    What another list has decided there for the same weights is kept, unless ``replace_decisions``. Where nothing can
    be written there, that is said once more: the report is made all the same.
    """
    checkpoint, say = Path(request.checkpoint), session.console.say
    if (problem := _why_unsaved(request)) is not None:
        say(problem)
        return
    plain = [item for trials, item in zip(session.lists, report.lists, strict=True) if trials.models is None]
    if not plain:
        say("no decisions are saved: every list enrols several recordings, and verify compares two")
        return
    chosen, encoder_sha256 = plain[0], fingerprint_of(encoder)
    kept = bundle_to_keep(bundle_path(checkpoint), encoder_sha256)
    if kept is not None and kept.measured_on.sha256 != chosen.sha256 and not request.replace_decisions:
        say(
            f"{bundle_path(checkpoint)} stays as it is, measured on {kept.measured_on.name}; --replace-decisions puts "
            f"those of {chosen.name} in its place"
        )
        return
    numbers = session.config.evaluation
    reference = write_cohort(cohort, checkpoint, numbers.as_norm_top) if cohort is not None else None
    bundle = bundle_of(chosen, encoder_sha256, numbers, reference)
    path = write_bundle(bundle if kept is None else merged(kept, bundle), checkpoint)
    say(f"written: {path}, the decisions of {chosen.name}, which load_encoder finds")

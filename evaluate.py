"""Which prefix to ship: errors, thresholds and comparisons: ``python evaluate.py --checkpoint best.pt``."""

from __future__ import annotations

import argparse
import shlex
import sys

from mrl.errors import MRLError
from mrl.evaluation.request import PARTS, Request
from mrl.standard_streams import leave, open_missing, say_error


def parse_arguments(arguments: list[str]) -> Request:
    parser = argparse.ArgumentParser(prog="evaluate.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="e.g. checkpoints/best.pt")
    parser.add_argument(
        "--trials",
        action="append",
        default=[],
        metavar="LIST",
        help="score this list instead of the configured ones; may be given several times, each with its --root",
    )
    parser.add_argument(
        "--root",
        action="append",
        default=[],
        metavar="DIR",
        help="the folder that the list's paths start from",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="take evaluation, validation and data from here, not from the checkpoint",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. evaluation.bootstrap=200"
    )
    parser.add_argument("--dims", type=int, nargs="+", metavar="N", help="prefixes (default: those trained)")
    parser.add_argument(
        "--with",
        dest="parts",
        nargs="+",
        default=[],
        choices=[*PARTS, "all"],
        help="baselines: released model, PCA, LDA, stages; cohort: AS-norm; grids: durations and precisions; "
        "cascade: short prefix first; search: a shortlist among a million",
    )
    parser.add_argument("--output", metavar="DIR", help="of the report (default: evaluation/ in the logs)")
    parser.add_argument("--scores", action="store_true", help="write the score of every trial too")
    parser.add_argument(
        "--replace-decisions",
        action="store_true",
        help="save the decisions of the first list although there are those of another list",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--workers", type=int, default=4, metavar="N", help="threads that read audio (default: 4)"
    )
    options = parser.parse_args(arguments)
    if len(options.trials) != len(options.root):
        parser.error("--trials and --root go together: one folder for each list")
    if not 1 <= options.workers <= 1024:
        parser.error("--workers must be from 1 to 1024")
    return Request(
        checkpoint=options.checkpoint,
        lists=tuple(zip(options.trials, options.root, strict=True)),
        config=options.config,
        overrides=tuple(options.set),
        dims=None if options.dims is None else tuple(options.dims),
        parts=frozenset(PARTS if "all" in options.parts else options.parts),
        output=options.output,
        with_scores=options.scores,
        replace_decisions=options.replace_decisions,
        device=options.device,
        workers=options.workers,
        command=shlex.join(["evaluate.py", *arguments]),
    )


def main(arguments: list[str] | None = None) -> int:
    open_missing()
    request = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    try:
        from mrl.evaluation.run import evaluate  # with PyTorch, which takes seconds

        evaluate(request)
    except MRLError as error:
        say_error(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say_error("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    leave(main())

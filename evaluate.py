"""EER, threshold and minDCF of a checkpoint at every prefix: ``python evaluate.py --checkpoint best.pt``."""

from __future__ import annotations

import argparse
import sys

from mrl.errors import MRLError
from mrl.evaluation.run import evaluate


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluate.py", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--checkpoint", required=True, metavar="FILE", help="best.pt, last.pt or epoch_NNN.pt"
    )
    parser.add_argument("--trials", metavar="LIST", help="another list, one `label enrolment test` a line")
    parser.add_argument("--root", metavar="DIR", help="the folder that the list's paths start from")
    parser.add_argument("--dims", type=int, nargs="+", metavar="N", help="prefixes (default: those trained)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--workers", type=int, default=4, metavar="N", help="threads that read audio (default: 4)"
    )
    options = parser.parse_args(arguments)
    if (options.trials is None) != (options.root is None):
        parser.error("--trials and --root go together")
    if options.workers < 1:
        parser.error("--workers must be at least 1")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    try:
        evaluate(
            options.checkpoint,
            trials_path=options.trials,
            root=options.root,
            dims=options.dims,
            device_name=options.device,
            workers=options.workers,
        )
    except MRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

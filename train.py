"""Fine-tune a released ReDimNet into a Matryoshka speaker encoder: ``python train.py --config config.yaml``."""

from __future__ import annotations

import argparse
import sys

from dotenv import load_dotenv

from mrl.config_file import load_config
from mrl.errors import MRLError
from mrl.processes import PeerError
from mrl.training.run import dry_run, overfit, train

INTERRUPTED = 130


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train.py", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--config", default="config.yaml", metavar="FILE", help="YAML file (default: config.yaml)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, e.g. stages.head.epochs=3",
    )
    parser.add_argument(
        "--resume", metavar="CHECKPOINT", help="continue a run from its last.pt, best.pt, epoch_NNN.pt"
    )
    parser.add_argument(
        "--allow-config-change", action="store_true", help="resume although the configuration differs"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--dry-run", action="store_true", help="check config, data and weights, print the plan, do not train"
    )
    mode.add_argument(
        "--overfit",
        type=int,
        metavar="N",
        help="sanity check: train on N utterances until the loss is near zero",
    )
    options = parser.parse_args(arguments)
    if options.resume and (options.dry_run or options.overfit is not None):
        parser.error("--resume goes with neither --dry-run nor --overfit")
    if options.overfit is not None and options.overfit < 2:
        parser.error("--overfit needs at least 2 utterances")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    load_dotenv()  # WANDB_API_KEY
    last = "the last.pt of checkpoints.directory"
    try:
        config = load_config(options.config, options.set)
        last = str(config.checkpoints.directory / "last.pt")
        if options.dry_run:
            dry_run(config, options.config)
        elif options.overfit is not None:
            overfit(config, options.config, options.overfit)
        else:
            train(config, options.config, options.resume, allow_config_change=options.allow_config_change)
    except PeerError as error:  # which the first process has said more of
        return error.exit_code
    except MRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"interrupted; go on from the last whole epoch with --resume {last}", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())

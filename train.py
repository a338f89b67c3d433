"""Fine-tune a released ReDimNet into a Matryoshka speaker encoder: ``python train.py --config config.yaml``."""

from __future__ import annotations

import argparse
import os
import sys

from mrl.config_file import load_config, load_environment
from mrl.errors import MRLError, PeerError
from mrl.standard_streams import leave, open_missing, say_error
from mrl.stopping import Stopped, last_words, listening


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
        "--resume",
        metavar="CHECKPOINT",
        help="continue a run from its last.pt, best.pt, epoch_NNN.pt; auto: from the newest, or begin",
    )
    parser.add_argument(
        "--allow-config-change", action="store_true", help="resume although the configuration differs"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--dry-run", action="store_true", help="check config, data and weights, print the plan, do not train"
    )
    mode.add_argument("--overfit", type=int, metavar="N", help="sanity check: learn N utterances by heart")
    mode.add_argument(
        "--find-batch-size", action="store_true", help="measure what trains in memory at a time"
    )
    options = parser.parse_args(arguments)
    if options.resume and (options.dry_run or options.find_batch_size or options.overfit is not None):
        parser.error("--resume goes with none of --dry-run, --find-batch-size and --overfit")
    if options.overfit is not None and options.overfit < 2:
        parser.error("--overfit needs at least 2 utterances")
    return options


def main(arguments: list[str] | None = None) -> int:
    open_missing()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    try:
        load_environment()  # WANDB_API_KEY
        with listening():
            act(options)
    except PeerError as error:  # which the first process has said more of
        return error.exit_code
    except MRLError as error:
        say_error(f"error: {error}")
        return error.exit_code
    except Stopped as stop:
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            say_error(last_words(stop, arguments))
        return stop.exit_code
    return 0


def act(options: argparse.Namespace) -> None:
    config = load_config(options.config, options.set)
    # With PyTorch, which takes seconds: neither --help nor a mistake in the configuration waits for it.
    from mrl.training.run import dry_run, find_batch_size, overfit, train

    if options.dry_run:
        dry_run(config, options.config)
    elif options.overfit is not None:
        overfit(config, options.config, options.overfit)
    elif options.find_batch_size:
        find_batch_size(config, options.config)
    else:
        train(config, options.config, options.resume, allow_config_change=options.allow_config_change)


if __name__ == "__main__":
    leave(main())

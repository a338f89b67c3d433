"""Score a released model as it is, and print its EER beside the published one.

    python scripts/verify_pretrained.py redimnet-b2-vox2-ft_lm --trials veri_test2.txt --root voxceleb1/wav

Whole utterances, cosine scores, no score normalisation. Score the cleaned lists: published figures are of those.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mrl.console import Console
from mrl.data.trials import check_audio_exists, read_trials
from mrl.device import choose_device
from mrl.errors import MRLError
from mrl.evaluation.verification import verify
from mrl.models.download import resolve
from mrl.models.pretrained import load_released
from mrl.models.registry import PROTOCOLS, REGISTRY, published
from mrl.standard_streams import leave, open_missing, say_error

COLUMNS = ("list", "trials", "EER measured %", "EER published %", "minDCF 0.01", "minDCF 0.05")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="verify_pretrained.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="NAME_OR_PATH", help="`python scripts/models.py` lists the names")
    parser.add_argument("--trials", required=True, metavar="LIST", help="one `label enrolment test` a line")
    parser.add_argument("--root", required=True, metavar="DIR", help="the folder that its paths start from")
    parser.add_argument(
        "--list", choices=PROTOCOLS, default=PROTOCOLS[0], help="which list it is (default: %(default)s)"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--workers", type=int, default=4, metavar="N", help="threads that read audio (default: 4)"
    )
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error("--workers must be at least 1")
    return options


def run(options: argparse.Namespace, console: Console) -> None:
    """Score and print. Raises MRLError."""
    # The list first: a mistake there should not wait for a download.
    trials = read_trials(Path(options.trials), Path(options.root), name=options.list)
    check_audio_exists(trials)
    device = choose_device(options.device)
    model = load_released(resolve(options.model, console)).to(device)
    with console.progress(f"scoring {trials.name}", len(trials.utterances)) as bar:
        result = verify(model, trials, [model.embedding_dim], workers=options.workers, advance=bar.advance)
    full = result.full_size
    checkpoint = REGISTRY.get(options.model)
    stated = published(checkpoint.eer[options.list] if checkpoint else None)
    row = (options.list, result.num_trials, f"{100 * full.eer:.3f}", stated)
    costs = (f"{cost:.4f}" for cost in full.min_dcf.values())
    console.table(f"{options.model}, {full.dim} numbers", COLUMNS, [(*row, *costs)])
    if checkpoint is not None and stated != "-":
        console.say(f"published: {checkpoint.source}")


def main(arguments: list[str] | None = None) -> int:
    open_missing()
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    try:
        run(options, Console())
    except MRLError as error:
        say_error(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    leave(main())

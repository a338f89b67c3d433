"""Pack a corpus into large shards of 16 kHz samples, from which crops are read many times as fast.

    python scripts/pack_corpus.py data/voxceleb2/dev/aac packed/voxceleb2

Then `data.train: packed/voxceleb2` trains on it: the same utterances, the same crops, to 16 bits. Interrupted, the
same command goes on. Files that cannot be read are named in unreadable.txt. The source is not changed.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mrl.console import Console
from mrl.data.corpus import scan
from mrl.data.pack_checks import crops_per_second, verify_packed
from mrl.data.packing import PackOptions, pack_corpus
from mrl.errors import MRLError
from mrl.standard_streams import leave, open_missing, say_error

INTERRUPTED = 130


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pack_corpus.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a folder <speaker>/.../<file>")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to pack it")
    parser.add_argument(
        "--shard-mib", type=int, default=1024, metavar="N", help="size of a shard (default: %(default)s)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="threads that decode (default: as many as there are CPUs, %(default)s)",
    )
    parser.add_argument(
        "--max-unreadable-share",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of the utterances; stop where more cannot be read (default: %(default)s)",
    )
    parser.add_argument(
        "--verify", action="store_true", help="read the shards again and compare them with their checksums"
    )
    options = parser.parse_args(arguments)
    if options.shard_mib < 1 or options.workers < 1:
        parser.error("--shard-mib and --workers must be at least 1")
    if not 0.0 <= options.max_unreadable_share <= 1.0:
        parser.error("--max-unreadable-share must lie between 0 and 1")
    return options


def run(options: argparse.Namespace, console: Console) -> None:
    """Pack, verify where that is asked for, and say how fast crops are. Raises MRLError."""
    how = PackOptions(options.shard_mib << 20, options.workers, options.max_unreadable_share)
    source = pack_corpus(options.source, options.folder, how, console)
    if options.verify:
        verify_packed(options.folder, console)
    corpora = {str(options.source): source, str(options.folder): scan(options.folder, manifest_dir=None)}
    rates = [f"{rate:,.0f}/s from {name}" for name, rate in crops_per_second(corpora).items()]
    console.say(f"random crops of 3 s, one process: {', '.join(rates)}")


def main(arguments: list[str] | None = None) -> int:
    open_missing()
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    try:
        run(options, Console())
    except MRLError as error:
        say_error(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say_error("interrupted; the same command goes on from the last finished shard")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    leave(main())

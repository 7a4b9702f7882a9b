"""Changes values of a config, and counts the outcomes.

    python tests/stress/fuzz_config.py [--configs 20000] [--seed 0] [--first 0]

Each config is the quickstart's with one to three values changed (tests/config_mutations.py). Its
seed is (seed, number): `--first N --configs 1` reproduces config N. A config may be refused with
one line. Otherwise a network and a training step are made from it. All else is a failure: another
exception, a hang, a learning rate that is not finite.
"""

import argparse
import faulthandler
import logging
import pathlib
import sys
from collections import Counter

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import config_mutations

SECONDS = 20  # time limit of one config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--configs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    counts: Counter[str] = Counter()
    for number in range(args.first, args.first + args.configs):
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            counts[config_mutations.outcome([args.seed, number])] += 1
        except Exception as error:
            counts["failed"] += 1
            print(f"config {number}: {type(error).__name__}: {str(error)[:300]}")
        faulthandler.cancel_dump_traceback_later()
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    sys.exit(counts["failed"] > 0)


if __name__ == "__main__":
    main()

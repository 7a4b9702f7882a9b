"""Reads mutated COCO json files, and counts the outcomes.

    python tests/stress/fuzz_annotations.py [--files 20000] [--seed 0] [--first 0]

Each file is a small valid json with one to three mutations (tests/mutations.py). Its seed is (seed,
number): `--first N --files 1` reproduces file N. A file may be refused with one line, which `mspn
browse --check` also lists. Otherwise it is read and scored: perfect results must have an AP of 1,
and other results the AP of a json without the ignored annotations. All else is a failure: another
exception, a hang, another metric.
"""

import argparse
import faulthandler
import json
import pathlib
import sys
import tempfile
from collections import Counter

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import logging

import mutations

SECONDS = 20  # time limit of one file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "annotations").mkdir()
        (root / "val").mkdir()
        file = root / "annotations" / "person_keypoints_val.json"
        for number in range(args.first, args.first + args.files):
            content = mutations.mutated(mutations.sound_content(), [args.seed, number])
            file.write_text(json.dumps(content))
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                counts[mutations.outcome(content, root)] += 1
            except Exception as error:
                counts["failed"] += 1
                print(f"file {number}: {type(error).__name__}: {str(error)[:300]}")
            faulthandler.cancel_dump_traceback_later()
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    sys.exit(counts["failed"] > 0)


if __name__ == "__main__":
    main()

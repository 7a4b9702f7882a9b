"""Mutates COCO json files or configs, and counts the outcomes.

    python tests/stress/fuzz.py {annotations,config} [--count 20000] [--seed 0] [--first 0]

Each mutation's seed is (seed, number): `--first N --count 1` reproduces number N. It may be refused
with one line. All else is a failure: another exception, a hang, or a property that does not hold.

annotations  A small valid json with one to three mutations (tests/mutations.py). What is refused,
             `mspn browse --check` lists too. Otherwise it is read and scored: perfect results must
             have an AP of 1, and other results the AP of a json without the ignored annotations.
config       The quickstart's config with one to three values changed (tests/config_mutations.py).
             If it is not refused, a network and a training step are made from it, and the learning
             rate must be finite.
"""

import argparse
import faulthandler
import json
import logging
import pathlib
import sys
import tempfile
from collections import Counter

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import config_mutations
import mutations

SECONDS = 20  # time limit of one


def of_annotations(seed: list[int], root: pathlib.Path) -> str:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "val").mkdir(exist_ok=True)
    content = mutations.mutated(mutations.sound_content(), seed)
    (root / "annotations" / "person_keypoints_val.json").write_text(json.dumps(content))
    return mutations.outcome(content, root)


def of_config(seed: list[int], root: pathlib.Path) -> str:
    return config_mutations.outcome(seed)


OUTCOMES = {"annotations": of_annotations, "config": of_config}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=OUTCOMES)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.first, args.first + args.count):
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                counts[OUTCOMES[args.what]([args.seed, number], pathlib.Path(folder))] += 1
            except Exception as error:
                counts["failed"] += 1
                print(f"{number}: {type(error).__name__}: {str(error)[:300]}")
            faulthandler.cancel_dump_traceback_later()
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    sys.exit(counts["failed"] > 0)


if __name__ == "__main__":
    main()

"""Fine-tuning from people against new weights: the same animals, steps and settings, in one run.

    python benchmarks/finetune.py --start runs/quickstart [--pictures 129] [--steps 300]

`--start` is the network of `make quickstart`, which knows drawn people. Drawn animals with other
keypoints are made in a temporary folder. Both networks are evaluated on the same unseen animals.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.report import Report, new_parser

METRICS = ("AP", "PCK@0.05", "EPE")
TINY = ("num_stages=1", "blocks_per_unit=(1,1,1,1)", "stem_channels=8", "unit_channels=16")


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--start", required=True, help="a checkpoint of drawn people")
    parser.add_argument("--pictures", type=int, default=129, help="for training; 129: 213 animals")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    report = Report(args.json)
    aps = {}
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/animals"
        run("mspn_jax.synthetic.animals", "--root", data, "--train", str(args.pictures))
        for start in (args.start, ""):
            name = "fine-tuned" if start else "new weights"
            found = trained(start, f"{folder}/{name}", data, args.steps, args.quick)
            report.row(
                start=name,
                steps=args.steps,
                **{metric: found[metric] for metric in METRICS},
            )
            aps[name] = found["AP"]
    report.say(f"AP {aps['fine-tuned'] - aps['new weights']:+.3f} from the start")


def trained(start: str, workdir: str, data: str, steps: int, quick: bool) -> dict[str, float]:
    """The metrics of a training's last evaluation."""
    run(
        *("mspn_jax", "train", "--config", "animals_finetune", "--workdir", workdir),
        f"--config.init.checkpoint={start}",
        f"--config.data.root={data}",
        f"--config.skeleton={data}/quadruped.json",
        f"--config.num_steps={steps}",
        "--config.eval.report=False",
        *(f"--config.model.{each}" for each in TINY if quick),
    )
    lines = map(json.loads, (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "AP" in line][-1]


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


if __name__ == "__main__":
    main()

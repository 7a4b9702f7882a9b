"""From the command to the end of the first training step, from a cold start and from the cache.

    python benchmarks/first_step.py [--stages 4] [--batch 2 8] [--repeats 5]

Runs train.py on a few drawn people, whose records are made before: once with an empty
JAX_COMPILATION_CACHE_DIR, then --repeats times with what that run has left there. Ends each run
when it tells of its first step.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.report import Report, new_parser
from benchmarks.timing import spread
from benchmarks.workload import TINY, TINY_CROP_HW
from mspn_jax.data import synthetic
from mspn_jax.data.records import open_records
from mspn_jax.skeletons import COCO

SPLITS = {"train2017": 24, "val2017": 4}


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--stages", type=int, nargs="+", choices=(1, 2, 3, 4), default=[4])
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    args = parser.parse_args()
    report = Report(args.json)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "coco"
        synthetic.write_dataset(root, SPLITS)
        for split in SPLITS:
            open_records(root, split, COCO)
        for stages in args.stages:
            for batch in args.batch:
                cache = pathlib.Path(folder) / f"cache{stages}x{batch}"
                flags = [f"--config.data.root={root}", f"--config.batch_size={batch}"]
                if args.quick:
                    small = TINY | {"num_stages": stages}
                    flags += [f"--config.model.{key}={value}" for key, value in small.items()]
                    flags.append(f"--config.crop_hw={TINY_CROP_HW}")
                cold = seconds_to_first_step(stages, flags, cache)
                cached = [seconds_to_first_step(stages, flags, cache) for _ in range(args.repeats)]
                report.row(
                    stages=stages, batch=batch, cold_s=cold, cached_s=spread(cached),
                    cached_over_cold=spread([t / cold for t in cached]),
                )  # fmt: skip


def seconds_to_first_step(stages: int, flags: list[str], cache: pathlib.Path) -> float:
    config = f"{stages}xmspn50_coco_256x192.py" if stages > 1 else "mspn50_coco_256x192.py"
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "train.py", "--config", f"configs/{config}"]
        command += ["--workdir", workdir, "--config.log_every_steps=1", *flags]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        start = time.perf_counter()
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as run:  # fmt: skip
            assert run.stdout is not None
            said = []
            for line in run.stdout:
                said.append(line)
                if line.startswith("step 1/"):
                    seconds = time.perf_counter() - start
                    run.kill()
                    return seconds
    sys.exit(f"error: train.py left before its first step:\n{''.join(said)}")


if __name__ == "__main__":
    main()

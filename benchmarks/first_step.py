"""The time from the command to the end of the first training step, cold and with a filled cache.

    python benchmarks/first_step.py [--stages 4] [--batch 2 8] [--repeats 5]

Runs train.py on a few drawn people, whose records exist already: once with an empty
JAX_COMPILATION_CACHE_DIR, then --repeats times with the cache of that run. Each run is ended after
its second step. Also prints the time of that step and the peak of resident memory.
"""

import itertools
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.report import Report, new_parser
from benchmarks.timing import spread
from benchmarks.workload import TINY, TINY_CROP_HW
from mspn_jax.data.records import open_records
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import people

SPLITS = {"train2017": 24, "val2017": 4}


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--stages", type=int, nargs="+", choices=(1, 2, 3, 4), default=[4])
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    args = parser.parse_args()
    report = Report(args.json)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "coco"
        people.write_dataset(root, SPLITS)
        for split in SPLITS:
            open_records(root=root, split=split, skeleton=COCO)
        for stages in args.stages:
            for batch in args.batch:
                cache = pathlib.Path(folder) / f"cache{stages}x{batch}"
                flags = [f"--config.data.root={root}", f"--config.batch_size={batch}"]
                if args.quick:
                    small = TINY | {"num_stages": stages}
                    flags += [f"--config.model.{key}={value}" for key, value in small.items()]
                    flags.append(f"--config.crop_hw={TINY_CROP_HW}")
                cold = start_of_run(stages, flags, cache)
                cached = [start_of_run(stages, flags, cache) for _ in range(args.repeats)]
                report.row(
                    stages=stages,
                    batch=batch,
                    cold_s=cold.first_step,
                    cached_s=spread([run.first_step for run in cached]),
                    cached_over_cold=spread([run.first_step / cold.first_step for run in cached]),
                    second_step_s=spread([run.second_step for run in cached]),
                    resident_GB=spread([run.resident_GB for run in cached]),
                )


class Start(NamedTuple):
    """Seconds from the command to the end of step 1, and from there to that of step 2; memory."""

    first_step: float
    second_step: float
    resident_GB: float


def start_of_run(stages: int, flags: list[str], cache: pathlib.Path) -> Start:
    config = f"{stages}xmspn50_coco_256x192.py" if stages > 1 else "mspn50_coco_256x192.py"
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "train.py", "--config", f"configs/{config}"]
        command += ["--workdir", workdir, "--config.log_every_steps=1", *flags]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        times = [time.perf_counter()]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(command, cwd=ROOT, env=environment, **output) as run:
            assert run.stdout is not None
            said = []
            for line in run.stdout:
                said.append(line)
                if line.startswith(f"step {len(times)}/"):
                    times.append(time.perf_counter())
                if len(times) == 3:
                    run.kill()
                    _, run.returncode, usage = os.wait4(run.pid, 0)
                    first, second = (b - a for a, b in itertools.pairwise(times))
                    return Start(first, second, usage.ru_maxrss * 1024 / 1e9)  # in KiB on Linux
    sys.exit(f"error: train.py left before its second step:\n{''.join(said)}")


if __name__ == "__main__":
    main()

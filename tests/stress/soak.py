"""Checks that memory, open files and threads do not grow in a long training run.

    python tests/stress/soak.py [--steps 2000]

Trains a tiny network on drawn people with frequent evaluations and checkpoints, and samples the
process twice a second. The first half, with start-up and compilation, is ignored. For the second
half the growth (least-squares slope times duration) is printed, and the spread around the line.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from faults import CONFIG

from mspn_jax.synthetic import people


def held(pid: int) -> tuple[float, int, int] | None:
    """Returns the resident memory in MB, open files and threads of a process."""
    try:
        pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
        files = len(os.listdir(f"/proc/{pid}/fd"))
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, files, threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        people.write_dataset(folder / "data", {"train2017": 40, "val2017": 12})
        config = CONFIG.format(root=str(folder / "data"), steps=options.steps)
        (folder / "soak.py").write_text(config)
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            "--config",
            str(folder / "soak.py"),
            "--workdir",
            str(folder / "run"),
            "--config.log_every_steps=100",
            "--config.eval.every_epochs=20",
            "--config.checkpoint.every_steps=50",
        ]
        start, seen = time.monotonic(), []
        with open(folder / "said", "w") as said:
            process = subprocess.Popen(
                command, stderr=said, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
            )
            while process.poll() is None:
                if (now := held(process.pid)) is not None:
                    seen.append((time.monotonic() - start, *now))
                time.sleep(0.5)
        if process.returncode:
            sys.exit((folder / "said").read_text())
        said = (folder / "said").read_text()
    seconds, *columns = np.array(seen[len(seen) // 2 :]).T
    print(
        f"{options.steps} steps in {time.monotonic() - start:.0f} s,"
        f" {said.count('AP50')} evaluations, {len(seen)} looks\n"
        "| | at first | at last | slope, in all | spread around it |\n|---|---|---|---|---|"
    )
    for name, values in zip(("resident MB", "open files", "threads"), columns):
        slope, offset = np.polyfit(seconds, values, 1)
        spread = (values - slope * seconds - offset).std()
        print(
            f"| {name} | {values[:5].mean():.1f} | {values[-5:].mean():.1f} |"
            f" {slope * (seconds[-1] - seconds[0]):+.1f} | {spread:.1f} |"
        )


if __name__ == "__main__":
    main()

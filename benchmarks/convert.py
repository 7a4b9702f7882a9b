"""The time and memory of convert.py.

    python benchmarks/convert.py [--stages 1 4] [--source FILE ...] [--repeats 3]

Without --source, `.safetensors` files of random weights with mmpose 1.x names are made. Each
conversion is a process of its own. Prints the least time and the highest peak of resident memory.
The last line is the peak of a process that only imports the packages.
"""

import argparse
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def write_random(path: pathlib.Path, num_stages: int) -> None:
    from mspn_jax.variables import initial_variables
    from mspn_jax.weights import conversion
    from mspn_jax.weights.torch import state_dicts
    from mspn_jax.weights.torch.names import Architecture

    variables = initial_variables(Architecture(num_stages).new_model(), 0, (256, 192))
    state_dicts.write_safetensors(path, conversion.to_torch(variables), {})


def measured(*command: object) -> tuple[float, int]:
    """(seconds, peak of resident memory in bytes) of a process."""
    start = time.perf_counter()
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{command} failed")
    return seconds, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, nargs="*", default=[1, 2, 3, 4])
    parser.add_argument("--source", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        sources = options.source
        if not sources:
            for num_stages in options.stages:
                sources.append(pathlib.Path(folder) / f"{num_stages}stage.safetensors")
                # Weights are made in a process of their own, with the imports: on Linux the peak of
                # a process includes what its parent held at the fork.
                maker = multiprocessing.get_context("spawn").Process(
                    target=write_random, args=(sources[-1], num_stages)
                )
                maker.start()
                maker.join()
        print("| file | MB | seconds | peak MB | peak / file |\n|---|---|---|---|---|")
        for source in sources:
            runs = []
            for repeat in range(options.repeats):
                output = pathlib.Path(folder) / f"{source.stem}-{repeat}"
                command = (sys.executable, "convert.py", "--source", source.absolute())
                runs.append(measured(*command, "--output", output))
            seconds, peak = min(run[0] for run in runs), max(run[1] for run in runs)
            size = source.stat().st_size
            print(
                f"| {source.name} | {size / 1e6:.0f} | {seconds:.1f} | {peak / 1e6:.0f} |"
                f" {peak / size:.1f} |"
            )
        _, peak = measured(
            sys.executable, "-c", "import mspn_jax.weights.conversion, mspn_jax.commands.program"
        )
        print(f"| nothing: imports alone | | | {peak / 1e6:.0f} | |")


if __name__ == "__main__":
    main()

"""Requests a second and waiting times of `mspn serve`, with so many clients at once.

    python benchmarks/serve.py --detector yolox_nano --clients 1 4 50 PICTURE...

Starts the server with a network of new weights, on a free port of this machine, where the clients
run too. Each client sends one picture after the other. A client that is turned away (503) waits as
long as Retry-After says, which counts as waiting.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import itertools
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import psutil

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.report import Report, new_parser
from benchmarks.workload import TINY, new_network
from mspn_jax.weights import checkpoints
from mspn_jax.weights.description import Description

HERE = pathlib.Path(__file__).parents[1]


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("pictures", nargs="+", type=pathlib.Path)
    parser.add_argument("--detector", default="yolox_s", help="a published name, or an .onnx")
    parser.add_argument("--stages", type=int, default=1, help="1 to 4")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 50])
    parser.add_argument("--requests", type=int, default=100, help="for each number of clients")
    args = parser.parse_args()
    report = Report(args.json)
    pictures = [path.read_bytes() for path in args.pictures]
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(pathlib.Path(folder), args)
        with served(folder, args.detector) as (process, port):
            for clients in args.clients:
                found = measured(port, pictures, clients, args.requests)
                memory = psutil.Process(process.pid).memory_info().rss
                report.row(clients=clients, **found, server_MB=memory / 1e6)


def write_checkpoint(folder: pathlib.Path, args: argparse.Namespace) -> None:
    network = new_network(args.stages, "float32", args.quick)
    model = {"num_stages": args.stages, "num_keypoints": 17} | (TINY if args.quick else {})
    description = Description("new", model, crop_hw=network.crop_hw)
    checkpoints.save_variables(folder, description, network.variables)


@contextlib.contextmanager
def served(folder: str, detector: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """The server's process and its port."""
    command = [sys.executable, "-m", "mspn_jax", "serve", "--port=0", "--min_score=0"]
    process = subprocess.Popen(
        [*command, "--model", folder, "--detector", detector],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HERE)},
    )
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"serving .* at http://.*:(\d+)/", line):
                break
        else:
            sys.exit("".join(said))
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            threads.submit(process.stderr.read)  # or it would wait for its log to be read
            yield process, int(found[1])
            process.terminate()
    finally:
        process.terminate()
        process.wait()


def measured(port: int, pictures: list[bytes], clients: int, requests: int) -> dict[str, float]:
    turns, seconds, turned_away = itertools.count(), [], []

    def client(_: int) -> None:
        while (turn := next(turns)) < requests:
            start = time.perf_counter()
            while wait := ask(port, pictures[turn % len(pictures)]):
                turned_away.append(turn)
                time.sleep(wait)
            seconds.append(time.perf_counter() - start)

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as threads:
        list(threads.map(client, range(clients)))
    return {
        "requests_a_second": requests / (time.perf_counter() - start),
        "median_ms": 1e3 * float(np.median(seconds)),
        "95_percent_ms": 1e3 * float(np.quantile(seconds, 0.95)),
        "turned_away": len(turned_away),
    }


def ask(port: int, picture: bytes) -> float:
    """Sends a picture. Returns 0, or the seconds to wait."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/people", picture)
        answer = connection.getresponse()
        content = answer.read()
    if answer.status not in (200, 503):
        sys.exit(f"{answer.status}: {content.decode()}")
    return float(answer.headers["Retry-After"]) if answer.status == 503 else 0.0


if __name__ == "__main__":
    main()

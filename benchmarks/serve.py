"""Requests a second and waiting times of `mspn serve`, with so many clients at once.

    python benchmarks/serve.py --detector yolox_nano --clients 1 4 50 PICTURE...

Starts the server with a network of new weights, on a free port of this machine, where the clients
run too. Each client sends one picture after the other. A client that is turned away (503) waits as
long as Retry-After says, which counts as waiting. `over the first` compares the requests a second
with those of the first number of clients.
"""

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
from benchmarks.timing import seconds_of
from benchmarks.workload import describe, new_network
from mspn_jax.weights import checkpoints

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
        network = new_network(args.stages, "float32", args.quick)
        checkpoints.save_variables(pathlib.Path(folder), describe(network), network.variables)
        with served(folder, args.detector) as (process, port):
            rows: list[dict[str, float]] = []
            for clients in args.clients:
                rows.append(measured(port, pictures, clients, args.requests))
                over_the_first = rows[-1]["requests_a_second"] / rows[0]["requests_a_second"]
                memory_MB = psutil.Process(process.pid).memory_info().rss / 1e6
                row = rows[-1] | {"over_the_first": over_the_first, "server_MB": memory_MB}
                report.row(clients=clients, **row)


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

    with concurrent.futures.ThreadPoolExecutor(clients) as threads:
        whole = seconds_of(lambda: list(threads.map(client, range(clients))))
    return {
        "requests_a_second": requests / whole,
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

"""`mspn serve` under test: in a process of its own, or in a thread with a gate; and requests."""

import asyncio
import contextlib
import http.client
import pathlib
import re
import socket
import subprocess
import threading
import time

from commands import HERE, command, environment
from mspn_jax.finder import PeopleFinder
from mspn_jax.serving.server import Server
from mspn_jax.serving.service import Limits, Service

SECONDS = 60  # time limit of what takes a moment on an idle machine
MAX_BYTES = 2_000_000


class Served:
    """`mspn serve` in a process of its own, as a context.

    Attributes:
      said: the lines of its log so far.
    """

    def __init__(self, files: pathlib.Path, *arguments: object):
        files_of = ("--model", files / "tiny", "--detector", files / "quarter.onnx")
        self.process = subprocess.Popen(
            command("mspn_jax", "serve", *files_of, "--port=0", "--min_score=0", *arguments),
            stderr=subprocess.PIPE,
            text=True,
            cwd=HERE,
            env=environment(),
        )
        self.said: list[str] = []
        self._is_ready = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        if not self._is_ready.wait(SECONDS) or self.process.poll() is not None:
            self.process.kill()
            raise AssertionError("".join(self.said))
        address = re.search(r" at http://(127\.0\.0\.1):(\d+)/", "".join(self.said))
        self.place = (address[1], int(address[2]))

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.said.append(line)
            if "serving" in line:
                self._is_ready.set()
        self._is_ready.set()

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *exception) -> None:
        self.process.kill()
        self.process.wait()


def ask(
    place: tuple[str, int],
    body: bytes | None = None,
    path: str = "/v1/people",
    method: str = "POST",
    **headers: str,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and content of an answer."""
    connection = http.client.HTTPConnection(*place, timeout=SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def form(data: bytes, head: str = 'form-data; name="file"; filename="a.jpg"') -> dict:
    body = b"--xx\r\nContent-Disposition: " + head.encode() + b"\r\n\r\n" + data + b"\r\n--xx--\r\n"
    return {"body": body, "Content_Type": "multipart/form-data; boundary=xx"}


def raw(place: tuple[str, int], *parts: bytes) -> tuple[int, bytes]:
    """Status and content of the answer to bytes; 0 if there is none."""
    with socket.create_connection(place, timeout=SECONDS) as connection:
        for part in parts:
            connection.sendall(part)
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
        except (http.client.HTTPException, OSError):
            return 0, b""
        return answer.status, answer.read()


UPLOAD = b"POST /v1/people HTTP/1.1\r\nHost: localhost\r\n"


def head(length: int | str, more: str = "") -> bytes:
    return UPLOAD + f"Content-Length: {length}\r\n{more}\r\n".encode()


class Gate(PeopleFinder):
    """A finder that waits until it may go on.

    Attributes:
      num_found: pictures.
    """

    def __init__(self, finder: PeopleFinder):
        super().__init__(finder.predictor, finder.detector, min_score=0.0)
        self.is_open, self.num_found = threading.Event(), 0

    def __call__(self, image, boxes=None):
        assert self.is_open.wait(SECONDS)
        self.num_found += 1
        return super().__call__(image, boxes)


class Local:
    """The server in a thread of this process, with a `Gate`, as a context."""

    def __init__(self, finder: PeopleFinder, *hosts: str, host: str = "127.0.0.1", **limits):
        self._host, self._hosts = host, hosts
        self.gate = Gate(finder)
        self.service = Service(self.gate, model="m", detector="d", limits=Limits(**limits))
        self.has_to_stop = threading.Event()
        self.is_finished: bool | None = None
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        async with Server(self.service, self._host, 0, hosts=self._hosts) as server:
            self.place = ("127.0.0.1", int(server.address.rstrip("/").rpartition(":")[2]))
            self._is_ready.set()
            self.is_finished = await server.until(self.has_to_stop.is_set)

    def __enter__(self) -> "Local":
        self._thread.start()
        assert self._is_ready.wait(SECONDS)
        return self

    def __exit__(self, *exception) -> None:
        self.gate.is_open.set()
        self.has_to_stop.set()
        self._thread.join(SECONDS)


def wait_until(is_true) -> None:
    end = time.monotonic() + SECONDS
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)

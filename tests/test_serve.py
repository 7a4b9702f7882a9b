"""mspn serve: answers equal the finder's; load, hostile uploads, slow clients, signals."""

import asyncio
import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator

import cv2
import detector_files
import numpy as np
import psutil
import pytest
from browser import NAMES
from test_predictor import DESCRIPTION, VARIABLES, some_picture

from commands import HERE, command, environment, run
from mspn_jax import drawing
from mspn_jax.crops import decode_picture
from mspn_jax.drawing import encode_picture
from mspn_jax.finder import PeopleFinder, load_detector
from mspn_jax.weights import checkpoints

pytest.importorskip("aiohttp", reason="pip install -e '.[serve]'")

from mspn_jax.serving import server as server_module
from mspn_jax.serving.server import Server
from mspn_jax.serving.service import Limits, Service

SECONDS = 60  # for what takes a moment, on a machine that is busy
MAX_BYTES = 2_000_000
ANSWERS = (200, 503)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> pathlib.Path:
    """A tiny network, and a detector that finds the right lower quarter of every picture."""
    folder = tmp_path_factory.mktemp("served")
    checkpoints.save_variables(folder / "tiny", DESCRIPTION, VARIABLES)
    detector_files.dynamic(folder / "quarter.onnx")
    return folder


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


@pytest.fixture(scope="module")
def served(files) -> Iterator[Served]:
    limits = (f"--max_megabytes={MAX_BYTES / 1e6}", "--max_megapixels=2", "--timeout_seconds=20")
    with Served(files, *limits, "--max_waiting=8", "--warm_up=1") as served:
        yield served


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


# --------------------------------------------------------------------------------------- answers


@pytest.fixture(scope="module")
def finder(files) -> PeopleFinder:
    return PeopleFinder.load(files / "tiny", load_detector(files / "quarter.onnx"), min_score=0.0)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_the_answer_is_what_the_finder_finds(served, finder, suffix):
    data = encode_picture(some_picture((90, 120)), suffix)
    expected = finder(decode_picture(data))
    for request in ({"body": data}, {"body": data, "Content_Type": "text/plain"}, form(data)):
        status, headers, content = ask(served.place, **request)
        answer = json.loads(content)
        assert status == 200 and headers["Content-Type"] == "application/json"
        assert answer.pop("seconds") > 0
        (person,) = answer["people"]
        (expected_person,) = expected.to_json()
        for name in ("keypoints", "score", "bbox", "confidence"):
            np.testing.assert_allclose(person.pop(name), expected_person.pop(name), atol=1e-3)
        assert person == expected_person
        del answer["people"]
        assert answer == {"model": "tiny", "detector": "quarter.onnx", "width": 120, "height": 90}


def test_the_picture_is_drawn_if_it_is_asked_for(served, finder):
    data = encode_picture(some_picture((90, 120)), ".png")
    status, headers, content = ask(served.place, data, "/v1/people?draw=1")
    assert status == 200 and headers["Content-Type"] == "image/jpeg"
    expected = encode_picture(finder(decode_picture(data)).draw(), ".jpg")
    difference = decode_picture(content).astype(int) - decode_picture(expected)
    assert np.abs(difference).mean() < 0.5
    assert ask(served.place, data, "/v1/people?draw=yes")[0] == 400


def test_a_photograph_that_was_turned_is_found_upright(served):
    image = np.full((40, 80, 3), 200, np.uint8)
    exif = bytes.fromhex("4578696600004d4d002a00000008000101120003000000010006000000000000")
    jpeg = encode_picture(image, ".jpg")
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    answer = json.loads(ask(served.place, turned)[2])
    assert (answer["width"], answer["height"]) == (40, 80)


def test_the_page_and_the_other_addresses(served):
    status, headers, content = ask(served.place, path="/", method="GET")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and policy.count("'sha256-") == 2
    assert b"http://" not in content.replace(b"http://127.0.0.1", b"") and b"src=" not in content
    for name in ("X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Cache-Control"):
        assert headers[name]
    assert "Access-Control-Allow-Origin" not in headers and "Set-Cookie" not in headers
    assert headers["Server"] == "mspn"
    assert json.loads(ask(served.place, path="/healthz", method="GET")[2])["status"] == "ok"
    about = json.loads(ask(served.place, path="/v1/model", method="GET")[2])
    assert about["model"] == "tiny" and len(about["keypoint_names"]) == 17
    assert about["limits"]["max_bytes"] == MAX_BYTES
    assert ask(served.place, path="/", method="HEAD")[2] == b""


def test_the_page_runs_in_a_browser(served, tmp_path):
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip(f"no browser: install one of {', '.join(NAMES)} to run this test")
    address = "http://{}:{}/".format(*served.place)
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr")
    where = (f"--user-data-dir={tmp_path}", "--virtual-time-budget=5000", "--dump-dom", address)
    done = subprocess.run(
        [browser, *options, *where], capture_output=True, text=True, timeout=2 * SECONDS
    )
    assert "Network tiny, detector quarter.onnx." in done.stdout  # what its script puts in
    assert f"{address}v1/people</span>" in done.stdout
    assert not [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def test_the_page_draws_as_the_program():
    text = (HERE / "mspn_jax" / "serving" / "page.html").read_text("utf-8")
    for name in ("FAINT_SCORE", "FULL_SCORE", "FAINTEST"):
        (number,) = re.findall(rf"\b{name} = ([\d.]+)", text)
        assert float(number) == getattr(drawing, name)


# -------------------------------------------------------------------------------- hostile uploads


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, *more: bytes) -> bytes:
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + b"".join(more) + idat + chunk(b"IEND", b"")


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    data = encode_picture(np.zeros((16, 16, 3), np.uint8), ".jpg")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def many_scans() -> bytes:
    image = np.zeros((64, 64, 3), np.uint8)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * 200 + data[-2:]


JPEG = encode_picture(some_picture((90, 120)), ".jpg")
PNG = encode_picture(some_picture((90, 120)), ".png")
WEBP = encode_picture(some_picture((90, 120)), ".webp")
BOMB = png(30_000, 30_000, bytes(30_000 * 90_001 // 200))
HOSTILE = {
    "a bomb": (BOMB, 413, "too many pixels"),
    "a jpeg that claims 65500 x 65500": (jpeg_of_size(65500, 65500), 413, "pixels"),
    "more pixels than are taken": (
        png(2000, 1001, b""),
        413,
        "2000 x 1001 pixels; at most 2000000",
    ),
    "a side that is too long": (png(40_000, 2, b""), 413, "sides"),
    "a png that claims 2**31 - 1": (png(2**31 - 1, 1, b""), 413, "pixels"),
    "a png of no pixels": (png(0, 0, b""), 400, "damaged"),
    "half a jpeg": (JPEG[: len(JPEG) // 2], 400, "the JPEG is damaged or cut off"),
    "half a png": (PNG[: len(PNG) // 2], 400, "the PNG is damaged or cut off"),
    "half a webp": (WEBP[: len(WEBP) // 2], 400, "the WebP is damaged or cut off"),
    "a jpeg's first bytes": (b"\xff\xd8\xff", 400, "the JPEG is damaged"),
    "a jpeg of 200 scans": (many_scans(), 400, "scans"),
    "empty segments": (b"\xff\xd8" + b"\xff\xe5\0\2" * 400_000, 400, "the JPEG is damaged"),
    "empty chunks": (png(9, 9, b"", chunk(b"abCd", b"") * 100_000), 400, "the PNG is damaged"),
    "nothing": (b"", 415, "not a picture: send JPEG, PNG or WebP"),
    "html": (b"<html><script>alert(1)</script></html>", 415, "not a picture"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "not a picture"),
    "gif": (b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0", 415, "not a picture"),
    "tiff": (b"II*\0\x08\0\0\0", 415, "not a picture"),
    "bmp": (encode_picture(some_picture((9, 12)), ".bmp"), 415, "not a picture"),
    "noise": (np.random.default_rng(0).bytes(10_000), 415, "not a picture"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_upload_gets_one_line(served, name):
    data, expected, message = HOSTILE[name]
    before = psutil.Process(served.process.pid).memory_info().rss
    for request in ({"body": data}, form(data)):
        status, headers, content = ask(served.place, **request)
        assert status == expected and headers["Content-Type"].startswith("application/json")
        error = json.loads(content)["error"]
        assert message in error and "\n" not in error and "/" not in error
    assert psutil.Process(served.process.pid).memory_info().rss - before < 200e6
    assert "Traceback" not in "".join(served.said)
    assert ask(served.place, JPEG)[0] == 200


def test_a_body_that_is_too_large_is_refused_unread(served):
    status, content = raw(served.place, head(10**12, "Expect: 100-continue\r\n"))
    assert status == 413 and b"1000000000000 bytes; at most 2000000" in content
    status, content = raw(served.place, head(MAX_BYTES + 1), b"x" * 1000)
    assert status == 413
    status, content = raw(served.place, head(len(JPEG)), JPEG)  # and one that is not
    assert status == 200


def test_what_contradicts_its_header(served):
    place = served.place
    assert raw(place, UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")[0] == 411
    assert raw(place, UPLOAD + b"\r\n")[0] == 411
    assert ask(place, zlib.compress(JPEG), Content_Encoding="deflate")[0] == 415
    assert raw(place, head("-5"))[0] == 400
    assert raw(place, head("5\r\nContent-Length: 6"), b"abcdef")[0] == 400
    assert raw(place, head(len(JPEG) // 2), JPEG)[0] == 400  # half of it; the rest is no request
    assert raw(place, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")[0] == 400  # TLS
    assert raw(place, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000)[0] == 400
    assert raw(place, b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 1000 + b"\r\n")[0] == 400
    assert "Traceback" not in "".join(served.said)


def test_forms_that_are_no_forms(served):
    place = served.place
    for request, expected in (
        (form(JPEG, 'form-data; name="file"'), 400),  # a field, not a file
        (form(JPEG, 'form-data; name="a"; filename="' + "x" * 100_000 + '"'), 400),
        (form(JPEG, 'form-data; name="a"; filename="../../etc/passwd"'), 200),
        (form(JPEG, 'form-data; name="a"; filename="\x00"'), 400),
        ({"body": JPEG, "Content_Type": "multipart/form-data"}, 400),
        ({"body": JPEG, "Content_Type": "multipart/form-data; boundary=xx"}, 400),
        ({"body": b"--xx\r\n" * 10_000, "Content_Type": "multipart/mixed; boundary=xx"}, 400),
    ):
        status, _, content = ask(place, **request)
        assert status == expected, (request["body"][:200], content)
        assert b"passwd" not in content
    assert "Traceback" not in "".join(served.said)


def test_requests_that_other_sites_make(served):
    def status(**headers: str) -> int:
        return ask(served.place, path="/", method="GET", **headers)[0]

    assert status(Host="evil.example") == 403  # its name resolves to 127.0.0.1
    assert status(Host="localhost:1234") == status(Host="[::1]:8000") == 200
    assert status(Host="localhost.evil.example") == 403 and status(Host="") == 403
    assert status(Sec_Fetch_Site="cross-site") == 403
    assert status(Sec_Fetch_Site="same-origin") == status(Sec_Fetch_Site="none") == 200


def test_addresses_and_methods_that_do_not_exist(served):
    for path in ("/../../etc/passwd", "/v1/people/", "/%2e%2e/x", "/page.html"):
        status, _, content = ask(served.place, path=path, method="GET")
        assert status == 404 and json.loads(content)["error"].startswith("no such address")
    for method in ("GET", "OPTIONS", "DELETE", "PUT"):
        status, headers, _ = ask(served.place, method=method)
        assert status == 405 and "Access-Control-Allow-Methods" not in headers


# ----------------------------------------------------------------------------------------- load


def test_fifty_at_once_are_answered_or_turned_away(served):
    pictures = [encode_picture(some_picture((60 + i, 80)), ".png") for i in range(5)]
    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda i: ask(served.place, pictures[i % 5]), range(200)))
    assert {status for status, _, _ in answers} <= set(ANSWERS)
    for i, (status, headers, content) in enumerate(answers):
        if status == 200:
            assert json.loads(content)["height"] == 60 + i % 5
        else:
            assert headers["Retry-After"] and "try again" in json.loads(content)["error"]
    assert sum(status == 200 for status, _, _ in answers) >= 9


def test_pictures_are_not_kept(served):
    noise = np.random.default_rng(0).integers(0, 256, (700, 1000, 3), np.uint8)
    process, data = psutil.Process(served.process.pid), encode_picture(noise, ".jpg")
    used = []
    for _ in range(2):  # what the first ones leave is the allocator's
        for body in (data, data[:-1000], b"x" * len(data)) * 20:
            ask(served.place, body)
        used.append(process.memory_info().rss)
    assert used[1] - used[0] < 20 * len(data) / 2


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


def test_only_so_many_wait(finder):
    with Local(finder, max_waiting=3) as local, concurrent.futures.ThreadPoolExecutor() as threads:
        asked = [threads.submit(ask, local.place, JPEG) for _ in range(4)]
        wait_until(lambda: local.service.num_waiting == 3)
        status, headers, content = ask(local.place, JPEG)
        assert status == 503 and headers["Retry-After"] and b"too many" in content
        health = json.loads(ask(local.place, path="/healthz", method="GET")[2])
        assert health == {"status": "ok", "waiting": 3}
        local.gate.is_open.set()
        assert [each.result()[0] for each in asked] == [200] * 4
        assert ask(local.place, JPEG)[0] == 200
        wait_until(lambda: local.service.num_held == 0)  # the answer comes a moment before


def test_only_so_much_is_in_memory(finder):
    """Uploads that do not end cannot together be more than the waiting ones may be."""
    with Local(finder, max_waiting=3, max_bytes=1000, seconds=5) as local:
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                slow = stack.enter_context(socket.create_connection(local.place))
                slow.sendall(head(1000))
            wait_until(lambda: local.service.num_held == 3)
            assert raw(local.place, head(1000))[0] == 503
        wait_until(lambda: local.service.num_held == 0)  # they left
        local.gate.is_open.set()
        assert raw(local.place, head(4), b"GIF8")[0] == 415


def test_a_slow_upload_is_cut(finder):
    with Local(finder, seconds=1) as local:
        with socket.create_connection(local.place, timeout=SECONDS) as slow:
            slow.sendall(head(1000))
            start = time.monotonic()
            with contextlib.suppress(OSError):
                while time.monotonic() < start + 6:
                    slow.sendall(b"x")
                    time.sleep(0.1)
            answer = http.client.HTTPResponse(slow)
            answer.begin()
            assert answer.status == 408 and b"did not arrive in 1 s" in answer.read()
        wait_until(lambda: local.service.num_held == 0)


def test_a_header_that_does_not_come_is_cut(finder, monkeypatch):
    monkeypatch.setattr(server_module, "_SECONDS_OF_A_HEADER", 1)
    with Local(finder) as local:
        for begin in (b"", b"POST /v1/people HTTP/1.1\r\nHost: lo"):
            with socket.create_connection(local.place, timeout=SECONDS) as slow:
                slow.sendall(begin)
                assert slow.recv(100) == b""  # it is closed


def test_an_answer_that_takes_too_long(finder):
    with Local(finder, seconds=1, max_waiting=1) as local:
        status, _, content = ask(local.place, JPEG)  # is worked on for ever
        assert status == 504 and b"no answer in 1 s" in content
        assert ask(local.place, JPEG)[0] == 504  # waits
        local.gate.is_open.set()
        wait_until(lambda: local.service._num_pending == 0)
        assert ask(local.place, JPEG)[0] == 200
        assert local.gate.num_found == 2  # what had only waited was never worked on


def test_who_left_is_not_worked_for(finder):
    with Local(finder) as local, concurrent.futures.ThreadPoolExecutor() as threads:
        first = threads.submit(ask, local.place, JPEG)
        wait_until(lambda: local.service._num_pending == 1)
        with socket.create_connection(local.place) as leaves:
            leaves.sendall(head(len(JPEG)) + JPEG)
            wait_until(lambda: local.service.num_waiting == 1)
        wait_until(lambda: local.service.num_waiting == 0)
        local.gate.is_open.set()
        assert first.result()[0] == 200 and local.gate.num_found == 1


def test_an_error_of_the_program_is_not_told_to_strangers(finder, caplog):
    with Local(finder) as local:
        local.gate.is_open.set()
        local.gate.predictor = None
        status, _, content = ask(local.place, JPEG)
        assert status == 500 and content == b'{"error": "the server failed; its log says why"}'
    assert "AttributeError" in caplog.text


def test_names_of_the_server(finder):
    for hosts, host, others in (
        ((), "127.0.0.1", 403),
        (("a.example",), "127.0.0.1", 403),
        (("a.example",), "0.0.0.0", 403),
        ((), "0.0.0.0", 200),  # everybody who reaches it
    ):
        with Local(finder, *hosts, host=host) as local:
            for name in ("localhost", *hosts):
                assert ask(local.place, path="/", method="GET", Host=name)[0] == 200
            assert ask(local.place, path="/", method="GET", Host="b.example")[0] == others


# -------------------------------------------------------------------------------------- signals


def test_what_is_in_hand_is_finished_before_it_stops(finder):
    with Local(finder) as local, concurrent.futures.ThreadPoolExecutor() as threads:
        keeps = http.client.HTTPConnection(*local.place, timeout=SECONDS)
        keeps.request("GET", "/healthz")
        keeps.getresponse().read()
        asked = [threads.submit(ask, local.place, JPEG) for _ in range(2)]
        wait_until(lambda: local.service.num_waiting == 1)
        local.has_to_stop.set()
        wait_until(lambda: is_refused(local.place))
        keeps.request("GET", "/healthz")  # on a connection from before
        assert keeps.getresponse().status == 503
        local.gate.is_open.set()
        assert [each.result()[0] for each in asked] == [200, 200]
        wait_until(lambda: local.is_finished)
        keeps.close()


def is_refused(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place).close()
    except ConnectionRefusedError:
        return True
    return False


def test_it_stops_without_what_does_not_end(finder, monkeypatch):
    monkeypatch.setattr(server_module, "_SECONDS_TO_FINISH", 0.5)
    with Local(finder) as local, socket.create_connection(local.place) as slow:
        slow.sendall(head(1000))
        wait_until(lambda: local.service.num_held == 1)
        local.has_to_stop.set()
        wait_until(lambda: local.is_finished is False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(files, number):
    with Served(files, "--warm_up=0") as served, socket.create_connection(served.place) as slow:
        assert ask(served.place, JPEG)[0] == 200
        slow.sendall(b"GET / HT")
        served.process.send_signal(number)
        assert served.process.wait(timeout=10) == 128 + number
        wait_until(lambda: "the requests in hand are answered" in served.said[-1])
        assert "Traceback" not in "".join(served.said)


# ---------------------------------------------------------------------------------- the command


def test_what_cannot_be_served_is_one_line(files):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ("--model", files / "tiny", "--detector", files / "quarter.onnx")
        done = run("mspn_jax", "serve", *arguments, f"--port={port}", "--warm_up=0")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == f"error: --host 127.0.0.1 --port {port}: Address already in use; choose others"


def test_without_the_extra_it_names_the_extra():
    code = """
import sys
sys.modules["aiohttp"] = None
sys.argv = ["mspn", "serve"]
from mspn_jax.commands import cli
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 1
    line = "error: mspn serve needs aiohttp: pip install 'mspn-jax[serve]'"
    assert done.stderr.splitlines()[-1] == line

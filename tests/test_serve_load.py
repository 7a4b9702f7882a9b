"""mspn serve: many clients, slow ones, and signals."""

import concurrent.futures
import contextlib
import http.client
import json
import signal
import socket
import time

import numpy as np
import psutil
import pytest
from test_predictor import some_picture

from mspn_jax.drawing import encode_picture

pytest.importorskip("aiohttp", reason="pip install -e '.[serve]'")

from hostile_pictures import JPEG
from people_server import (
    SECONDS,
    Local,
    Served,
    ask,
    head,
    raw,
    wait_until,
)

from mspn_jax.serving import server as server_module

ANSWERS = (200, 503)


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


def test_only_so_many_wait(finder):
    with (
        Local(finder, max_waiting=3) as local,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
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


# ------------------------------------------------------------------------------------------ signals


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
def test_a_signal_ends_it(served_files, number):
    with (
        Served(served_files, "--warm_up=0") as served,
        socket.create_connection(served.place) as slow,
    ):
        assert ask(served.place, JPEG)[0] == 200
        slow.sendall(b"GET / HT")
        served.process.send_signal(number)
        assert served.process.wait(timeout=10) == 128 + number
        wait_until(lambda: "the requests in hand are answered" in served.said[-1])
        assert "Traceback" not in "".join(served.said)

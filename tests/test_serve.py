"""mspn serve: answers equal the finder's; the page; the command."""

import json
import re
import shutil
import socket
import struct
import subprocess
import sys

import numpy as np
import pytest
from browser import NAMES
from test_predictor import some_picture

from commands import HERE, environment, error_of, run
from mspn_jax import drawing
from mspn_jax.crops import decode_picture
from mspn_jax.drawing import encode_picture
from mspn_jax.finder import PeopleFinder, load_detector

pytest.importorskip("aiohttp", reason="pip install -e '.[serve]'")

from people_server import (
    MAX_BYTES,
    SECONDS,
    Served,
    ask,
    form,
)


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


def test_the_picture_is_annotated_if_it_is_asked_for(served, finder):
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


@pytest.mark.slow
def test_it_takes_the_flags_of_predict_for_network_and_detector(served_files, finder):
    image = some_picture((90, 120))
    detector = load_detector(served_files / "quarter.onnx", input_hw=(32, 64))
    dark = PeopleFinder.load(served_files / "tiny", detector, min_score=0.0, decoding="dark")
    (expected,) = dark(image).to_json()
    (other,) = finder(image).to_json()
    with Served(
        served_files, "--decoding=dark", "--detector_hw=32,64", "--max_people=1", "--warm_up=0"
    ) as served:
        answer = json.loads(ask(served.place, encode_picture(image, ".png"))[2])
    (person,) = answer["people"]
    for name in ("bbox", "keypoints"):
        np.testing.assert_allclose(person[name], expected[name], atol=1e-3)
        assert np.abs(np.subtract(person[name], other[name])).max() > 0.01


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


# -------------------------------------------------------------------------------------- the command


def test_what_cannot_be_served_is_one_line(served_files):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ("--model", served_files / "tiny", "--detector", served_files / "quarter.onnx")
        done = run("mspn_jax", "serve", *arguments, f"--port={port}", "--warm_up=0")
    assert (
        error_of(done)
        == f"error: --host 127.0.0.1 --port {port}: Address already in use; choose others"
    )
    done = run("mspn_jax", "serve", *arguments, "--backend=onnxruntime", "--bf16")
    assert error_of(done).startswith("error: backend onnxruntime: computes in float32")


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

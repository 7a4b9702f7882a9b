"""mspn serve: hostile uploads and requests get one line."""

import json
import zlib

import psutil
import pytest

pytest.importorskip("aiohttp", reason="pip install -e '.[serve]'")

from hostile_pictures import HOSTILE, JPEG
from people_server import (
    MAX_BYTES,
    UPLOAD,
    ask,
    form,
    head,
    raw,
)


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

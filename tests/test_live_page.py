"""The live page as a browser sees it."""

import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from mspn_jax.crops import decode_picture
from mspn_jax.live_page import LivePage


def next_picture(stream) -> np.ndarray:
    length = 0
    while (line := stream.readline()) != b"\r\n" or not length:
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return decode_picture(stream.read(length))


def test_a_browser_sees_each_picture_and_the_end():
    with LivePage() as page:
        page.show(np.zeros((8, 8, 3), np.uint8))  # nobody watches
        assert b'src="/stream"' in urllib.request.urlopen(page.address).read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(page.address + "other")
        stream = urllib.request.urlopen(page.address + "stream", timeout=20)
        assert "multipart/x-mixed-replace" in stream.headers["Content-Type"]
        while not page._watchers:
            time.sleep(0.01)
        for level in (50, 200):
            image = np.full((24, 32, 3), level, np.uint8)
            timer = threading.Timer(0.05, page.show, [image])
            timer.start()
            np.testing.assert_allclose(next_picture(stream), image, atol=2)
            timer.join()
    assert stream.read().strip() == b""
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(page.address)

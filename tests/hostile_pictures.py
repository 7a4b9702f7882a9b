"""Hostile uploads, and the answer to each."""

import struct
import zlib

import cv2
import numpy as np
from test_predictor import some_picture

from mspn_jax.drawing import encode_picture


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

"""A stranger's bytes -> picture. What decoding will cost is known before it begins."""

import io
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mspn_jax.crops import LONGEST_SIDE, decode_picture
from mspn_jax.errors import DataError, RequestError

# OpenCV decodes more formats. Each of them would be one more decoder for strangers to try.
KINDS = ("JPEG", "PNG", "WebP")
# JPEG and PNG tell their size before the pixels. Reading more would cost seconds for a file made
# of millions of empty segments.
_HEADER_BYTES = 2 << 20
# Of a progressive JPEG, each a pass over all pixels that a few bytes can ask for. Encoders make
# about ten.
_MAX_SCANS = 100

# Pillow's own limit is at another number of pixels than ours.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_picture(data: bytes, max_pixels: int) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes a picture as `decode_picture` does, but not one that is too large.

    Raises:
      RequestError: 415, not a picture of `KINDS`; 413, larger than `max_pixels` according to its
        header, or with a side that is too long; 400, damaged.
    """
    kind = _kind_of(data)
    if kind is None:
        raise RequestError(415, f"not a picture: send {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    width, height = _size_of(data, kind)
    if width * height > max_pixels or max(width, height) > LONGEST_SIDE:
        raise RequestError(
            413,
            f"the picture has {width} x {height} pixels; at most {max_pixels} are taken, and sides"
            f" of {LONGEST_SIDE}",
        )
    if kind == "JPEG" and data.count(b"\xff\xda") > _MAX_SCANS:
        raise RequestError(400, f"the JPEG has more than {_MAX_SCANS} scans; encode it anew")
    try:
        return decode_picture(data)
    except DataError:
        raise _damaged(kind) from None


def _kind_of(data: bytes) -> str | None:
    """What the first bytes say. The rest may say otherwise."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    return None


def _size_of(data: bytes, kind: str) -> tuple[int, int]:
    """Width and height according to the header. No pixels are decoded."""
    header = data if kind == "WebP" else data[:_HEADER_BYTES]
    try:
        with Image.open(io.BytesIO(header), formats=[kind.upper()]) as image:
            return image.size
    except Image.DecompressionBombError:
        raise RequestError(413, "the picture has too many pixels") from None
    except Exception:  # whatever a stranger's bytes make Pillow raise
        raise _damaged(kind) from None


def _damaged(kind: str) -> RequestError:
    return RequestError(400, f"the {kind} is damaged or cut off")

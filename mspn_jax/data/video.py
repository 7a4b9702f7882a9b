"""Reads videos with PyAV (FFmpeg): frames, upright, with their times."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from mspn_jax.errors import DataError

DEFAULT_PER_SECOND = 25.0  # where a video does not say
_SECONDS_TO_ANSWER = 15.0  # of an address
_TURNS = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_CLOCKWISE,
}


class VideoReader:
    """A video file or stream that is read frame by frame, as a context.

    Attributes:
      num_frames: according to the file; 0 if it does not say.
      per_second: the mean frame rate; 0 if it is unknown.
    """

    def __init__(self, place: str | os.PathLike, *, is_live: bool = False):
        """Opens a file or an address that FFmpeg reads.

        Args:
          is_live: a stream without an end. Its times count from the first frame.

        Raises:
          DataError: it is not a video.
          OSError: it cannot be opened.
        """
        text = os.fspath(place)
        options = {"rtsp_transport": "tcp"} if text.startswith("rtsp") else {}
        timeout = _SECONDS_TO_ANSWER if "://" in text else None
        with errors():
            self._container = av.open(text, options=options, timeout=timeout)
        if not self._container.streams.video:
            self._container.close()
            raise DataError("has sound, but no pictures")
        self._stream = self._container.streams.video[0]
        # With one thread for each frame, decoding is several frames late.
        self._stream.thread_type = "SLICE" if is_live else "AUTO"
        self._is_live = is_live
        self.num_frames: int = self._stream.frames
        self.per_second = float(self._stream.average_rate or 0)

    def frames(self) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], float]]:
        """RGB frames, with their times in seconds from the start of the file.

        The rotation that the file asks for is applied. Damaged parts are left out.

        Raises:
          DataError: after the last frame, if frames are missing.
        """
        start = None if self._is_live else start_of(self._container)
        period = 1 / (self.per_second or DEFAULT_PER_SECOND)
        index, time_s, num_damaged = 0, -period, 0
        for packet in self._packets():
            try:
                decoded: list[Any] = packet.decode()
            except av.FFmpegError:
                num_damaged += 1
                continue
            for frame in decoded:
                time_s += period
                if frame.time is not None:
                    start = frame.time if start is None else start
                    time_s = max(0.0, frame.time - start)
                yield _upright(frame), time_s
                index += 1
        if index < self.num_frames or self._is_live:
            total = f" of {self.num_frames}" * (self.num_frames > 0)
            raise DataError(f"ends after {index} frames{total}")
        if num_damaged or not index:
            raise DataError(f"{num_damaged} damaged parts are left out; {index} frames are read")

    def _packets(self) -> Iterator[Any]:
        """The packets of the video, up to where the file ends or breaks off."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.FFmpegError):
                return
            yield packet

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *exception) -> None:
        self._container.close()


def start_of(container: Any) -> float:
    """The time of a file's first sound or picture, in seconds."""
    return (container.start_time or 0) / av.time_base


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Raises PyAV's errors as DataError (not a video) and OSError."""
    try:
        yield
    except av.InvalidDataError:
        raise DataError("not a video, or damaged") from None
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from None


def _upright(frame: Any) -> UInt8[np.ndarray, "H W 3"]:
    image = frame.to_ndarray(format="rgb24")
    turn = _TURNS.get(frame.rotation % 360)
    return image if turn is None else cv2.rotate(image, turn)

"""Writes videos that browsers play: H.264 in MP4, with the sound of another video."""

import contextlib
import errno
import logging
import os
import pathlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from mspn_jax.data.video import DEFAULT_PER_SECOND, VideoReader, errors, start_of
from mspn_jax.errors import DataError
from mspn_jax.storage import files

log = logging.getLogger(__name__)

_H264, _MPEG4 = "libx264", "mpeg4"
_TICKS = {_H264: 90_000, _MPEG4: 60_000}  # a second; MPEG-4 Part 2 allows 65,535
_OPTIONS = {_H264: {"crf": "20", "preset": "veryfast"}, _MPEG4: {}}
_BT709, _TV_RANGE = 1, 1  # FFmpeg's numbers
_SOUND_IN_MP4 = frozenset(["aac", "mp3", "opus", "flac", "ac3"])  # that browsers play, or many do


class VideoWriter:
    """A video that is written frame by frame, and appears whole when it is closed.

    Pictures with an odd side get one more row or column. If PyAV has no encoder for H.264, the file
    is MPEG-4 Part 2.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        size_hw: tuple[int, int],
        *,
        like: str | os.PathLike | None = None,
    ):
        """Starts a file.

        Args:
          path: ends in .mp4.
          size_hw: of the frames.
          like: a video with the same times, whose frame rate and sound are taken. Sound that MP4
            cannot hold is encoded as AAC.

        Raises:
          OSError: the file cannot be written.
        """
        self.path = pathlib.Path(path)
        self._size_wh = size_hw[1] + size_hw[1] % 2, size_hw[0] + size_hw[0] % 2
        self._rate = Fraction(_rate_of(like)).limit_denominator(1001)
        self._num_frames, self._ticks = 0, -1
        with contextlib.ExitStack() as stack:
            self._partial = stack.enter_context(files.replaced(self.path))
            with errors():
                options = {"movflags": "faststart"}
                self._output = av.open(str(self._partial), "w", format="mp4", options=options)
            stack.callback(self._close_output)
            self._stream = self._new_stream()
            self._sound = _Sound(like, self._output) if like else None
            self._stack = stack.pop_all()

    def _new_stream(self) -> Any:
        codec = _H264 if _H264 in av.codecs_available else _MPEG4
        if codec == _MPEG4:
            log.warning(
                "%s: this PyAV has no H.264 encoder; the video is MPEG-4 Part 2, which browsers do"
                " not play",
                self.path,
            )
        stream: Any = self._output.add_stream(codec, rate=self._rate, options=_OPTIONS[codec])
        stream.width, stream.height = self._size_wh
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, _TICKS[codec])
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _TV_RANGE
        return stream

    def write(self, image: UInt8[np.ndarray, "H W 3"], time_s: float) -> None:
        """Adds an RGB frame.

        Args:
          time_s: from the start of the video. It rises from frame to frame.

        Raises:
          OSError: the disk is full, or refuses.
        """
        time_base = self._stream.codec_context.time_base
        frame = av.VideoFrame.from_ndarray(self._fitted(image), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        self._ticks = max(self._ticks + 1, round(time_s / time_base))
        frame.pts, frame.time_base = self._ticks, time_base
        frame.duration = round(1 / (self._rate * time_base))
        with errors():
            self._output.mux(self._stream.encode(frame))
            if self._sound:
                self._sound.copy_until(time_s)
        self._num_frames += 1

    def _fitted(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
        right, down = self._size_wh[0] - image.shape[1], self._size_wh[1] - image.shape[0]
        if {right, down} <= {0, 1}:
            return cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE)
        return cv2.resize(image, self._size_wh)  # a stream that changed its size

    def close(self) -> None:
        """Writes what is left, and puts the file in its place.

        Raises:
          OSError: the disk is full, or refuses. Then there is no new file.
        """
        with self._stack:
            with errors():
                self._output.mux(self._stream.encode(None))
                if self._sound:
                    ticks = self._ticks * self._stream.codec_context.time_base
                    self._sound.copy_until(float(ticks + 1 / self._rate))
                    self._sound.close()
            self._close_output()
            self._check()

    def abandon(self) -> None:
        """Deletes what is written."""
        with contextlib.suppress(OSError):
            self._close_output()
        error = KeyboardInterrupt()
        self._stack.__exit__(type(error), error, None)

    def _close_output(self) -> None:
        with errors():
            self._output.close()  # does nothing the second time

    def _check(self) -> None:
        """FFmpeg does not report every failure to write."""
        num_written = 0
        with contextlib.suppress(DataError, OSError), VideoReader(self._partial) as video:
            num_written = video.num_frames
        if num_written != self._num_frames:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _rate_of(video: str | os.PathLike | None) -> float:
    rate = 0.0
    if video is not None:
        with contextlib.suppress(DataError, OSError), VideoReader(video) as reader:
            rate = reader.per_second
    return rate or DEFAULT_PER_SECOND


class _Sound:
    """The first sound of a video, put into another one."""

    def __init__(self, path: str | os.PathLike, output: Any):
        self._path, self._output = path, output
        self._next: tuple[float, Any] | None = None
        self._num_samples: int | None = None  # given to the encoder
        self._input: Any = None
        with contextlib.suppress(av.FFmpegError):
            self._input = av.open(os.fspath(path))
        if self._input is None or not self._input.streams.audio:
            return
        source = self._input.streams.audio[0]
        self._is_copied = source.codec_context.name in _SOUND_IN_MP4
        if self._is_copied:
            self._stream: Any = output.add_stream_from_template(source)
        else:
            self._stream = output.add_stream("aac", rate=source.codec_context.sample_rate)
            # Raw sound has a number of channels, but no layout.
            self._stream.layout = "mono" if source.codec_context.channels == 1 else "stereo"
        self._parts = self._read(source)
        self._next = next(self._parts, None)

    def _read(self, source: Any) -> Iterator[tuple[float, Any]]:
        """Times from 0, in seconds, with packets to copy or frames to encode."""
        start = start_of(self._input)
        try:
            for packet in self._input.demux(source):
                for part in [packet] if self._is_copied else packet.decode():
                    if part.pts is None:
                        continue
                    shift = round(start / part.time_base)
                    part.pts -= shift
                    if self._is_copied:
                        part.dts -= shift
                    yield float(part.pts * part.time_base), part
        except av.FFmpegError as error:
            log.warning("%s: the sound is damaged, and left out from here (%s)", self._path, error)

    def copy_until(self, time_s: float) -> None:
        """Writes the sound before a time."""
        while self._next is not None and self._next[0] < time_s:
            part = self._next[1]
            if self._is_copied:
                part.stream = self._stream
                self._output.mux(part)
            else:  # containers round times, and the encoder takes no overlaps
                first = round(self._next[0] * part.sample_rate)
                self._num_samples = first if self._num_samples is None else self._num_samples
                part.pts, part.time_base = self._num_samples, Fraction(1, part.sample_rate)
                self._num_samples += part.samples
                self._output.mux(self._stream.encode(part))
            self._next = next(self._parts, None)

    def close(self) -> None:
        """Writes what the encoder still holds."""
        if self._input is None:
            return
        if self._input.streams.audio and not self._is_copied:
            self._output.mux(self._stream.encode(None))
        self._input.close()

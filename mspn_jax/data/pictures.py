"""Pictures from anywhere, for prediction: files, folders, globs, videos, cameras, addresses."""

import dataclasses
import glob
import itertools
import os
import pathlib
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from mspn_jax.crops import LONGEST_SIDE, decode_picture
from mspn_jax.data.video import VideoReader
from mspn_jax.errors import DataError

PICTURE_ENDINGS = frozenset(
    [".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"]
)
VIDEO_ENDINGS = frozenset(
    [".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".gif", ".ts", ".3gp"]
    + [".wmv", ".flv"]
)
STREAMS = ("rtsp://", "rtsps://", "rtmp://", "udp://", "srt://")
ADDRESSES = ("http://", "https://", *STREAMS)
_SECONDS_TO_ANSWER = 30.0
_LARGEST_DOWNLOAD = 256 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Source:
    """Where frames come from: a picture, a video, a camera or a stream.

    Attributes:
      place: the path of a file, the index of a camera, or an address.
      name: the path below the folder that all sources share, or the last part of an address;
        results are named after it.
      is_picture: whether it is one picture.
    """

    place: pathlib.Path | int | str
    name: str
    is_picture: bool = False

    @property
    def is_live(self) -> bool:
        """Whether it has no end: a camera or a stream."""
        return isinstance(self.place, int) or str(self.place).startswith(STREAMS)

    @property
    def file(self) -> pathlib.Path | None:
        """The path of a file."""
        return self.place if isinstance(self.place, pathlib.Path) else None


@dataclasses.dataclass(frozen=True)
class Frame:
    """A picture of a source.

    Attributes:
      image: RGB.
      index: position in a video or stream, from 0; None for a picture.
      time_s: seconds from the start of a video or stream; None for a picture.
    """

    source: Source
    image: UInt8[np.ndarray, "H W 3"]
    index: int | None = None
    time_s: float | None = None


def find_sources(given: Sequence[str]) -> list[Source]:
    """The sources that a command line names, each once.

    Args:
      given: paths of pictures and videos, folders (for the pictures and videos directly in them),
        globs, indices of cameras, and addresses (http, https, rtsp, ...). Folders' and globs' names
        that begin with a dot are left out.

    Raises:
      DataError: one of them names nothing.
    """
    others: dict[int | str, Source] = {}
    paths: dict[pathlib.Path, None] = {}
    for text in given:
        if not text:
            raise DataError("an empty name: name a picture, a folder, a video or a camera")
        if text.startswith(ADDRESSES):
            others[text] = _source_of_address(text)
        elif text.isdecimal() and not pathlib.Path(text).exists():
            others[int(text)] = Source(int(text), f"camera{text}")
        else:
            paths |= dict.fromkeys(_files(text))
    folder = os.path.commonpath([path.parent for path in paths]) if paths else ""
    found = [
        Source(path, path.relative_to(folder).as_posix(), not _is_video(path)) for path in paths
    ]
    taken = {source.name for source in found}
    for source in others.values():
        numbered = (f"{source.name}-{number}" for number in itertools.count(2))
        name = next(n for n in itertools.chain([source.name], numbered) if n not in taken)
        taken.add(name)
        found.append(dataclasses.replace(source, name=name))
    return found


def _files(text: str) -> list[pathlib.Path]:
    path = pathlib.Path(text)
    if path.is_file():
        return [path.absolute()]
    matches = (
        path.iterdir() if path.is_dir() else map(pathlib.Path, glob.iglob(text, recursive=True))
    )
    found = [
        match.absolute()
        for match in sorted(matches)
        if match.suffix.lower() in PICTURE_ENDINGS | VIDEO_ENDINGS
        and not match.name.startswith(".")
        and match.is_file()
    ]
    if not found:
        what = "no pictures or videos in it" if path.is_dir() else "no such file"
        raise DataError(f"{text}: {what}")
    return found


def _is_video(path: pathlib.PurePath) -> bool:
    return path.suffix.lower() in VIDEO_ENDINGS


def _source_of_address(address: str) -> Source:
    try:
        parts = urllib.parse.urlsplit(address)
    except ValueError as error:
        raise DataError(f"{address}: is not a URL ({error})") from None
    path = pathlib.PurePosixPath(urllib.parse.unquote(parts.path))
    name = re.sub(r"[^\w.-]", "_", path.name or parts.hostname or "stream").lstrip(".")
    is_picture = path.suffix.lower() in PICTURE_ENDINGS
    if not is_picture and not _is_video(path) and not address.startswith(STREAMS):
        try:
            with _open(address) as answer:
                kind = answer.headers.get_content_type()
        except OSError as error:
            raise DataError(f"{address}: {_reason(error)}") from None
        is_picture = kind.startswith("image/") and kind != "image/gif"
    return Source(address, name, is_picture)


def count_frames(source: Source) -> int | None:
    """The number of frames according to the file; None if it is unknown or without an end."""
    if source.is_picture:
        return 1
    if source.file is None:
        return None
    try:
        with VideoReader(source.file) as video:
            return video.num_frames or None
    except (DataError, OSError):
        return 0


def frames(
    sources: Sequence[Source],
    passed_over: Callable[[Source, str], None],
    max_frames: int | None = None,
) -> Iterator[Frame]:
    """Every frame of every source, one in memory at a time.

    16-bit, grey and CMYK pictures become 8-bit RGB, alpha is dropped, and the rotation of EXIF or
    of the video is applied.

    Args:
      passed_over: called with a source that cannot be read, or not to its end, and the reason.
      max_frames: of each video or camera; None: all.
    """
    for source in sources:
        try:
            for frame in itertools.islice(_read(source), max_frames):
                _check_size(frame.image)
                yield frame
        except DataError as error:
            passed_over(source, str(error))
        except OSError as error:
            passed_over(source, _reason(error))
        except cv2.error as error:
            passed_over(source, f"OpenCV cannot read it: {error.err}")


def _read(source: Source) -> Iterator[Frame]:
    if isinstance(source.place, int):
        yield from _camera_frames(source, source.place)
    elif source.is_picture:
        data = source.file.read_bytes() if source.file else _download(str(source.place))
        yield Frame(source, decode_picture(data))
    else:
        with VideoReader(source.place, is_live=source.is_live) as video:
            for index, (image, time_s) in enumerate(video.frames()):
                yield Frame(source, image, index, time_s)


def _camera_frames(source: Source, index_of_camera: int) -> Iterator[Frame]:
    camera = cv2.VideoCapture(index_of_camera)
    try:
        if not camera.isOpened():
            raise DataError("no such camera")
        start = time.monotonic()
        for index in itertools.count():
            more, image_bgr = camera.read()
            if not more:
                raise DataError(f"ends after {index} frames")
            image = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)
            yield Frame(source, image, index, time.monotonic() - start)
    finally:
        camera.release()


def _check_size(image: UInt8[np.ndarray, "H W 3"]) -> None:
    height, width = image.shape[:2]
    if max(height, width) > LONGEST_SIDE:
        raise DataError(
            f"has {width} x {height} pixels; a side can have {LONGEST_SIDE}: make it smaller"
        )


def _open(address: str):
    # Some servers refuse Python's own name.
    request = urllib.request.Request(address, headers={"User-Agent": "mspn_jax"})
    return urllib.request.urlopen(request, timeout=_SECONDS_TO_ANSWER)


def _download(address: str) -> bytes:
    with _open(address) as answer:
        data = answer.read(_LARGEST_DOWNLOAD + 1)
    if len(data) > _LARGEST_DOWNLOAD:
        raise DataError(f"is larger than {_LARGEST_DOWNLOAD >> 20} MB")
    return data


def _reason(error: OSError) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"no answer ({error.reason})"
    return error.strerror or str(error)

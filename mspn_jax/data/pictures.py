"""Pictures from anywhere, for prediction: files, folders, globs, videos, cameras."""

import dataclasses
import glob
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

from mspn_jax.crops import decode_picture
from mspn_jax.errors import DataError

PICTURE_ENDINGS = frozenset(
    [".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"]
)
VIDEO_ENDINGS = frozenset([".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"])


@dataclasses.dataclass(frozen=True)
class Source:
    """Where frames come from: a picture, a video, or a camera.

    Attributes:
      path: of the file, or the camera's index.
      name: of what is made of it: the path below the folder that all sources have in common.
    """

    path: pathlib.Path | int
    name: str

    @property
    def is_picture(self) -> bool:
        return not self.is_camera and pathlib.Path(self.name).suffix.lower() not in VIDEO_ENDINGS

    @property
    def is_camera(self) -> bool:
        return isinstance(self.path, int)


@dataclasses.dataclass(frozen=True)
class Frame:
    """A picture of a source.

    Attributes:
      index: its place in a video, from 0.
      image: (H, W, 3) uint8 RGB.
      per_second: of a video.
    """

    source: Source
    index: int
    image: np.ndarray
    per_second: float = 0.0


def find_sources(given: Sequence[str]) -> list[Source]:
    """The sources that are meant, each once.

    Args:
      given: paths of pictures and videos, folders (the pictures and videos right in them), globs
        and indices of cameras.

    Raises:
      DataError: one of them means nothing.
    """
    cameras: list[Source] = []
    paths: dict[pathlib.Path, None] = {}
    for text in given:
        path = pathlib.Path(text)
        if text.isdecimal() and not path.exists():
            cameras.append(Source(int(text), f"camera{text}"))
        elif path.is_file():
            paths[path.absolute()] = None
        else:
            matches = path.iterdir() if path.is_dir() else glob.iglob(text, recursive=True)
            found = [p for p in sorted(pathlib.Path(match).absolute() for match in matches)
                     if p.is_file()
                     and p.suffix.lower() in PICTURE_ENDINGS | VIDEO_ENDINGS]  # fmt: skip
            if not found:
                what = "no pictures or videos in it" if path.is_dir() else "no such file"
                raise DataError(f"{text}: {what}")
            paths |= dict.fromkeys(found)
    if not paths:
        return cameras
    folder = os.path.commonpath([path.parent for path in paths])
    return [Source(path, path.relative_to(folder).as_posix()) for path in paths] + cameras


def count_frames(source: Source) -> int | None:
    """How many there are as far as the file itself says; None for a camera."""
    if source.is_picture:
        return 1
    if source.is_camera:
        return None
    return max(0, int(_open(source).get(cv2.CAP_PROP_FRAME_COUNT)))


def frames(
    sources: Sequence[Source],
    passed_over: Callable[[Source, str], None],
    max_frames: int | None = None,
) -> Iterator[Frame]:
    """Every frame of every source, one in memory at a time.

    16-bit and grey pictures become 8-bit RGB, CMYK too, alpha is dropped, and what EXIF or the
    video say of its rotation is done.

    Args:
      passed_over: called with a source that cannot be read, or not to its end, and why.
      max_frames: of each video or camera; None: all.
    """
    for source in sources:
        try:
            if isinstance(source.path, pathlib.Path) and source.is_picture:
                yield Frame(source, 0, decode_picture(source.path.read_bytes()))
            else:
                yield from itertools.islice(_video_frames(source), max_frames)
        except DataError as error:
            passed_over(source, str(error))
        except OSError as error:
            passed_over(source, error.strerror or str(error))
        except cv2.error as error:
            passed_over(source, f"OpenCV cannot read it: {error.err}")


def _open(source: Source) -> cv2.VideoCapture:
    return cv2.VideoCapture(source.path if isinstance(source.path, int) else str(source.path))


def _video_frames(source: Source) -> Iterator[Frame]:
    video = _open(source)
    try:
        if not video.isOpened():
            raise DataError("no such camera" if source.is_camera else "not a video, or damaged")
        per_second = video.get(cv2.CAP_PROP_FPS)
        announced = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        index = 0
        while True:
            more, image_bgr = video.read()
            if not more:
                break
            yield Frame(source, index, cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB), per_second)
            index += 1
        if source.is_camera or index < announced:
            raise DataError(f"ends after {index} frames" + f" of {announced}" * (announced > 0))
    finally:
        video.release()

"""Pictures from anywhere, for prediction: files, folders, globs, videos, cameras."""

import dataclasses
import glob
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

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
      name: the path below the folder that all sources share; results are named after it.
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
      index: position in a video, from 0.
      image: RGB.
      per_second: frame rate of a video.
    """

    source: Source
    index: int
    image: UInt8[np.ndarray, "H W 3"]
    per_second: float = 0.0


def find_sources(given: Sequence[str]) -> list[Source]:
    """The sources that a command line names, each once.

    Args:
      given: paths of pictures and videos, folders (for the pictures and videos directly in them),
        globs, and indices of cameras.

    Raises:
      DataError: one of them names nothing.
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
            absolute = sorted(pathlib.Path(match).absolute() for match in matches)
            endings = PICTURE_ENDINGS | VIDEO_ENDINGS
            found = [p for p in absolute if p.suffix.lower() in endings and p.is_file()]
            if not found:
                what = "no pictures or videos in it" if path.is_dir() else "no such file"
                raise DataError(f"{text}: {what}")
            paths |= dict.fromkeys(found)
    if not paths:
        return cameras
    folder = os.path.commonpath([path.parent for path in paths])
    return [Source(path, path.relative_to(folder).as_posix()) for path in paths] + cameras


def count_frames(source: Source) -> int | None:
    """The number of frames according to the file; None for a camera."""
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

    16-bit, grey and CMYK pictures become 8-bit RGB, alpha is dropped, and the rotation of EXIF or
    of the video is applied.

    Args:
      passed_over: called with a source that cannot be read, or not to its end, and the reason.
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

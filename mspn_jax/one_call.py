"""From a picture, a video or a camera to people, in one call."""

import functools
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from mspn_jax.data.pictures import Frame, Source, find_sources, frames
from mspn_jax.errors import DataError
from mspn_jax.finder import (
    DETECTOR,
    MIN_SCORE,
    MODEL,
    Detect,
    PeopleFinder,
    load_detector,
    together_for,
)
from mspn_jax.frame_boxes import Boxes
from mspn_jax.people import People
from mspn_jax.predictor import Predictor

log = logging.getLogger("mspn_jax")


def find_people(
    source: Any,
    *,
    model: str | os.PathLike | Predictor = MODEL,
    detector: str | os.PathLike | Detect | None = DETECTOR,
    boxes: Boxes | None = None,
    min_score: float = MIN_SCORE,
    max_frames: int | None = None,
    flip_test: bool = True,
    num_stages: int | None = None,
    dtype: Any = jnp.float32,
    decoding: str = "quarter",
    backend: str | None = None,
    track: bool = False,
    detect_every: int = 1,
    smooth: bool = False,
) -> People | Iterator[People]:
    """Finds the people of a picture, of pictures, of a video or of a camera.

        people = mspn_jax.find_people("street.jpg")
        for people in mspn_jax.find_people("walk.mp4"):
            ...

    The last model and the last detector stay in memory: a second call does not load them again.

    Args:
      source: one picture: the path of a file, an http(s) address, an (H, W, 3) uint8 RGB array, a
        PIL image. Several: a folder, a glob, a video, a camera's index, the address of a video or
        stream (http, https, rtsp), a list of any of these, or an iterable of arrays.
      model: a published name, or what `Predictor.load` takes, or a Predictor.
      detector: a published name, or what `Detector.load` takes, or a function image_rgb ->
        (boxes_xywh, scores). None: each picture is one person's box.
      boxes: (N, 4) x, y, width, height, or (N, 5) with a score, for every picture; or a mapping
        from file names to those; or a json file that `mspn predict --boxes` takes. No detector is
        loaded then.
      min_score: detected people with a lower `People.confidences` (0 to 1) are left out.
      max_frames: of each video or camera; None: all.
      flip_test, num_stages, dtype, decoding, backend: as in `Predictor.load`.
      track: give the people of a video `ids`. An iterable of arrays is a video, 25 frames a second.
      detect_every: detect people on every n-th frame; between, boxes follow the keypoints.
      smooth: smooth keypoints over time. It implies `track`, as does `detect_every` above 1.

    Returns:
      `People` for one picture; otherwise an iterator of `People`, one for each picture or frame. In
      the iterator, files that cannot be read are named in the log and passed over.

    Raises:
      DataError: there is no such source, or the one picture cannot be read.
      ValueError: `detect_every` is below 1, or above 1 without a detector.
    """
    if not isinstance(model, Predictor):
        network = dict(num_stages=num_stages, dtype=dtype, decoding=decoding, backend=backend)
        model = _predictor(os.fspath(model), flip_test, **network)
    if boxes is not None:
        detector = None
    elif isinstance(detector, str | os.PathLike):
        detector = _detector(os.fspath(detector))
    finder = PeopleFinder(model, detector, min_score=min_score)
    options = dict(track=track, detect_every=detect_every, smooth=smooth)
    return _in_any(finder, source, boxes, max_frames, options)


def _in_any(
    finder: PeopleFinder,
    source: Any,
    boxes: Boxes | None,
    max_frames: int | None,
    options: Mapping[str, Any],
) -> People | Iterator[People]:
    image = _as_image(source)
    if image is not None:
        return finder(image, boxes)
    stream = functools.partial(finder.stream, boxes=boxes, **options)
    if isinstance(source, str | os.PathLike | int):
        return _in_sources(stream, [source], max_frames)
    if isinstance(source, list | tuple) and all(
        isinstance(each, str | os.PathLike | int) for each in source
    ):
        return _in_sources(stream, source, max_frames)
    return stream(itertools.islice(_frames_of_images(source), max_frames))


def _in_sources(
    stream: Callable[..., Iterator[People]], given: Sequence[Any], max_frames: int | None
) -> People | Iterator[People]:
    texts = [os.fspath(each) if not isinstance(each, int) else str(each) for each in given]
    sources = find_sources(texts)
    is_one_picture = (
        len(given) == len(sources) == 1
        and sources[0].is_picture
        and (sources[0].file is None or os.path.isfile(texts[0]))
    )

    def pass_over(source: Source, why: str) -> None:
        if is_one_picture:
            raise DataError(f"{source.place}: {why}")
        log.warning("passed over: %s: %s", source.place, why)

    read = frames(sources, pass_over, max_frames)
    found = stream(read, together=together_for(sources))
    return next(found) if is_one_picture else found


def _frames_of_images(images: Iterable[Any]) -> Iterator[Frame]:
    for index, each in enumerate(images):
        image = _as_image(each)
        if image is None:
            raise TypeError(f"image {index} is a {type(each).__name__}, not an array or PIL image")
        yield Frame(Source("", ""), image, index)


def _as_image(source: Any) -> UInt8[np.ndarray, "H W 3"] | None:
    """The pixels of an array or of a PIL image; None for anything else."""
    if isinstance(source, np.ndarray):
        return source
    if type(source).__module__.startswith("PIL."):
        from PIL import ImageOps

        return np.asarray(ImageOps.exif_transpose(source).convert("RGB"))
    return None


@functools.lru_cache(maxsize=1)
def _predictor(model: str, flip_test: bool, **network: Any) -> Predictor:
    return Predictor.load(model, flip_test, **network)


@functools.lru_cache(maxsize=1)
def _detector(name: str) -> Detect:
    return load_detector(name)

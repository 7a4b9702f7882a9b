"""Finds people's keypoints: python predict.py --checkpoint PATH --source PICTURES --output DIR

PICTURES is a picture, a folder, a glob in quotes, a video, or the index of a camera. --source can
be repeated. Boxes come from --boxes FILE, --box x,y,width,height or --detector MODEL.onnx. Without
any of them each picture is one person's box.

Writes to DIR the annotated pictures and videos, keypoints.json (COCO's results format, with file
names) and keypoints.csv (one line per person). Files that cannot be read are named and skipped.
"""

import collections
import contextlib
import csv
import io
import json
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Float, UInt8
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mspn_jax import geometry
from mspn_jax.commands import program, stopping
from mspn_jax.data.person_boxes import PersonBoxes, parse_boxes, read_person_boxes
from mspn_jax.data.pictures import Frame, Source, count_frames, find_sources, frames
from mspn_jax.detector import Detector
from mspn_jax.drawing import annotate_people, write_picture
from mspn_jax.errors import UsageError
from mspn_jax.evaluation.scoring import coco_results
from mspn_jax.predictor import Predictor
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage import files, mirror, paths

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "a workdir (its best is taken), one step's folder, or convert.py's output",
    required=True,
)
_SOURCE = flags.DEFINE_multi_string(
    "source",
    None,
    "a picture, a folder, a glob in quotes, a video, or a camera's index",
    required=True,
)
_OUTPUT = flags.DEFINE_string("output", None, "a folder to write to, or gs://...", required=True)
_BOXES = flags.DEFINE_string(
    "boxes", None, "a json of people's boxes: COCO's detections or annotations, or plain lists"
)
_BOX = flags.DEFINE_multi_string("box", [], "x,y,width,height of a person, in every picture")
_DETECTOR = flags.DEFINE_string("detector", None, "a YOLOX .onnx that finds the people")
_MIN_BOX_SCORE = flags.DEFINE_float("min_box_score", 0.3, "leave out boxes with a lower score")
_STAGES = flags.DEFINE_integer("stages", None, "stop after so many; by default the last")
_FLIP_TEST = flags.DEFINE_bool("flip_test", True, "average with the mirrored; twice the work")
_BF16 = flags.DEFINE_bool("bf16", False, "compute in bfloat16")
_DRAW = flags.DEFINE_bool("draw", True, "write the pictures and videos, not only the numbers")
_MAX_FRAMES = flags.DEFINE_integer("max_frames", None, "of each video or camera", lower_bound=1)

TOGETHER = 4  # pictures whose people share batches; 1 for a camera, which must not lag
DEFAULT_PER_SECOND = 25.0  # of a written video, where the source does not say

log = logging.getLogger("mspn_jax")


def main() -> None:
    output = paths.path(_OUTPUT.value)
    sources = find_sources(_SOURCE.value)
    for source in sources:
        path = source.path
        if isinstance(path, pathlib.Path) and paths.absolute(output) in path.parents:
            raise UsageError(
                f"{path}: is in {output}, and could be written over; give another --output"
            )
    find_people = people_finder(sources)
    predictor = Predictor.load(
        _CHECKPOINT.value,
        _FLIP_TEST.value,
        num_stages=_STAGES.value,
        dtype=jnp.bfloat16 if _BF16.value else jnp.float32,
    )

    passed_over: list[Source] = []

    def pass_over(source: Source, why: str) -> None:
        passed_over.append(source)
        log.warning("passed over: %s: %s", source.path, why)

    counts = [count_frames(source) for source in sources]
    limit = _MAX_FRAMES.value
    total = None if None in counts else sum(min(count or 0, limit or 2**62) for count in counts)
    on_the_way: collections.deque[tuple[Frame, np.ndarray]] = collections.deque()
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stopping.stop_requests())
        folder = stack.enter_context(mirror.Mirror(output))
        results = stack.enter_context(Results(folder.local, predictor.skeleton))
        stack.enter_context(logging_redirect_tqdm([logging.getLogger("mspn_jax")]))
        bar = stack.enter_context(tqdm(total=total, unit="picture"))

        def pictures() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for frame in frames(sources, pass_over, limit):
                if stop.number:
                    return
                boxes = usable(frame, find_people(frame))
                on_the_way.append((frame, boxes))
                yield frame.image, boxes[:, :4]

        together = 1 if any(source.is_camera for source in sources) else TOGETHER
        for keypoints_image_xy, keypoint_scores in predictor.stream(pictures(), together):
            frame, boxes = on_the_way.popleft()
            results.add(frame, boxes, keypoints_image_xy, keypoint_scores)
            bar.update()
    log.info("%d people in %d pictures: %s", results.num_people, results.num_frames, output)
    if passed_over:
        log.warning("passed over, or not read to the end: %d of %d", len(passed_over), len(sources))
    if stop.number:
        stop.leave(stop.number, "what was done is written")
    if not results.num_frames:
        raise UsageError("no picture could be read")


def people_finder(sources: list[Source]) -> Callable[[Frame], Float[np.ndarray, "N 5"]]:
    """A function that returns a frame's boxes with scores."""
    ways = {"--boxes": _BOXES.value, "--box": _BOX.value, "--detector": _DETECTOR.value}
    given = [flag for flag, value in ways.items() if value]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)}: only one can say where people are")
    if _DETECTOR.value:
        try:
            detector = Detector(_DETECTOR.value, min_score=_MIN_BOX_SCORE.value)
        except ImportError:
            raise UsageError(
                "--detector needs onnxruntime: pip install 'mspn-jax[detect]'"
            ) from None
        return lambda frame: np.column_stack(detector(frame.image))
    if not given:
        log.info("no --boxes, --box or --detector: each picture is taken for one person's box")
        return lambda frame: np.array([(0, 0, *frame.image.shape[1::-1], 1)], np.float64)
    if _BOX.value:
        boxes = PersonBoxes({}, parse_boxes(_BOX.value, "--box"))
    else:
        boxes = read_person_boxes(_BOXES.value or "")
        if all(boxes.of(source.name) is None for source in sources):
            raise UsageError(
                f"{_BOXES.value}: has boxes of {len(boxes.by_picture)} pictures"
                f" ({', '.join(list(boxes.by_picture)[:3])}), but of none that was given, such as"
                f" {sources[0].name}"
            )

    def find(frame: Frame) -> Float[np.ndarray, "N 4"]:
        found = boxes.of(frame.source.name)
        if found is None:
            log.warning("%s: %s has no boxes for it", frame.source.name, _BOXES.value)
            return np.zeros((0, 5))
        return found

    return find


def usable(frame: Frame, boxes: Float[np.ndarray, "N 5"]) -> Float[np.ndarray, "N 5"]:
    """The boxes that score high enough and overlap the picture."""
    boxes = boxes[boxes[:, 4] >= _MIN_BOX_SCORE.value]
    height, width = frame.image.shape[:2]
    top_left, bottom_right = boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]
    inside = ((top_left < (width, height)) & (bottom_right > 0)).all(1)
    inside &= geometry.usable_boxes(boxes[:, :4])
    for box in boxes[~inside]:
        log.warning(
            "%s: left out box %s: it has no area in the picture of %d x %d",
            frame.source.name,
            ",".join(f"{x:g}" for x in box[:4]),
            width,
            height,
        )
    return boxes[inside]


class Results:
    """The files of --output, as a context. They are complete after every picture.

    The first picture replaces those of an earlier run.
    """

    def __init__(self, output: pathlib.Path, skeleton: Skeleton):
        self.output = output
        self.skeleton = skeleton
        self.num_people = self.num_frames = 0
        self._files = contextlib.ExitStack()
        self._video: Video | None = None

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *exception) -> None:
        with self._files:
            self._close_video()

    def _open(self) -> None:
        def listing(name: str, *ends: bytes) -> files.Listing:
            return self._files.enter_context(files.Listing(self.output / name, *ends))

        names = self.skeleton.keypoint_names
        columns = ["file_name", "frame", "person", "score", "box_x", "box_y", "box_w", "box_h"]
        columns += [f"{name}_{number}" for name in names for number in ("x", "y", "score")]
        self._json = listing("keypoints.json", b"[", b"\n]\n")
        self._csv = listing("keypoints.csv", csv_rows([columns]))

    def add(
        self,
        frame: Frame,
        boxes: Float[np.ndarray, "N 5"],
        keypoints_image_xy: Float[np.ndarray, "N K 2"],
        keypoint_scores: Float[np.ndarray, "N K"],
    ) -> None:
        """Writes a frame's people. Boxes have scores."""
        if not self.num_frames:
            self._open()
        self.num_frames += 1
        name, path = frame.source.name, pathlib.Path(frame.source.name)
        image_ids = np.full(len(boxes), int(path.stem) if path.stem.isdecimal() else 0)
        entries = coco_results(
            image_ids,
            geometry.boxes_xywh_to_xyxy(boxes[:, :4]),
            boxes[:, 4],
            keypoints_image_xy,
            keypoint_scores,
            boxes[:, 2:4].prod(1),
            self.skeleton,
        )
        people, rows = "", []
        for person, entry in enumerate(entries):
            if not (frame.source.is_picture and path.stem.isdecimal()):
                del entry["image_id"]  # COCO has none for it
            frame_index = {} if frame.source.is_picture else {"frame": frame.index}
            people += ",\n" if self.num_people else "\n"
            people += json.dumps({"file_name": name} | frame_index | entry)
            numbers = [entry["score"], *entry["bbox"], *entry["keypoints"]]
            rows.append([name, frame.index, person, *(f"{x:.6g}" for x in numbers)])
            self.num_people += 1
        self._json.add(people.encode())
        self._csv.add(csv_rows(rows))
        if _DRAW.value:
            drawn = annotate_people(frame.image, keypoints_image_xy, keypoint_scores, self.skeleton)
            self._write(frame, drawn)

    def _write(self, frame: Frame, image: UInt8[np.ndarray, "H W 3"]) -> None:
        path = self.output / frame.source.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if frame.source.is_picture:
            writable = cv2.haveImageWriter(str(path))
            write_picture(path if writable else path.with_name(f"{path.name}.jpg"), image)
            return
        if self._video is None or self._video.source is not frame.source:
            self._close_video()
            self._video = Video(path, frame, image.shape[1::-1])
        self._video.write(image)

    def _close_video(self) -> None:
        video, self._video = self._video, None
        if video is not None:
            video.close()


class Video:
    """A video that is written frame by frame, and appears when it is closed."""

    def __init__(self, path: pathlib.Path, first: Frame, size_wh: tuple[int, int]):
        self.source = first.source
        self.path = path if path.suffix == ".mp4" else path.with_name(f"{path.name}.mp4")
        self._stack, self._num_frames = contextlib.ExitStack(), 0
        self._partial = self._stack.enter_context(files.replaced(self.path))
        rate = first.per_second or DEFAULT_PER_SECOND
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._partial), codec, rate, size_wh)
        if not self._writer.isOpened():
            raise UsageError(f"{self.path}: OpenCV cannot write this video; try --nodraw")

    def write(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        self._writer.write(image[..., ::-1])
        self._num_frames += 1

    def close(self) -> None:
        """Raises UsageError if the file is incomplete: OpenCV does not report a full disk."""
        self._writer.release()
        with self._stack:
            written = int(cv2.VideoCapture(str(self._partial)).get(cv2.CAP_PROP_FRAME_COUNT))
            if written != self._num_frames:
                raise UsageError(
                    f"{self.path}: the video cannot be written whole: make room on the disk, and"
                    " run the same command again, or try --nodraw"
                )


def csv_rows(rows: list[list[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def command() -> None:
    """What `mspn predict` runs."""
    program.run(main)

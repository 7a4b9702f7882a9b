"""Tracks people while detector and network err: identity switches, and frames a second.

    python tests/stress/tracking.py [--videos 20] [--first_seed 0] [--detector FILE.onnx]

Identity switches, on drawn videos with known ids: the detector and the network are simulated from
the truth, as no network here is trained on these people. Boxes are 3% off, one in twelve is
missing, one frame in six has a false one, and hidden people are missing more often. Joints have an
OKS of about 0.86; hidden ones have less, or are those of the person in front. People are assigned
to the truth by OKS above 0.5, as in MOTA. A switch is a person whose id differs from the last one.
A clear sight is one where OKS to all others is below 0.3, and at least 60% of the person is visible
and inside the picture.

Frames a second, if --detector is given: from a drawn video's file to people, with that detector and
a tiny network. Both run, and what they find is replaced by the simulation.
"""

import argparse
import collections
import functools
import logging
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from benchmarks.report import Report, new_parser
from benchmarks.timing import in_turn, ratio, spread
from benchmarks.workload import new_network
from mspn_jax import Predictor
from mspn_jax.data.pictures import Frame, Source, find_sources, frames
from mspn_jax.detector import Detector
from mspn_jax.evaluation.similarity import keypoint_similarities
from mspn_jax.finder import PeopleFinder
from mspn_jax.following import Follower
from mspn_jax.geometry import intersections_over_union
from mspn_jax.people import People
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import walkers
from mspn_jax.synthetic.walkers import DrawnFrame
from mspn_jax.tracking import KEEP_S
from mspn_jax.weights.description import Description

SECONDS = 8
PICTURE_HW = (480, 640)
MISSED, FALSE = 1 / 12, 1 / 6
BOX_ERROR = 0.03  # standard deviation, as a share of the side; and a pixel
JOINT_ERROR = 0.4  # standard deviation of x and y, in OKS's own
SAME_OKS = 0.5
DETECT_EVERY = (1, 2, 10)
SMOOTHING = {"tracking": False, "tracking and smoothing": True}
WAYS: dict[str, dict[str, Any]] = {
    "detector and network": {},
    "and tracking": {"track": True},
    "and smoothing": {"track": True, "smooth": True},
    "tracking, detection on every 10th frame": {"track": True, "detect_every": 10},
}
CLEAR_OKS, CLEAR_SHARE = 0.3, 0.6  # a person whom OKS can tell from the others, and not hidden


class Simulated:
    """A detector and a network that know the truth, and err. Set `frame` to each frame.

    Attributes:
      skeleton: COCO's.
    """

    skeleton = COCO

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.frame: DrawnFrame

    def detect(self, image) -> tuple[np.ndarray, np.ndarray]:
        """Boxes with errors; (N, 4) and (N,)."""
        rng, truth = self.rng, self.frame
        seen = rng.random(len(truth.ids)) > MISSED + np.clip(0.6 - truth.seen_shares, 0, 1)
        boxes, shares = truth.boxes_xywh[seen], truth.seen_shares[seen]
        sides = boxes[:, [2, 3, 2, 3]]
        boxes = boxes + rng.normal(0, 1, boxes.shape) * (1 + BOX_ERROR * sides)
        scores = np.clip(rng.normal(0.5 + 0.4 * shares, 0.1), 0.3, 1)
        if rng.random() < FALSE:
            boxes = np.concatenate([boxes, rng.uniform((0, 0, 40, 80), (500, 300, 150, 300))[None]])
            scores = np.append(scores, rng.uniform(0.3, 0.6))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], 4)
        order = np.argsort(-scores)
        return boxes[order], scores[order]

    def __call__(self, image, boxes_xywh) -> tuple[np.ndarray, np.ndarray]:
        """Joints of the person who is most prominent in each box; (N, K, 2) and (N, K)."""
        rng, truth = self.rng, self.frame
        persons = [self._sight(person) for person in range(len(truth.ids))]
        overlaps = intersections_over_union(boxes_xywh, truth.boxes_xywh)
        shape = (len(boxes_xywh), COCO.num_keypoints)
        found_xy = boxes_xywh[:, None, :2] + rng.random((*shape, 2)) * boxes_xywh[:, None, 2:]
        scores = rng.uniform(0.5, 0.62, shape)
        for i, overlap in enumerate(overlaps):
            if overlap.max(initial=0) < 0.2:
                continue
            xy, found = persons[(overlap * (0.5 + truth.seen_shares)).argmax()]
            found_xy[i][found > 0] = xy[found > 0]
            scores[i] = np.where(found > 0, found, scores[i])
        return found_xy.astype(np.float32), scores.astype(np.float32)

    def _sight(self, person: int) -> tuple[np.ndarray, np.ndarray]:
        """What a network sees of a person: joints (K, 2) and scores (K,), 0 outside the picture."""
        rng, truth = self.rng, self.frame
        xy, visibility = truth.keypoints[person, :, :2], truth.keypoints[person, :, 2]
        overlap = intersections_over_union(truth.boxes_xywh[[person]], truth.boxes_xywh)[0]
        overlap[person] = 0
        is_hidden = visibility == 1
        if overlap.max() > 0.2:
            is_taken = is_hidden & (rng.random(len(xy)) < 0.3)
            xy = np.where(is_taken[:, None], truth.keypoints[overlap.argmax(), :, :2], xy)
        size = np.sqrt(truth.boxes_xywh[person, 2:].prod())
        deviations = JOINT_ERROR * 2 * np.array(COCO.oks_sigmas) * size * np.where(is_hidden, 2, 1)
        scores = rng.normal(np.where(is_hidden, 0.8, 1.2), 0.15).clip(0.5, 1.5)
        xy = xy + rng.normal(size=xy.shape) * deviations[:, None]
        return xy, np.where(visibility > 0, scores, 0)

    def stream(self, pictures, together):
        for image, boxes_xywh in pictures:
            yield self(image, boxes_xywh)


def play(drawn: list[DrawnFrame], network: Simulated) -> Iterator[Frame]:
    """The frames, one after the other; the simulation knows which."""
    for index, network.frame in enumerate(drawn):
        image = np.zeros((*PICTURE_HW, 3), np.uint8)
        yield Frame(Source("", "drawn.mp4"), image, index, network.frame.time_s)


class Count:
    """Switches of identity, as MOTA counts them, in one video or in several."""

    def __init__(self) -> None:
        self.found = self.missed = self.false = self.switches = 0
        self.clear_switches = self.after_absence = 0

    def start(self) -> None:
        """Begins a video."""
        self.last: dict[int, int] = {}  # of each true person
        self.last_clear: dict[int, tuple[int, float]] = {}

    def add(self, truth: DrawnFrame, people: People) -> None:
        xy = truth.keypoints[..., :2]
        oks = oks_to_truth(people.keypoints_image_xy.astype(float), truth)
        # The last frame's pairs stay, if they are still alike.
        again = people.ids[:, None] == [self.last.get(i, 0) for i in truth.ids.tolist()]
        sums = np.where(oks > SAME_OKS, oks + 10 * again, 0)
        pairs = [p for p in zip(*linear_sum_assignment(sums, maximize=True)) if sums[p]]
        of_others = oks_to_truth(xy, truth) - np.eye(len(xy))
        is_whole = (truth.keypoints[..., 2] > 0).mean(1) > CLEAR_SHARE
        is_whole &= truth.seen_shares > CLEAR_SHARE
        is_clear = is_whole & (of_others.max(1, initial=0) < CLEAR_OKS)
        for row, column in pairs:
            person, found = int(truth.ids[column]), int(people.ids[row])
            self.switches += self.last.get(person, found) != found
            self.last[person] = found
            if is_clear[column]:
                last, last_s = self.last_clear.get(person, (found, 0.0))
                is_long = truth.time_s - last_s > KEEP_S
                self.clear_switches += last != found and not is_long
                self.after_absence += last != found and is_long
                self.last_clear[person] = found, truth.time_s
        self.found += len(pairs)
        self.missed += len(truth.ids) - len(pairs)
        self.false += len(people) - len(pairs)


def oks_to_truth(xy: np.ndarray, truth: DrawnFrame) -> np.ndarray:
    """OKS of (N, K, 2) keypoints to each true person, over the true ones' joints in the picture."""
    areas, inside = truth.boxes_xywh[:, 2:].prod(1), truth.keypoints[..., 2] > 0
    of_keypoints = keypoint_similarities(xy, truth.keypoints[..., :2], areas, COCO.oks_sigmas)
    return (of_keypoints * inside).sum(-1) / np.maximum(1, inside.sum(-1))


def count_switches(report: Report, seeds: range, num_frames: int) -> None:
    for name, scene in walkers.SCENES.items():
        counts = {detect_every: Count() for detect_every in DETECT_EVERY}
        for seed in seeds:
            people = scene(np.random.default_rng(seed))
            drawn = list(walkers.draw_video(people, num_frames, seed=seed, picture_hw=PICTURE_HW))
            for detect_every, count in counts.items():
                follow(drawn, detect_every, seed, count)
        for detect_every, count in counts.items():
            report.row(
                scene=name,
                detect_every=detect_every,
                people=count.found + count.missed,
                missed=count.missed / (count.found + count.missed),
                false=count.false / max(1, count.found),
                switches=count.switches,
                between_clear_sights=count.clear_switches,
                new_id_after_absence=count.after_absence,
            )


def follow(drawn: list[DrawnFrame], detect_every: int, seed: int, count: Count) -> None:
    """Tracks the people of one video."""
    simulated = Simulated(seed)
    finder = PeopleFinder(simulated, simulated.detect)
    stream = finder.stream(
        play(drawn, simulated), together=1, track=True, detect_every=detect_every
    )
    count.start()
    for truth, people in zip(drawn, stream, strict=True):
        count.add(truth, people)


class Costly(Simulated):
    """A simulation that also runs a detector and a network, for their time."""

    def __init__(self, detector: Detector, predictor: Predictor):
        super().__init__(0)
        self._detector, self._predictor = detector, predictor

    def detect(self, image) -> tuple[np.ndarray, np.ndarray]:
        self._detector(image)
        return super().detect(image)

    def __call__(self, image, boxes_xywh) -> tuple[np.ndarray, np.ndarray]:
        self._predictor(image, boxes_xywh)
        return super().__call__(image, boxes_xywh)

    def stream(self, pictures, together):
        found: collections.deque = collections.deque()

        def watched():
            for image, boxes_xywh in pictures:
                found.append(Simulated.__call__(self, image, boxes_xywh))
                yield image, boxes_xywh

        for _ in self._predictor.stream(watched(), together):
            yield found.popleft()


def time_frames(report: Report, args: argparse.Namespace) -> None:
    """Frames a second of a video file, in turn: without tracking, with it, every 10th detected."""
    network = new_network(1, "float32", quick=True)
    names = ("num_stages", "num_keypoints", "blocks_per_unit", "stem_channels", "unit_channels")
    model = {name: getattr(network.model, name) for name in names}
    description = Description("random", model, COCO, network.crop_hw)
    predictor = Predictor(description, network.variables, flip_test=False)
    costly = Costly(Detector.load(args.detector), predictor)
    finder = PeopleFinder(costly, costly.detect)
    num_frames = 20 if args.quick else 150
    walking = walkers.together(np.random.default_rng(0))
    drawn = list(walkers.draw_video(walking, num_frames, picture_hw=PICTURE_HW))
    numbers = {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "walk.mp4"
        walkers.write_video(path, iter(drawn))
        sources = find_sources([str(path)])

        def read() -> Iterator[Frame]:
            for frame, costly.frame in zip(frames(sources, print), drawn):
                yield frame

        def run(name: str) -> None:
            numbers[name] = sum(map(len, finder.stream(read(), **WAYS[name])))

        seconds = in_turn({name: functools.partial(run, name) for name in WAYS}, args.repeats)
    for name, times in seconds.items():
        report.row(
            way=name,
            people_a_frame=numbers[name] / num_frames,
            frames_per_s=spread([num_frames / t for t in times]),
            over_the_first=ratio(next(iter(seconds.values())), times),
        )


def time_tracker(report: Report, drawn: list[DrawnFrame], repeats: int) -> None:
    """The tracker's own time."""
    simulated = Simulated(0)
    finder = PeopleFinder(simulated, simulated.detect)
    found = list(finder.stream(play(drawn, simulated), together=1))

    def run(smooth: bool) -> None:
        follower = Follower(COCO, smooth=smooth)
        for people in found:
            follower.name(people)

    ways = {name: functools.partial(run, smooth) for name, smooth in SMOOTHING.items()}
    for name, times in in_turn(ways, repeats).items():
        milliseconds = spread([1000 * t / len(found) for t in times])
        number = sum(map(len, found)) / len(found)
        report.row(way=name, milliseconds_a_frame=milliseconds, people_a_frame=number)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--videos", type=int, default=20, help="of each scene")
    parser.add_argument("--first_seed", type=int, default=0, help="of the first video")
    parser.add_argument("--detector", help="a name or an .onnx file, for the frames a second")
    args = parser.parse_args()
    logging.getLogger("mspn_jax").setLevel(logging.ERROR)  # boxes outside the picture
    report = Report(args.json)
    num_frames = 20 if args.quick else SECONDS * walkers.PER_SECOND
    seeds = range(args.first_seed, args.first_seed + args.videos)
    count_switches(report, seeds, num_frames)
    people = walkers.returning(np.random.default_rng(0))
    time_tracker(report, list(walkers.draw_video(people, num_frames)), args.repeats)
    if args.detector:
        time_frames(report, args)


if __name__ == "__main__":
    main()

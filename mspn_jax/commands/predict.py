"""Finds people's keypoints: mspn predict SOURCE... [--model mspn50] [--output runs/predict]

SOURCE is a picture, a folder, a glob, a video, the index of a camera, or an address (http, https,
rtsp). A detector finds the people, unless --boxes FILE, --box x,y,width,height or --whole_picture
says where they are.

Writes to the output folder the annotated pictures and videos, keypoints.json (COCO's results
format, with file names) and keypoints.csv (one line per person). Files that cannot be read are
named and skipped.
"""

import contextlib
import itertools
import logging
import pathlib
from collections.abc import Iterator

from absl import flags
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mspn_jax import finder
from mspn_jax.commands import finder_flags, stopping
from mspn_jax.data.person_boxes import PersonBoxes, parse_boxes, read_person_boxes
from mspn_jax.data.pictures import Frame, Source, count_frames, find_sources, frames
from mspn_jax.errors import UsageError
from mspn_jax.live_page import LivePage
from mspn_jax.people_files import PeopleFiles
from mspn_jax.storage import mirror, paths

flags.adopt_module_key_flags(finder_flags)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "the same as --model")
_SOURCE = flags.DEFINE_multi_string("source", [], "the same as SOURCE")
_OUTPUT = flags.DEFINE_string(
    "output", None, "a folder, or gs://...; by default runs/predict, then runs/predict2, ..."
)
_BOXES = flags.DEFINE_string(
    "boxes", None, "a json of people's boxes: COCO's detections or annotations, or plain lists"
)
_BOX = flags.DEFINE_multi_string("box", [], "x,y,width,height of a person, in every picture")
_WHOLE_PICTURE = flags.DEFINE_bool("whole_picture", False, "each picture is one person's box")
_DRAW = flags.DEFINE_bool("draw", True, "write the pictures and videos, not only the numbers")
_SHOW = flags.DEFINE_bool("show", False, "show the pictures in a browser as they come")
_TRACK = flags.DEFINE_bool("track", False, "give the people of each video ids")
_DETECT_EVERY = flags.DEFINE_integer(
    "detect_every",
    1,
    "detect people on every n-th frame of a video; between, boxes follow the keypoints. Above 1 it"
    " implies --track",
    lower_bound=1,
)
_SMOOTH = flags.DEFINE_bool("smooth", False, "smooth keypoints over time; implies --track")
_MAX_FRAMES = flags.DEFINE_integer("max_frames", None, "of each video or camera", lower_bound=1)

log = logging.getLogger("mspn_jax")


def main(words: list[str]) -> None:
    given = [*words, *_SOURCE.value]
    if not given:
        raise UsageError("name a picture, a folder, a video or a camera: mspn predict photo.jpg")
    sources = find_sources(given)
    output = paths.path(_OUTPUT.value) if _OUTPUT.value else free_folder("runs/predict")
    check_apart(sources, output)
    boxes = boxes_of_flags(sources)
    has_detector = boxes is None and not _WHOLE_PICTURE.value
    if not has_detector:
        finder_flags.refuse_detector_flags()
    people_finder = finder_flags.load_finder(_CHECKPOINT.value, has_detector=has_detector)
    passed_over: list[Source] = []

    def pass_over(source: Source, why: str) -> None:
        passed_over.append(source)
        log.warning("passed over: %s: %s", source.place, why)

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(mirror.Mirror(output))
        skeleton = people_finder.predictor.skeleton
        written = stack.enter_context(PeopleFiles(folder.local, skeleton, sources))
        stop = stack.enter_context(stopping.stop_requests(lambda: not written.num_frames))
        page = stack.enter_context(LivePage()) if _SHOW.value else None
        if page:
            log.info("the pictures are shown at %s", page.address)
            page.open_browser()
        bar = stack.enter_context(progress(sources))

        def read() -> Iterator[Frame]:
            for frame in frames(sources, pass_over, _MAX_FRAMES.value):
                if stop.number:
                    return
                yield frame

        stream = people_finder.stream(
            read(),
            boxes,
            together=finder.together_for(sources),
            track=_TRACK.value,
            detect_every=_DETECT_EVERY.value,
            smooth=_SMOOTH.value,
        )
        for people in stream:
            annotated = people.draw() if _DRAW.value or page else None
            written.add(people, annotated if _DRAW.value else None)
            if page and annotated is not None:
                page.show(annotated)
            bar.update()
    if passed_over:
        log.warning("passed over, or not read to the end: %d of %d", len(passed_over), len(sources))
    if not written.num_frames and not stop.number:
        raise UsageError("no picture could be read")
    log.info("%d people in %d pictures: %s", written.num_people, written.num_frames, output)
    if stop.number:
        stop.leave(stop.number, "what was done is written")


def free_folder(name: str) -> pathlib.Path:
    """The name, or the first of name2, name3, ... that does not exist."""
    names = itertools.chain([name], (f"{name}{number}" for number in itertools.count(2)))
    return next(path for path in map(pathlib.Path, names) if not path.exists())


def check_apart(sources: list[Source], output: paths.Path) -> None:
    """Refuses an output folder that has a source in it."""
    for source in sources:
        if source.file and paths.absolute(output) in source.file.parents:
            raise UsageError(
                f"{source.file}: is in {output}, and could be written over; give another --output"
            )


def boxes_of_flags(sources: list[Source]) -> PersonBoxes | None:
    """The boxes of --boxes or --box; None without these flags."""
    ways = {
        "--boxes": _BOXES.value,
        "--box": _BOX.value,
        "--detector": flags.FLAGS["detector"].present,
        "--whole_picture": _WHOLE_PICTURE.value,
    }
    given = [flag for flag, value in ways.items() if value]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)}: only one can say where people are")
    if _DETECT_EVERY.value > 1 and given and given != ["--detector"]:
        raise UsageError(f"--detect_every: needs a detector, and {given[0]} says where people are")
    if _BOXES.value:
        boxes = read_person_boxes(_BOXES.value)
    elif _BOX.value:
        boxes = PersonBoxes({}, parse_boxes(_BOX.value, "--box"))
    else:
        return None
    if all(boxes.of(source.name) is None for source in sources):
        raise UsageError(
            f"{_BOXES.value}: has boxes of {len(boxes.by_picture)} pictures"
            f" ({', '.join(list(boxes.by_picture)[:3])}), but of none that was given, such as"
            f" {sources[0].name}"
        )
    return boxes.above(finder_flags.MIN_BOX_SCORE.value)


@contextlib.contextmanager
def progress(sources: list[Source]) -> Iterator[tqdm]:
    """A bar that counts pictures. Log lines are printed above it."""
    counts = [count_frames(source) for source in sources]
    limit = _MAX_FRAMES.value or 2**62
    total = None if None in counts else sum(min(count or 0, limit) for count in counts)
    # The logger's lines also go to the root's handler, which would print them a second time.
    log.propagate = False
    try:
        with logging_redirect_tqdm([log]), tqdm(total=total, unit="picture") as bar:
            yield bar
    finally:
        log.propagate = True

"""docs/own_data.md: its files and its messages are the real ones."""

import json
import logging
import pathlib
import re
import shutil

import numpy as np
import pytest

from mspn_jax import skeletons
from mspn_jax.commands import configured
from mspn_jax.data import coco, evaluation_set, records
from mspn_jax.data.validator import read_annotations
from mspn_jax.errors import DataError, SkeletonError
from mspn_jax.evaluation import scoring
from mspn_jax.evaluation.results import coco_results
from mspn_jax.synthetic import animals, coco_files
from mspn_jax.synthetic.animals import QUADRUPED

HERE = pathlib.Path(__file__).parents[1]
PAGE = (HERE / "docs" / "own_data.md").read_text()
SPLIT = "train2017"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("drawn")
    coco_files.write(root, {SPLIT: 24}, animals.ANIMALS)
    return root


@pytest.fixture
def root(drawn, tmp_path) -> pathlib.Path:
    """A copy to make mistakes in."""
    shutil.copytree(drawn, tmp_path / "animals")
    return tmp_path / "animals"


def content_of(root) -> dict:
    return json.loads(coco.annotation_file(root, SPLIT).read_text())


# ----------------------------------------------------------------------------- the drawn animals


def test_animals_are_annotated_where_they_are(drawn):
    for picture in read_annotations(root=drawn, split=SPLIT, skeleton=QUADRUPED).pictures():
        for box, keypoints, visibility in zip(
            picture.boxes_xywh, picture.keypoints_image_xy, picture.visibility
        ):
            seen = keypoints[visibility == 2]
            assert (seen >= box[:2] - 1).all() and (seen <= box[:2] + box[2:] + 1).all()


def test_left_is_the_far_side_of_who_faces_right():
    """The limbs on the viewer's side are in front of the others, and so are seen more often."""
    seen = {True: np.zeros(11), False: np.zeros(11)}
    for i in range(60):
        _, annotations = animals.draw_picture(np.random.default_rng(i), (240, 320))
        for annotation in annotations:
            nose, _, tail = triples = np.reshape(annotation["keypoints"], (-1, 3))[[0, 1, 2]]
            if triples[:, 2].all():
                visibility = np.reshape(annotation["keypoints"], (-1, 3))[:, 2]
                seen[bool(nose[0] > tail[0])] += visibility == 2
    names = QUADRUPED.keypoint_names
    left = [names.index(n) for n in ("left_front_knee", "left_hind_knee")]
    right = [names.index(n) for n in ("right_front_knee", "right_hind_knee")]
    assert seen[True][right].sum() > 1.2 * seen[True][left].sum()
    assert seen[False][left].sum() > 1.2 * seen[False][right].sum()


# --------------------------------------------------------------------------- the files it shows


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_skeleton_file_shown_is_the_animals():
    shown = [json.loads(block) for block in fenced("json")]
    assert skeletons.Skeleton.from_json(shown[-1]) == QUADRUPED


def test_the_config_shown_is_the_animals():
    (shown,) = fenced("python")
    config = (HERE / "configs" / "animals.py").read_text()
    assert shown.strip() == config[config.index("from mspn_jax.configs") :].strip()


def test_the_annotations_shown_are_enough(root):
    """The json of the page, and nothing else, is read, made records of, and scored."""
    shown = json.loads(fenced("json")[0])
    (image,) = shown["images"]
    shown["images"] = [i for i in content_of(root)["images"] if i["id"] == image["id"]]
    assert shown["images"] == [image]
    coco.annotation_file(root, SPLIT).write_text(json.dumps(shown))
    dataset = evaluation_set.open_split(root=root, split=SPLIT, skeleton=QUADRUPED)
    assert len(dataset.boxes) == 1 and dataset.annotations.category_id == 7
    records.open_records(root=root, split=SPLIT, skeleton=QUADRUPED, only_with_people=True)
    truth = np.reshape(shown["annotations"][0]["keypoints"], (1, 11, 3))
    boxes = dataset.boxes
    results = coco_results(
        boxes.image_ids,
        boxes.boxes_xyxy,
        boxes.scores,
        truth[..., :2],
        np.ones((1, 11)),
        np.ones(1),
        QUADRUPED,
        category_id=dataset.annotations.category_id,
    )
    metrics, _ = scoring.coco_metrics(dataset.annotations, results, QUADRUPED)
    assert metrics["AP"] == pytest.approx(1)


# ----------------------------------------------------------------------------------- mistakes


def everyone(change):
    """A mistake made in every annotation."""

    def make(root):
        content = content_of(root)
        for annotation in content["annotations"]:
            change(annotation, content)
        coco.annotation_file(root, SPLIT).write_text(json.dumps(content))
        read_annotations(root=root, split=SPLIT, skeleton=QUADRUPED).pictures()

    return make


def swap_axes(annotation, content):
    triples = np.reshape(annotation["keypoints"], (-1, 3))
    annotation["keypoints"] = triples[:, [1, 0, 2]].ravel().tolist()


def corners(annotation, content):
    x, y, w, h = annotation["bbox"]
    annotation["bbox"] = [x, y, x + w, y + h]


def fractions(annotation, content):
    wh = np.array([320, 240])
    triples = np.reshape(annotation["keypoints"], (-1, 3))
    triples[:, :2] /= wh
    annotation["keypoints"] = triples.ravel().tolist()
    annotation["bbox"] = (np.reshape(annotation["bbox"], (2, 2)) / wh).ravel().tolist()


def other_order(annotation, content):
    names = content["categories"][0]["keypoints"]
    names[3:7] = ["left_front_paw", "left_front_knee", "right_front_paw", "right_front_knee"]


def skeleton_with(**changes):
    def make(root):
        path = root / "quadruped.json"
        path.write_text(json.dumps(QUADRUPED.to_json() | changes))
        configured.skeleton_named(str(path))

    return make


NUMBERED = [f"point_{k}" for k in range(11)]
MISTAKES = {
    "picture ids": everyone(lambda a, c: a.update(image_id=a["image_id"] % 1000)),
    "picture ids that are no numbers": everyone(
        lambda a, c: [i.update(id=i["file_name"]) for i in c["images"]]
    ),
    "zero areas": everyone(lambda a, c: a.update(area=0)),
    "category": everyone(lambda a, c: a.update(category_id=1)),
    "swapped axes": everyone(swap_axes),
    "corners": everyone(corners),
    "fractions": everyone(fractions),
    "other order": everyone(other_order),
    "COCO's skeleton": lambda root: read_annotations(
        root=root, split=SPLIT, skeleton=skeletons.COCO
    ).pictures(),
    "fewer keypoints": everyone(lambda a, c: a.update(keypoints=a["keypoints"][:27])),
    "too few sigmas": skeleton_with(oks_sigmas=[0.05]),
    "unknown limb": skeleton_with(limbs=[["nose", "tail"]]),
    "one side only": skeleton_with(
        keypoint_names=[*QUADRUPED.keypoint_names[:-1], "hind_paw"], limbs=[]
    ),
    "no sides": skeleton_with(keypoint_names=NUMBERED, limbs=[], upper_body=[]),
}


def normalised(text: str) -> str:
    return " ".join(re.sub(r"\d+(\.\d+)?", "N", text).split())


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_message_shown_for_a_mistake_is_the_real_one(mistake, root, caplog):
    with caplog.at_level(logging.INFO, "mspn_jax"):
        try:
            MISTAKES[mistake](root)
            (said,) = {record.getMessage() for record in caplog.records}
        except (DataError, SkeletonError) as error:
            said = f"error: {error}"
    said = said.replace(str(root), "data/animals")
    print(f"\n[{mistake}]\n{said}")
    assert "\n" not in said
    assert normalised(said) in normalised(PAGE)


def test_what_is_said_where_nobody_is_found(root):
    dataset = evaluation_set.open_split(root=root, split=SPLIT, skeleton=QUADRUPED)
    boxes, count = dataset.boxes, len(dataset.boxes)

    def said(image_ids, keypoints) -> str:
        results = coco_results(
            image_ids,
            boxes.boxes_xyxy,
            boxes.scores,
            keypoints,
            np.ones((count, 11)),
            np.ones(count),
            QUADRUPED,
            category_id=dataset.annotations.category_id,
        )
        return scoring.how_far_off(dataset, results)

    far = said(boxes.image_ids, np.zeros((count, 11, 2)))
    assert f"AP N: {normalised(far)}" in normalised(PAGE)
    everyone = [a for a in content_of(root)["annotations"] if a["num_keypoints"]]
    triples = np.reshape([a["keypoints"] for a in everyone], (-1, 11, 3))
    ids = np.array([a["image_id"] for a in everyone])
    roots = np.sqrt([a["area"] for a in everyone])[:, None]
    beside = np.dstack([triples[..., 0] + 0.3 * roots, triples[..., 1]])
    assert "are 0.30 of sqrt(area) off, in the median of 44 people" in said(ids, beside)
    assert said(ids + 1000, beside).startswith("no result is on a picture that has people")

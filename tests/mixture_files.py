"""Two drawn data sets, one with COCO's keypoints and one with others."""

import itertools
import json
import pathlib

import numpy as np

from mspn_jax.skeletons import COCO, Skeleton
from mspn_jax.synthetic import people

SPLIT = "train2017"
# Another data set's keypoints: in another order, without some of COCO's, with some new ones.
OTHER_NAMES = (
    "right_ankle",
    "left_ankle",
    "head_top",
    "nose",
    "left_wrist",
    "right_wrist",
    "right_hip",
    "left_hip",
    "neck",
)
OTHERS = Skeleton("others", OTHER_NAMES, (), (0.05,) * len(OTHER_NAMES))


def write(root: pathlib.Path, other: pathlib.Path) -> None:
    """Drawn people, and others with `OTHER_NAMES`."""
    people.write_dataset(root, {SPLIT: 30, "val2017": 6})
    people.write_dataset(other, {SPLIT: 20}, seed=1)
    rename(other, OTHER_NAMES)


def rename(root: pathlib.Path, names: tuple[str, ...]) -> None:
    """Gives drawn people keypoints of these names; those that COCO lacks lie at (k, 2 k)."""
    for split in (SPLIT, "val2017"):
        path = root / "annotations" / f"person_keypoints_{split}.json"
        if not path.exists():
            continue
        content = json.loads(path.read_text())
        content["categories"][0].update(keypoints=list(names), skeleton=[])
        for annotation in content["annotations"]:
            triples = np.reshape(annotation["keypoints"], (17, 3)).tolist()
            triples = [
                triples[COCO.keypoint_names.index(name)]
                if name in COCO.keypoint_names
                else [k, 2 * k, 2 * (not annotation["iscrowd"])]
                for k, name in enumerate(names)
            ]
            annotation["keypoints"] = list(itertools.chain(*triples))
            annotation["num_keypoints"] = sum(v > 0 for _, _, v in triples)
        path.write_text(json.dumps(content))

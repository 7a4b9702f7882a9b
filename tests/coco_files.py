"""COCO's json of drawn people, read and changed by hand."""

import json
import pathlib

from mspn_jax.data import coco
from mspn_jax.skeletons import COCO

SPLIT = "train2017"  # of the fixtures `drawn` and `drawn_copy`


def edit(root: pathlib.Path, change) -> None:
    path = coco.annotation_file(root, SPLIT)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def first_person(content) -> dict:
    return next(a for a in content["annotations"] if a["num_keypoints"] and not a["iscrowd"])


def read(root, **arguments):
    return coco.read_pictures(root, SPLIT, COCO, **arguments)

"""Reads and edits COCO's json of drawn people."""

import json
import pathlib

from mspn_jax.data import coco
from mspn_jax.data.annotations import Picture
from mspn_jax.data.validator import read_annotations
from mspn_jax.skeletons import COCO

SPLIT = "train2017"  # of the fixtures `drawn` and `drawn_copy`


def edit(root: pathlib.Path, change) -> None:
    path = coco.annotation_file(root, SPLIT)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def first_person(content) -> dict:
    return next(a for a in content["annotations"] if a["num_keypoints"] and not a["iscrowd"])


def read(root, first_people: int = 0, split: str = SPLIT, skeleton=COCO) -> list[Picture]:
    annotations = read_annotations(root=root, split=split, skeleton=skeleton)
    return annotations.first_people(first_people).pictures(only_with_people=first_people > 0)

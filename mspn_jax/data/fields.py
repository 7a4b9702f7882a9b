"""What COCO's objects must hold: the fields of images, categories, annotations and detections."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mspn_jax.data.coco import PERSON
from mspn_jax.data.schema import (
    Field,
    Findings,
    flag,
    lists_of_texts,
    number,
    numbers,
    read_columns,
    texts,
    whole,
)
from mspn_jax.skeletons import Skeleton

PIXELS = 100_000  # the longest side of a picture; COCO ignores people larger than its square
LARGEST_SCORE = 1e9


def _is_inside(file_name: str) -> bool:
    """Whether a file name is a relative path that stays below its folder."""
    try:
        file_name.encode()
    except UnicodeEncodeError:
        return False
    parts = file_name.split("/")
    return parts[0] != "" and ".." not in parts and "\0" not in file_name


IMAGE = (
    Field("id", "a whole number", whole),
    Field("file_name", "a path within the split's folder", texts(_is_inside)),
    Field("height", "a whole number of pixels, 1 or more", whole, low=1, high=PIXELS),
    Field("width", "a whole number of pixels, 1 or more", whole, low=1, high=PIXELS),
    # CrowdPose's; NaN where it is left out
    Field("crowdIndex", "a number from 0 to 1,000", number, default=None, low=0, high=1000),
)
BOX = Field(
    "bbox",
    f"x, y, width, height: 4 numbers in pixels, at most {PIXELS:,}",
    numbers(4),
    low=-PIXELS,
    high=PIXELS,
)
IS_CROWD = Field("iscrowd", "0 or 1", flag, default=0, low=0, high=1)
AREA = Field(
    "area",
    f"square pixels: a number from 0 to {PIXELS**2:,}",
    number,
    default=0,
    low=0,
    high=PIXELS**2,
    remedy="Without an area the box's is used",
)
HEAD_SIZE = Field(
    "head_size",
    f"the length that PCKh is measured in: a number of pixels, from 0 to {PIXELS:,}",
    number,
    default=0,
    low=0,
    high=PIXELS,
)
CLIP_BOXES = Field("clip_boxes", "true or false, in 'info'", flag, default=1, low=0, high=1)
CATEGORY = (
    Field("id", "a whole number", whole),
    Field("keypoints", "a list of names", lists_of_texts, default=[]),
)
CATEGORY_ID = Field("category_id", "a whole number, the id of a category", whole)
IMAGE_OF = Field("image_id", "a whole number, the id of an image", whole)
IDS = (Field("id", "a whole number", whole), IMAGE_OF, CATEGORY_ID)
# Boxes that are not finite are left out of detections, and so are such scores.
DETECTION = (
    IMAGE_OF,
    Field("bbox", "x, y, width, height: 4 numbers, in pixels", numbers(4)),
    Field("score", "a number", number),
)
# Boxes for prediction may leave out the category and the score.
ANY_CATEGORY_ID = dataclasses.replace(CATEGORY_ID, default=PERSON)
SCORE = Field("score", "a finite number", number, default=1, low=-LARGEST_SCORE, high=LARGEST_SCORE)
IMAGE_ID = Field("image_id", "a whole number, or else a file_name", whole)
FILE_NAME = Field("file_name", "the name of a picture's file", texts())


def clips_boxes(content: Mapping[str, Any], findings: Findings) -> bool:
    """Whether a json's annotated boxes are clipped to their pictures, as COCO's are.

    A json whose `info` has `"clip_boxes": false` keeps them: MPII's are squares around a person,
    which say how large the person is.
    """
    info = content.get("info")
    columns, _ = read_columns([info if type(info) is dict else {}], [CLIP_BOXES], "", findings)
    return bool(columns["clip_boxes"][0])


def keypoints_field(skeleton: Skeleton) -> Field:
    """Keypoints of a skeleton; those that are not labelled may be null or not finite."""
    count = skeleton.num_keypoints
    return Field(
        "keypoints",
        f"one list of 3 x {count} numbers: x, y, v of each keypoint of skeleton {skeleton.name!r}",
        numbers(3 * count),
        remedy="Keypoints are in COCO's person_keypoints json, not in its instances json;"
        " config.skeleton names the data's skeleton",
    )

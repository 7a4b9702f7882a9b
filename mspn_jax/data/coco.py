"""COCO's layout: where a split's json and pictures are, and reading a json."""

import contextlib
import gc
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mspn_jax.errors import DataError
from mspn_jax.storage import files, mirror, paths

PERSON = 1  # COCO's category id, for files that name no category with keypoints
SKELETON_FILE = "skeleton.json"  # of the root, for an empty config.skeleton
# What draws the data of the configs that need no download.
_DRAWN = {
    "data/synthetic": "mspn_jax.synthetic.people",
    "data/animals": "mspn_jax.synthetic.animals",
}
LAYOUT = (
    "annotations/person_keypoints_<split>.json, and the pictures in <split>/, images/<split>/ or"
    " images/"
)
DATA_SET = "ROOT:SPLIT:WEIGHT"
LARGEST_WEIGHT = 1000  # more is a mistake


class DataSet(NamedTuple):
    """A split to train on.

    Attributes:
      root: a folder in COCO's layout.
      weight: how often an epoch shows each person. 0.5 shows half of them, and the next epoch the
        others.
    """

    root: str
    split: str
    weight: float = 1.0

    def __str__(self) -> str:
        return f"{self.root}:{self.split}"

    @classmethod
    def parse(cls, text: str) -> "DataSet":
        """A data set of a text in `DATA_SET`. The root may hold colons.

        Raises:
          ValueError: another form, or the weight is not more than 0 and at most `LARGEST_WEIGHT`.
        """
        root, split, weight = text.rsplit(":", 2)
        if not root or not split or not 0 < float(weight) <= LARGEST_WEIGHT:
            raise ValueError(f"{text!r}: not {DATA_SET}")
        return cls(root, split, float(weight))


def annotation_file(root: str | os.PathLike, split: str) -> pathlib.Path:
    """The split's json: person_keypoints, or image_info for a split without annotations (test-dev).

    For a root in a bucket it is the copy on this disk.

    Raises:
      DataError: the folder or the json does not exist.
      StorageError: the bucket refuses or does not answer.
    """
    root = paths.path(root)
    with paths.named(root):
        path = _annotation_file(root, split)
    return mirror.fetched(path)


def _annotation_file(root: paths.Path, split: str) -> paths.Path:
    if not paths.is_folder(root):
        if drawn := _DRAWN.get(os.fspath(root)):
            raise DataError(
                f"{root}: no such folder. `python -m {drawn}` draws what belongs there; the config"
                " names the folder relative to where the command is started"
            )
        raise DataError(
            f"{root}: no such folder. COCO 2017 is 19 GB: train2017.zip, val2017.zip and"
            " annotations_trainval2017.zip of images.cocodataset.org, unpacked there (the commands"
            f" are in docs/coco.md) to have COCO's layout, {LAYOUT}; --config.data.root names"
            " another place"
        )
    for kind in ("person_keypoints", "image_info"):
        path = root / "annotations" / f"{kind}_{split}.json"
        if path.is_file():
            return path
    found = sorted(
        path.stem.removeprefix("person_keypoints_")
        for path in root.glob("annotations/person_keypoints_*.json")
    )
    raise DataError(
        f"{root}/annotations/person_keypoints_{split}.json: no such file;"
        f" splits found there: {', '.join(found) or 'none'}"
    )


def picture_folder(root: str | os.PathLike, split: str) -> paths.Path:
    """The folder that a split's file names start from: the first of `LAYOUT` that exists.

    Where none exists it is <split>/, for messages.

    Raises:
      StorageError: the bucket refuses or does not answer.
    """
    root = paths.path(root)
    folders = (root / split, root / "images" / split, root / "images")
    return next((folder for folder in folders if paths.is_folder(folder)), folders[0])


def missing_files(folder: paths.Path, names: Sequence[str]) -> list[str]:
    """Those of the names that are no file in the folder."""
    if isinstance(folder, pathlib.Path):
        return [name for name in names if files.size(folder / name) is None]
    if not paths.is_folder(folder):
        return list(names)
    with paths.named(folder):
        there = {path.name for path in folder.iterdir()}
        return [n for n in names if n not in there and not ("/" in n and (folder / n).exists())]


_kept: dict[str, Any] | None = None  # what `load_json` keeps, by its path


@contextlib.contextmanager
def parsed_once() -> Iterator[None]:
    """In this context what `load_json` keeps is not parsed again."""
    global _kept
    _kept = {}
    try:
        yield
    finally:
        _kept = None


def load_json(path: str | os.PathLike, *, keep: bool = False) -> Any:
    """A json file's content.

    Args:
      keep: for the next call with this path, within `parsed_once`. That one gets the same objects,
        and they are kept no longer: those of COCO's train take gigabytes.

    Raises:
      DataError: the file cannot be read, or is not json.
    """
    if _kept is None:
        return _parsed(path)
    name = os.fspath(path)
    content = _kept.pop(name) if name in _kept else _parsed(path)
    if keep:
        _kept[name] = content
    return content


def _parsed(path: str | os.PathLike) -> Any:
    try:
        with open(mirror.fetched(path), "rb") as file, no_garbage_collection():
            return json.load(file)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except RecursionError:
        raise DataError(f"{path}: lists or objects are nested too deeply for COCO's json") from None
    except ValueError as error:
        raise DataError(f"{path}: not json ({error}). Download or write it again") from None


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """While a json of millions of objects is read: the collector would visit them again and
    again, and they have no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

"""A split's records: a TFDS data set of array_record files, made on first use.

A record is one picture, as encoded bytes. The people that can be learnt from are columns in one
file beside the records, which is read whole, so that crops are chosen before any picture is read.
The records' name holds a hash of the json and of the keypoints' names: another json makes other
records.
"""

import contextlib
import dataclasses
import hashlib
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Int

from mspn_jax.data import builder
from mspn_jax.data.annotations import Annotations
from mspn_jax.data.builder import CocoPersonKeypoints
from mspn_jax.data.coco import annotation_file, picture_folder
from mspn_jax.data.rows import Rows
from mspn_jax.data.schema import some
from mspn_jax.data.validator import read_annotations
from mspn_jax.errors import DataError
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage import download, files, mirror, paths

log = logging.getLogger(__name__)

WHOLE = "dataset_info.json"  # TFDS moves records to their place once they are complete


@dataclasses.dataclass(frozen=True)
class Records:
    """A split's records, open for reading at random.

    Attributes:
      folder: where they are kept; None if they are of several folders.
      source: record index -> {"image": encoded bytes, "image_id", "file_name"}.
      image_ids: of every record.
      image_hw: of every record's picture, as decoded.
      num_people: of every record.
      people: of all records, in their order.
      unreadable: "file: reason" of every picture that could not be decoded and has no record.
    """

    folder: pathlib.Path | None
    source: Sequence[dict[str, Any]]
    image_ids: Int[np.ndarray, "N"]
    image_hw: Int[np.ndarray, "N 2"]
    num_people: Int[np.ndarray, "N"]
    people: "PeopleColumns"
    unreadable: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class PeopleColumns(Rows):
    """N people, a row each.

    Attributes:
      boxes_xyxy: image pixels, as `Annotations.boxes_xyxy`.
      keypoints_image_xy: image pixels.
      visibility: COCO's 0 not labelled, 1 hidden, 2 visible.
    """

    boxes_xyxy: Float[np.ndarray, "N 4"]
    keypoints_image_xy: Float[np.ndarray, "N K 2"]
    visibility: Float[np.ndarray, "N K"]


def open_records(
    *,
    root: str | os.PathLike,
    split: str,
    skeleton: Skeleton,
    first_people: int = 0,
    records_dir: str | os.PathLike = "",
    only_with_people: bool = False,
    annotations: Annotations | None = None,
) -> Records:
    """Opens a split's records, and makes them first if there are none of this json yet.

    Processes that ask at the same time wait for the one that builds. Interrupted records are made
    again; complete ones are never changed. Pictures in a bucket are copied to this disk first.

    Args:
      root: a folder in COCO's layout.
      first_people: keep only that many people, the first in the order of the file, and their
        pictures; 0 keeps all.
      records_dir: where to keep records; by default `root`/records, or the user's cache if the
        root cannot be written. If it is in a bucket, records found there are copied to this
        disk, and others made here are copied there.
      only_with_people: leave out pictures with nobody to learn from.
      annotations: the split's, if they are read already.

    Raises:
      DataError: json or pictures are missing or damaged, or there is no room for the records.
      StorageError: the bucket refuses or does not answer, or there is no room for the copies.
    """
    folder = picture_folder(root, split)
    file = annotation_file(root, split)
    names = "\n".join(skeleton.keypoint_names).encode()
    digest = hashlib.blake2b(file.read_bytes() + names, digest_size=4).hexdigest()
    chosen = f"first{first_people}" if first_people else "people" if only_with_people else "all"
    name = f"{split}-{skeleton.name}-{chosen}-{digest}"
    data_dir = _records_dir(root, records_dir)
    place = pathlib.Path(CocoPersonKeypoints.name) / name / str(CocoPersonKeypoints.VERSION)
    path, kept = data_dir / place, paths.path(records_dir or paths.path(root) / "records") / place

    held = f"another process is making the records of {split}"
    with files.locked(data_dir / f"{name}.lock", held):
        was_kept = _fetch(kept)
        if not (path / WHOLE).exists():
            if annotations is None:
                annotations = read_annotations(root=root, split=split, skeleton=skeleton)
            if only_with_people and not annotations.is_person.any():
                raise DataError(f"{file}: nobody in it to learn from: no annotations")
            pictures = annotations.first_people(first_people).pictures(
                only_with_people=only_with_people or first_people > 0
            )
            count = skeleton.num_keypoints
            builder.make(folder, pictures, num_keypoints=count, name=name, data_dir=data_dir)
        if paths.in_bucket(records_dir) and not was_kept:
            log.info("copying records of %s to %s", split, kept)
            mirror.send(path, kept, last=WHOLE)
    return _opened(path, folder)


def _fetch(kept: paths.Path) -> bool:
    """Copies a folder of records from a bucket to this disk, if it is one and is whole there."""
    if isinstance(kept, pathlib.Path):
        return False
    with paths.named(kept):
        is_whole = (kept / WHOLE).exists()
    if is_whole:
        mirror.fetched(kept)
    return is_whole


def _opened(path: pathlib.Path, folder: paths.Path) -> Records:
    """The records in `path`. Warns of the folder's pictures that have none, or another size."""
    with _damage_named(path):
        with builder.quiet_tfds():
            made = tfds.builder_from_directory(path)
        left_out = made.info.metadata
        with np.load(path / CocoPersonKeypoints.COLUMNS) as file:
            columns = dict(file)
        names = [field.name for field in dataclasses.fields(PeopleColumns)]
        people = PeopleColumns(**{name: columns.pop(name) for name in names})
    if other_size := left_out["other_size"]:
        log.warning(
            "%s: %d pictures have another size than the json says, so that their keypoints may"
            " lie elsewhere: id %s",
            folder,
            len(other_size),
            some(other_size),
        )
    if unreadable := left_out["unreadable"]:
        log.warning("%s: %d pictures cannot be read: %s", folder, len(unreadable), some(unreadable))
    source = made.as_data_source(
        split=CocoPersonKeypoints.SPLIT, decoders={"image": tfds.decode.SkipDecoding()}
    )
    return Records(
        folder=path,
        source=_Source(path, source),
        people=people,
        unreadable=tuple(unreadable),
        **columns,
    )


@contextlib.contextmanager
def _damage_named(folder: pathlib.Path) -> Iterator[None]:
    """Raises every error of reading a folder's files as DataError: the records are damaged."""
    try:
        yield
    except Exception as error:  # a checksum, a truncated file, a missing one ...
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{folder}: its records are damaged ({reason:.200}): delete that folder, and they are"
            " made again"
        ) from None


@dataclasses.dataclass(frozen=True)
class _Source(Sequence):
    """TFDS's source of a folder of records."""

    folder: pathlib.Path
    records: Any

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index):
        with _damage_named(self.folder):
            return self.records[index]


def _records_dir(root: str | os.PathLike, records_dir: str | os.PathLike) -> pathlib.Path:
    """The first of the places for records that can be written."""
    tried = []
    for place in _places(root, records_dir):
        tried.append(str(place))
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK):
            return place
    raise DataError(
        f"no place to write records: tried {', '.join(tried)};"
        " name one with config.data.records_dir"
    )


def _places(root: str | os.PathLike, records_dir: str | os.PathLike) -> Iterator[pathlib.Path]:
    if records_dir:
        yield mirror.place_of(records_dir)
        return
    yield mirror.place_of(root) / "records"
    yield download.home() / "records"

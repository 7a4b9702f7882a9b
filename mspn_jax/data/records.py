"""The records made of a split on first use: a TFDS data set of array_record files.

One record a picture, its encoded bytes. The people in them that can be learnt from are columns of
one file beside, which is read whole: what to cut is settled before a picture is opened. The name
of the records holds a hash of the json and of the keypoints' names, so that another json makes
other records; later runs only open them.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import logging
import multiprocessing.pool
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from jaxtyping import Float, Int
from tqdm import tqdm

from mspn_jax import geometry
from mspn_jax.crops import decode_picture
from mspn_jax.data.coco import LAYOUT, Picture, annotation_file, read_pictures, some
from mspn_jax.errors import DataError
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage import mirror, paths

log = logging.getLogger(__name__)

WHOLE = "dataset_info.json"  # TFDS moves records to their place when all are there


@dataclasses.dataclass(frozen=True)
class Records:
    """A split's records, open for reading at random.

    Attributes:
      source: record index -> {"image": encoded bytes, "image_id", "file_name"}.
      image_ids: of every record.
      image_hw: of every record's picture, as decoded.
      num_people: of every record.
      people: of all records, in their order.
      unreadable: "file: reason" of every picture that could not be decoded and has no record.
    """

    source: Sequence[dict[str, Any]]
    image_ids: Int[np.ndarray, "N"]
    image_hw: Int[np.ndarray, "N 2"]
    num_people: Int[np.ndarray, "N"]
    people: "People"
    unreadable: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class People:
    """N people, a row each.

    Attributes:
      boxes_xyxy: image pixels, clipped to the picture.
      keypoints_image_xy: image pixels.
      visibility: COCO's 0 not labelled, 1 hidden, 2 visible.
    """

    boxes_xyxy: Float[np.ndarray, "N 4"]
    keypoints_image_xy: Float[np.ndarray, "N K 2"]
    visibility: Float[np.ndarray, "N K"]


class CocoPersonKeypoints(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder. `name` tells what the records were made of, by a hash of the json."""

    VERSION = tfds.core.Version("2.0.0")
    SPLIT = "pictures"
    COLUMNS = "people.npz"

    def __init__(
        self, *, name: str, folder: pathlib.Path, pictures: list[Picture],
        num_keypoints: int, data_dir: str,
    ):  # fmt: skip
        self.folder = folder
        self.pictures = pictures
        self.num_keypoints = num_keypoints
        self.left_out = tfds.core.MetadataDict(unreadable=[], other_size=[])
        config = tfds.core.BuilderConfig(name=name, description="")
        super().__init__(data_dir=data_dir, config=config, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        return tfds.core.DatasetInfo(
            builder=self,
            description="COCO person keypoints, one record a picture.",
            features=features.FeaturesDict({
                "image": features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "image_id": np.int64,
                "file_name": features.Text(),
            }),
            disable_shuffling=True,  # records stay in the json's order
            metadata=self.left_out,
        )  # fmt: skip

    def _split_generators(self, dl_manager):
        return {self.SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        paths = [str(self.folder / picture.file_name) for picture in self.pictures]
        kept, image_hw = [], []
        with multiprocessing.pool.ThreadPool() as pool:
            checks = pool.imap(check_picture, paths, chunksize=8)
            progress = tqdm(paths, desc=f"records of {self.folder.name}", unit=" pictures")
            for i, (picture, path, check) in enumerate(zip(self.pictures, progress, checks)):
                if isinstance(check, DataError):
                    self.left_out["unreadable"].append(f"{path}: {check}")
                    continue
                if check != picture.image_hw:
                    self.left_out["other_size"].append(picture.image_id)
                kept.append(picture)
                image_hw.append(check)
                yield i, {
                    "image": path, "image_id": picture.image_id, "file_name": picture.file_name
                }  # fmt: skip
        self._write_columns(kept, image_hw)

    def _write_columns(self, pictures: list[Picture], image_hw: list[tuple[int, int]]) -> None:
        def column(of_picture, row_shape: tuple[int, ...], dtype) -> np.ndarray:
            return np.concatenate(
                [np.zeros((0, *row_shape), dtype), *map(of_picture, pictures)], dtype=dtype
            )

        num_keypoints = self.num_keypoints
        with open(self.data_path / self.COLUMNS, "xb") as file:
            np.savez(
                file,
                image_ids=np.array([p.image_id for p in pictures], np.int64),
                image_hw=np.array(image_hw, np.int64).reshape(-1, 2),
                num_people=np.array([len(p.annotation_ids) for p in pictures], np.int64),
                boxes_xyxy=column(
                    lambda p: geometry.clip_boxes(p.boxes_xywh, p.image_hw), (4,), np.float32
                ),
                keypoints_image_xy=column(
                    lambda p: p.keypoints_image_xy, (num_keypoints, 2), np.float32
                ),
                visibility=column(lambda p: p.visibility, (num_keypoints,), np.float32),
            )


def check_picture(path: str) -> tuple[int, int] | DataError:
    """(height, width) of a picture file, or why it cannot be decoded whole."""
    try:
        return decode_picture(pathlib.Path(path).read_bytes()).shape[:2]
    except DataError as error:
        return error
    except OSError as error:
        return DataError(error.strerror)


def open_records(
    root: str | os.PathLike,
    split: str,
    skeleton: Skeleton,
    records_dir: str | os.PathLike = "",
    first_people: int = 0,
    only_with_people: bool = False,
) -> Records:
    """Opens a split's records, and makes them first where there are none of this json yet.

    Processes that ask at the same time wait for the one that builds. What was interrupted is
    made again; what is whole is never touched. Of a root in a bucket, the pictures that records
    are made of are copied to this disk first.

    Args:
      root: a folder in COCO's layout.
      records_dir: where to keep records; by default `root`/records, or the user's cache where
        the root cannot be written. If it is in a bucket, records found there are copied to this
        disk, and others made here are copied there.
      first_people: as in `read_pictures`.
      only_with_people: leave out pictures with nobody to learn from.

    Raises:
      DataError: json or pictures are missing or damaged, or there is no room for the records.
      StorageError: the bucket refuses or does not answer, or there is no room for the copies.
    """
    folder = paths.path(root) / split
    annotations = annotation_file(root, split)
    names = "\n".join(skeleton.keypoint_names).encode()
    digest = hashlib.blake2b(annotations.read_bytes() + names, digest_size=4).hexdigest()
    chosen = f"first{first_people}" if first_people else "people" if only_with_people else "all"
    name = f"{split}-{skeleton.name}-{chosen}-{digest}"
    data_dir = _records_dir(root, records_dir)
    place = pathlib.Path(CocoPersonKeypoints.name) / name / str(CocoPersonKeypoints.VERSION)
    path, kept = data_dir / place, paths.path(records_dir or folder.parent / "records") / place

    with open(data_dir / f"{name}.lock", "w") as lock:
        _lock(lock, f"records of {split}")
        was_kept = _fetch(kept)
        if not (path / WHOLE).exists():
            pictures = read_pictures(root, split, skeleton, first_people)
            if only_with_people:
                pictures = [picture for picture in pictures if len(picture.annotation_ids)]
                if not pictures:
                    raise DataError(f"{annotations}: nobody in it to learn from: no annotations")
            _make(name, folder, pictures, skeleton.num_keypoints, data_dir)
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


def _make(
    name: str, folder: paths.Path, pictures: list[Picture], num_keypoints: int,
    data_dir: pathlib.Path,
) -> None:  # fmt: skip
    """Makes the records of a folder's pictures; what an interrupted run left is deleted first."""
    try:
        local = mirror.fetched(folder, {picture.file_name for picture in pictures})
    except FileNotFoundError:
        raise DataError(f"{folder}: no such folder of pictures. data.root needs {LAYOUT}") from None
    num_bytes = _check_files(local, pictures, data_dir)
    for leftover in (data_dir / CocoPersonKeypoints.name / name).glob("*incomplete*"):
        shutil.rmtree(leftover)
    log.info(
        "making records of %d pictures (%.1f GB) in %s", len(pictures), num_bytes / 1e9, data_dir
    )
    with _quiet_tfds():
        CocoPersonKeypoints(
            name=name, folder=local, pictures=pictures, num_keypoints=num_keypoints,
            data_dir=str(data_dir),
        ).download_and_prepare()  # fmt: skip


def _opened(path: pathlib.Path, folder: paths.Path) -> Records:
    """The records in `path`, and a word on those of the folder's pictures that have none."""
    with _quiet_tfds():
        builder = tfds.builder_from_directory(path)
    index = builder.info.metadata
    if index["other_size"]:
        log.warning(
            "%s: %d pictures have another size than the json says, so that their keypoints may"
            " lie elsewhere: id %s", folder, len(index["other_size"]), some(index["other_size"]),
        )  # fmt: skip
    if index["unreadable"]:
        log.warning(
            "%s: %d pictures cannot be read: %s",
            folder, len(index["unreadable"]), some(index["unreadable"]),
        )  # fmt: skip
    with _damage_named(path), np.load(path / CocoPersonKeypoints.COLUMNS) as file:
        columns = dict(file)
    people = {field.name: columns.pop(field.name) for field in dataclasses.fields(People)}
    source = builder.as_data_source(
        split=CocoPersonKeypoints.SPLIT, decoders={"image": tfds.decode.SkipDecoding()}
    )
    return Records(
        source=_Source(path, source),
        people=People(**people),
        unreadable=tuple(index["unreadable"]),
        **columns,
    )


@contextlib.contextmanager
def _damage_named(folder: pathlib.Path):
    """Whatever is raised by the files of a folder of records is said to be damage in it."""
    try:
        yield
    except Exception as error:  # of a checksum, of a cut file, of one that is gone ...
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


@contextlib.contextmanager
def _quiet_tfds():
    """TFDS speaks of downloads and unregistered configs; the records' own messages say enough."""
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(verbosity)


def _records_dir(root, records_dir) -> pathlib.Path:
    """The first of the places for records that can be written."""
    places = [mirror.place_of(records_dir)] if records_dir else [
        mirror.place_of(root) / "records", mirror.cache_folder() / "records",
    ]  # fmt: skip
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK):
            return place
    raise DataError(
        f"no place to write records: tried {', '.join(map(str, places))};"
        " name one with config.data.records_dir"
    )


def _lock(file, what: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("another process is making the %s: waiting for it", what)
        fcntl.flock(file, fcntl.LOCK_EX)


def _check_files(folder: pathlib.Path, pictures: list[Picture], data_dir: pathlib.Path) -> int:
    """The pictures' bytes, after a look at whether all are there and would fit in `data_dir`."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of pictures. data.root needs {LAYOUT}")
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    missing = [picture.file_name for picture in pictures if picture.file_name not in sizes]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {len(pictures)} pictures are missing"
            f" ({some(missing)}): unpack the split's pictures there"
        )
    num_bytes = sum(sizes[picture.file_name] for picture in pictures)
    free = shutil.disk_usage(data_dir).free
    if free < 1.05 * num_bytes:
        raise DataError(
            f"{data_dir}: {free / 1e9:.1f} GB free but records take {num_bytes / 1e9:.1f} GB;"
            " make room or name another place with config.data.records_dir"
        )
    return num_bytes

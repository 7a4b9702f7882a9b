"""Pictures and their people -> array_record files and columns: a TFDS builder."""

import contextlib
import io
import logging
import multiprocessing.pool
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from jaxtyping import Float
from tqdm import tqdm

from mspn_jax.crops import decode_picture
from mspn_jax.data.annotations import Picture
from mspn_jax.data.coco import LAYOUT
from mspn_jax.data.schema import some
from mspn_jax.errors import DataError
from mspn_jax.storage import files, mirror, paths

log = logging.getLogger(__name__)


class CocoPersonKeypoints(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder. Its config's name identifies the records."""

    VERSION = tfds.core.Version("2.0.0")
    SPLIT = "pictures"
    COLUMNS = "people.npz"

    def __init__(
        self,
        folder: pathlib.Path,
        pictures: list[Picture],
        num_keypoints: int,
        *,
        name: str,
        data_dir: str,
    ):
        self.folder, self.pictures, self.num_keypoints = folder, pictures, num_keypoints
        self.left_out = tfds.core.MetadataDict(unreadable=[], other_size=[])
        config = tfds.core.BuilderConfig(name=name, description="")
        super().__init__(data_dir=data_dir, config=config, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        columns = {
            "image": features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "image_id": np.int64,
            "file_name": features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="COCO person keypoints, one record a picture.",
            features=features.FeaturesDict(columns),
            disable_shuffling=True,  # records stay in the json's order
            metadata=self.left_out,
        )

    def _split_generators(self, dl_manager):
        return {self.SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        pictures, folder = self.pictures, self.folder
        paths = [str(folder / picture.file_name) for picture in pictures]
        kept, image_hw = [], []
        with multiprocessing.pool.ThreadPool() as pool:
            checks = pool.imap(measure_picture, paths, chunksize=8)
            progress = tqdm(paths, desc=f"records of {folder.name}", unit=" pictures")
            for i, (picture, path, check) in enumerate(zip(pictures, progress, checks)):
                if isinstance(check, DataError):
                    self.left_out["unreadable"].append(f"{path}: {check}")
                    continue
                if check != picture.image_hw:
                    self.left_out["other_size"].append(picture.image_id)
                kept.append(picture)
                image_hw.append(check)
                names = {"image_id": picture.image_id, "file_name": picture.file_name}
                yield i, {"image": path, **names}
        self._write_columns(kept, image_hw)

    def _write_columns(self, pictures: list[Picture], image_hw: list[tuple[int, int]]) -> None:
        def column(of_picture, *row_shape: int) -> Float[np.ndarray, "N ..."]:
            blank = np.zeros((0, *row_shape), np.float32)
            return np.concatenate([blank, *map(of_picture, pictures)], dtype=np.float32)

        count = self.num_keypoints
        columns: dict[str, Any] = {
            "image_ids": np.array([p.image_id for p in pictures], np.int64),
            "image_hw": np.array(image_hw, np.int64).reshape(-1, 2),
            "num_people": np.array([len(p.annotation_ids) for p in pictures], np.int64),
            "boxes_xyxy": column(lambda p: p.boxes_xyxy, 4),
            "keypoints_image_xy": column(lambda p: p.keypoints_image_xy, count, 2),
            "visibility": column(lambda p: p.visibility, count),
        }
        path = pathlib.Path(self.data_path) / self.COLUMNS
        with files.replaced(path) as partial, open(partial, "wb") as file:
            np.savez(file, **columns)


def measure_picture(path: str) -> tuple[int, int] | DataError:
    """(height, width) of a picture file, or why it cannot be decoded completely."""
    try:
        height, width, _ = decode_picture(pathlib.Path(path).read_bytes()).shape
        return height, width
    except DataError as error:
        return error
    except OSError as error:
        return DataError(error.strerror)


def make(
    folder: paths.Path,
    pictures: list[Picture],
    *,
    num_keypoints: int,
    name: str,
    data_dir: pathlib.Path,
) -> None:
    """Makes the records of a folder's pictures; what an interrupted run left is deleted first."""
    if not paths.is_folder(folder):
        raise DataError(f"{folder}: no such folder of pictures. data.root needs {LAYOUT}")
    local = mirror.fetched(folder, {picture.file_name for picture in pictures})
    num_bytes = _check_files(local, pictures, data_dir)
    _remove_incomplete(data_dir / CocoPersonKeypoints.name / name)
    log.info(
        "making records of %d pictures (%.1f GB) in %s", len(pictures), num_bytes / 1e9, data_dir
    )
    try:
        with quiet_tfds():
            made = CocoPersonKeypoints(
                local, pictures, num_keypoints, name=name, data_dir=str(data_dir)
            )
            made.download_and_prepare()
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError on a full disk
        _remove_incomplete(data_dir / CocoPersonKeypoints.name / name)
        reason = "no space left" if "No space left" in str(error) else f"{error}".partition("\n")[0]
        raise DataError(
            f"{data_dir}: records cannot be written ({reason}); make room or name another place"
            " with config.data.records_dir"
        ) from None


def _remove_incomplete(folder: pathlib.Path) -> None:
    for leftover in folder.glob("*incomplete*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _check_files(folder: pathlib.Path, pictures: list[Picture], data_dir: pathlib.Path) -> int:
    """The pictures' size in bytes, after a check that all exist and fit in `data_dir`."""
    sizes = {p.file_name: files.size(folder / p.file_name) for p in pictures}
    missing = [name for name, size in sizes.items() if size is None]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {len(pictures)} pictures are missing"
            f" ({some(missing)}): unpack the split's pictures there"
        )
    num_bytes = sum(size for size in sizes.values() if size is not None)
    free = shutil.disk_usage(data_dir).free
    if free < 1.05 * num_bytes:
        raise DataError(
            f"{data_dir}: {free / 1e9:.1f} GB free but records take {num_bytes / 1e9:.1f} GB;"
            " make room or name another place with config.data.records_dir"
        )
    return num_bytes


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Silences TFDS, which logs downloads and unregistered configs."""
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(verbosity)

"""Records -> batches of crops for training, and the chunks that evaluation shares.

People are read in chunks of several batches. Within a chunk each picture is decoded once, by a
pool of threads, and every person is warped directly into their row of a batch. A chunk is a pure
function of its number (and, in training, of the seed): a run resumes at any step, with any number
of threads, and processes share the work.

Threads instead of worker processes: OpenCV releases the GIL, and crops are not copied between
processes. At most `_CHUNKS_AHEAD` + 2 chunks of some `CHUNK_PEOPLE` crops are in memory (147 KB for
a crop of 256x192).
"""

import concurrent.futures
import dataclasses
import math
import os
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import cv2
import grain.python as grain
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from mspn_jax import allocator
from mspn_jax.crops import cut, decode_picture
from mspn_jax.data import augment
from mspn_jax.data.order import Order, Share
from mspn_jax.data.records import Records
from mspn_jax.skeletons import Skeleton

CHUNK_PEOPLE = 1024  # so many that chunk edges split far less than 1% of the pictures
_MIN_BATCHES_PER_CHUNK = 4  # so that the people of one picture are in different batches
_CHUNKS_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class TrainingBatch:
    """Crops and their keypoints; B is this process's share of the global batch.

    Attributes:
      crops: RGB.
      keypoints_crop_xy: crop pixels.
      visibility: COCO's 0, 1, 2.
    """

    crops: UInt8[np.ndarray, "B H W 3"]
    keypoints_crop_xy: Float[np.ndarray, "B K 2"]
    visibility: Float[np.ndarray, "B K"]


def num_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Chunks(grain.RandomAccessDataSource):
    """Chunk number -> its batches. Subclasses choose whom to crop, and how."""

    def __init__(self, records: Records, crop_hw: tuple[int, int], num_threads: int):
        self.records = records
        self.crop_hw = crop_hw
        # Threads work on different pictures; OpenCV's own threads would compete with them.
        cv2.setNumThreads(1)
        allocator.keep_freed_memory()
        self._pool = concurrent.futures.ThreadPoolExecutor(num_threads or num_cores())

    def __repr__(self) -> str:  # grain compares it when it restores an iterator
        return f"{type(self).__name__}({len(self.records.image_ids)} pictures)"

    def cut_all(
        self,
        record_of_row: Int[np.ndarray, "N"],
        image_to_crop: Float[np.ndarray, "N 2 3"],
        mirrored: Bool[np.ndarray, "N"],
        crops: Iterable[UInt8[np.ndarray, "H W 3"]],
        color: Float[np.ndarray, "N 4"] | None = None,
    ) -> None:
        """Cuts every row's crop; a picture of consecutive rows is decoded once.

        Args:
          color: as in `Augmentation`; None changes no colors.
        """
        places = list(crops)
        starts = np.flatnonzero(np.diff(record_of_row, prepend=-1))
        ends = np.append(starts[1:], len(record_of_row))
        recolored: dict[int, Float[np.ndarray, "3 4"]] = {}
        if color is not None:
            rows = np.flatnonzero((color != augment.SAME_COLORS).any(1))
            recolored = dict(zip(rows.tolist(), augment.color_matrices(color[rows])))

        def cut_picture(start: int, end: int) -> None:
            record = self.records.source[int(record_of_row[start])]
            image = decode_picture(record["image"])
            for row in range(start, end):
                cut(image, image_to_crop[row], mirrored[row], places[row])
                if row in recolored:
                    cv2.transform(places[row], recolored[row], dst=places[row])

        for _ in self._pool.map(cut_picture, starts.tolist(), ends.tolist()):
            pass


class TrainingChunks(Chunks):
    """The endless stream of people, in the order of `order`, in chunks.

    Chunk c of C batches of B starts at position c * C * B of the stream: batches straddle epochs,
    and nobody is dropped, repeated or padded. Position i within a chunk goes to row i // C of batch
    i % C. So the people of a picture are in different batches, and neighbouring rows, which one
    process cuts, hold people of the same pictures.

    Args:
      batch_size: of all processes together.
      padding: size of the region over the box's.
      process, num_processes: whose rows of the batch to read.
      num_threads: threads that decode and warp; 0 for one a core.
      shares: of the data sets that the records are of, if there are several (`Order`).

    Raises:
      ValueError: the batch does not divide among the processes, or the records have no people.
    """

    def __init__(
        self,
        records: Records,
        skeleton: Skeleton,
        *,
        crop_hw: tuple[int, int],
        batch_size: int,
        settings: augment.Settings = augment.Settings(),
        padding: float = 1.25,
        seed: int = 0,
        process: int = 0,
        num_processes: int = 1,
        num_threads: int = 0,
        shares: Sequence[Share] = (),
    ):
        if batch_size % num_processes:
            raise ValueError(
                f"batch of {batch_size} does not divide among {num_processes} processes"
            )
        if not records.num_people.sum():
            raise ValueError("there are no people in these records to train on")
        super().__init__(records, crop_hw, num_threads)
        self.skeleton = skeleton
        self.settings = settings
        self.padding = padding
        self.order = Order(records, skeleton, settings, seed, shares)
        self.batches_per_chunk = max(_MIN_BATCHES_PER_CHUNK, math.ceil(CHUNK_PEOPLE / batch_size))
        self.people_per_chunk = self.batches_per_chunk * batch_size
        share = batch_size // num_processes
        self.rows = range(process * share, (process + 1) * share)

    def __len__(self) -> int:
        return 2**62  # endless: the training loop counts steps

    def __getitem__(self, chunk: int) -> list[TrainingBatch]:
        num_batches, num_rows = self.batches_per_chunk, len(self.rows)
        start = chunk * self.people_per_chunk + self.rows.start * num_batches
        people = self.order.take(start, start + num_rows * num_batches)
        everyone = self.records.people
        image_to_crop, keypoints, visibility = augment.apply(
            people.augmentation,
            everyone.keypoints_image_xy[people.rows],
            everyone.visibility[people.rows],
            everyone.boxes_xyxy[people.rows],
            padding=self.padding,
            image_width=self.records.image_hw[people.records, 1],
            crop_hw=self.crop_hw,
            flip_permutation=self.skeleton.flip_permutation,
            half_body_padding=self.settings.half_body_padding,
        )
        crops = np.empty((num_batches, num_rows, *self.crop_hw, 3), np.uint8)
        places = (crops[i % num_batches, i // num_batches] for i in range(len(people)))
        how = people.augmentation
        self.cut_all(people.records, image_to_crop, how.flip, places, how.color)
        return [
            TrainingBatch(crops[i], keypoints[i::num_batches], visibility[i::num_batches])
            for i in range(num_batches)
        ]


def training_batches(
    records: Records, skeleton: Skeleton, *, first_step: int = 0, **options: Any
) -> Generator[TrainingBatch, None, None]:
    """The batches of steps `first_step`, `first_step + 1`, ..., endlessly.

    Each is a pure function of (seed, step), for any number of threads.

    Args:
      options: those of `TrainingChunks`.
    """
    chunks = TrainingChunks(records, skeleton, **options)
    first_chunk, skip = divmod(first_step, chunks.batches_per_chunk)
    for batches in read_ahead(chunks, first_chunk):
        yield from batches[skip:]
        skip = 0


def read_ahead(chunks: Chunks, first: int) -> Generator[Any, None, None]:
    """The chunks from `first` on; a background thread cuts a few ahead."""
    options = grain.ReadOptions(num_threads=_CHUNKS_AHEAD, prefetch_buffer_size=_CHUNKS_AHEAD)
    iterator = iter(grain.MapDataset.source(chunks)[first:].to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()

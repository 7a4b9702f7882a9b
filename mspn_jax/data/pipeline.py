"""Records -> batches of crops for training, and for evaluation the chunks that it shares.

People are read in chunks of several batches. A chunk is cut whole: each of its pictures is decoded
once, by a pool of threads, and every person warped straight into the place in the batch that is
theirs. A chunk is a pure function of its number (and, in training, of the seed), so that a run can
resume anywhere, with any number of threads, and several processes can share the work.

Threads, not worker processes: OpenCV works without the GIL, and crops need not be copied between
processes. Memory: at most `_CHUNKS_AHEAD` + 2 chunks of some `CHUNK_PEOPLE` crops each (147 KB a
crop of 256x192) exist at once.
"""

import concurrent.futures
import dataclasses
import functools
import math
import os
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import cv2
import grain.python as grain
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from mspn_jax import allocator
from mspn_jax.crops import cut, decode_picture
from mspn_jax.data import augment
from mspn_jax.data.records import Records
from mspn_jax.skeletons import Skeleton

Array = np.ndarray

CHUNK_PEOPLE = 1024  # of these, the pictures cut by a chunk's edges are far below 1%
_MIN_BATCHES_PER_CHUNK = 4  # so that the people of one picture go to different batches
_CHUNKS_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class TrainingBatch:
    """Crops and their keypoints; `B` is this process's share of the global batch.

    Attributes:
      crops: RGB.
      keypoints_crop_xy: crop pixels.
      visibility: COCO's 0, 1, 2.
    """

    crops: UInt8[Array, "B H W 3"]
    keypoints_crop_xy: Float[Array, "B K 2"]
    visibility: Float[Array, "B K"]


# ---------------------------------------------------------------------------------- cutting


def num_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Chunks(grain.RandomAccessDataSource):
    """Chunk number -> its batches. Whom to cut, and how, is for the subclasses to say."""

    def __init__(self, records: Records, crop_hw: tuple[int, int], num_threads: int):
        self.records = records
        self.crop_hw = crop_hw
        # The threads are over pictures: OpenCV's own would only get in the way.
        cv2.setNumThreads(1)
        allocator.keep_freed_memory()
        self._pool = concurrent.futures.ThreadPoolExecutor(num_threads or num_cores())

    def __repr__(self) -> str:  # grain compares it when it restores an iterator
        return f"{type(self).__name__}({len(self.records.image_ids)} pictures)"

    def cut_all(
        self,
        record_of_row: Int[Array, "N"],
        image_to_crop: Float[Array, "N 2 3"],
        mirrored: Bool[Array, "N"],
        crops: Iterable[UInt8[Array, "H W 3"]],
    ) -> None:
        """Cuts every row into its place; of neighbours in one picture, the picture is read once."""
        places = list(crops)
        starts = np.flatnonzero(np.diff(record_of_row, prepend=-1))
        ends = np.append(starts[1:], len(record_of_row))

        def cut_picture(start: int, end: int) -> None:
            record = self.records.source[int(record_of_row[start])]
            image = decode_picture(record["image"])
            for row in range(start, end):
                cut(image, image_to_crop[row], mirrored[row], places[row])

        for _ in self._pool.map(cut_picture, starts.tolist(), ends.tolist()):
            pass


# --------------------------------------------------------------------------------- training


class TrainingChunks(Chunks):
    """The endless stream of people, epoch after epoch, in chunks.

    An epoch is a permutation of the pictures, the people of each in their order, and an
    augmentation of everyone. The people of all epochs make one stream, and chunk c the stretch of
    it from c * C * B on: batch straddles epoch, and nobody is dropped, repeated or padded. Within a
    chunk of C batches the stream's position i goes to batch i % C, row i // C: the people of a
    picture go to different batches, and rows near each other, which one process cuts, hold people
    of the same pictures.
    """

    def __init__(
        self, records, skeleton: Skeleton, *, crop_hw, batch_size: int, settings: augment.Settings,
        padding: float, seed: int, process: int, num_processes: int, num_threads: int,
    ):  # fmt: skip
        super().__init__(records, crop_hw, num_threads)
        self.skeleton = skeleton
        self.settings = settings
        self.padding = padding
        self.seed = seed
        self.batches_per_chunk = max(_MIN_BATCHES_PER_CHUNK, math.ceil(CHUNK_PEOPLE / batch_size))
        self.people_per_chunk = self.batches_per_chunk * batch_size
        share = batch_size // num_processes
        self.rows = range(process * share, (process + 1) * share)
        self.ends = np.cumsum(records.num_people)  # of each record's rows of `records.people`

    def __len__(self) -> int:
        return 2**62  # never the end: the number of steps is the training loop's

    def __getitem__(self, chunk: int) -> list[TrainingBatch]:
        num_batches, num_rows = self.batches_per_chunk, len(self.rows)
        start = chunk * self.people_per_chunk + self.rows.start * num_batches
        stretches = self._stretches(start, start + num_rows * num_batches)
        columns = zip(*(self._augmented(*stretch) for stretch in stretches))
        records, image_to_crop, mirrored, keypoints, visibility = map(np.concatenate, columns)
        crops = np.empty((num_batches, num_rows, *self.crop_hw, 3), np.uint8)
        places = (crops[i % num_batches, i // num_batches] for i in range(len(records)))
        self.cut_all(records, image_to_crop, mirrored, places)
        return [
            TrainingBatch(crops[i], keypoints[i::num_batches], visibility[i::num_batches])
            for i in range(num_batches)
        ]

    def _stretches(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Positions of the stream as (epoch, first, last) within each epoch."""
        per_epoch = int(self.records.num_people.sum())
        while start < stop:
            epoch, first = divmod(start, per_epoch)
            last = min(per_epoch, first + stop - start)
            yield epoch, first, last
            start += last - first

    def _people(self, epoch: int, first: int, last: int) -> tuple[Array, Array]:
        """Records and people, as rows of `records.people`, of a stretch of an epoch."""
        stream = _epoch(self, epoch)
        position = np.arange(first, last)
        place = np.searchsorted(stream.ends, position, side="right")
        record = stream.order[place]
        return record, self.ends[record] - (stream.ends[place] - position)

    def _augmented(self, epoch: int, first: int, last: int) -> tuple[Array, ...]:
        """A stretch's records, maps from image to crop, whether mirrored, keypoints, visibility."""
        records, rows = self._people(epoch, first, last)
        drawn = _epoch(self, epoch).drawn[rows]
        everyone = self.records.people
        image_to_crop, keypoints_crop_xy, visibility = augment.apply(
            drawn,
            everyone.keypoints_image_xy[rows],
            everyone.visibility[rows],
            everyone.boxes_xyxy[rows],
            self.padding,
            self.records.image_hw[records, 1],
            self.crop_hw,
            self.skeleton.flip_permutation,
            self.settings.half_body_padding,
        )
        return records, image_to_crop, drawn.flip, keypoints_crop_xy, visibility


@dataclasses.dataclass(frozen=True)
class _Epoch:
    """The order of the records, where in the epoch's stream of people each one's end, and how
    everyone, as in `records.people`, is augmented."""

    order: Int[Array, "N"]
    ends: Int[Array, "N"]
    drawn: augment.Drawn


@functools.lru_cache(maxsize=2)
def _epoch(chunks: TrainingChunks, epoch: int) -> _Epoch:
    rng = np.random.default_rng([chunks.seed, epoch])
    order = rng.permutation(len(chunks.records.num_people))
    drawn = augment.draw(
        rng,
        chunks.records.people.visibility,
        chunks.skeleton.is_upper_body,
        chunks.skeleton.flip_permutation,
        chunks.settings,
    )
    return _Epoch(order, np.cumsum(chunks.records.num_people[order]), drawn)


def training_batches(
    records: Records,
    skeleton: Skeleton,
    *,
    crop_hw: tuple[int, int],
    batch_size: int,
    first_step: int = 0,
    settings: augment.Settings = augment.Settings(),
    padding: float = 1.25,
    seed: int = 0,
    process: int = 0,
    num_processes: int = 1,
    num_threads: int = 0,
) -> Generator[TrainingBatch, None, None]:
    """The batches of steps `first_step`, `first_step + 1`, ... without end.

    Each is a pure function of (seed, step); on the process depends which rows of it, on the
    threads nothing.

    Args:
      batch_size: of all processes together.
      settings, padding: how to augment, and the region's size over the box's.
      process, num_processes: whose rows of the batch to read.
      num_threads: that decode and warp, 0 for one a core.

    Raises:
      ValueError: the batch does not divide among the processes, or there is nobody to read.
    """
    if batch_size % num_processes:
        raise ValueError(f"batch of {batch_size} does not divide among {num_processes} processes")
    if not records.num_people.sum():
        raise ValueError("there are no people in these records to train on")
    chunks = TrainingChunks(
        records, skeleton, crop_hw=crop_hw, batch_size=batch_size, settings=settings,
        padding=padding, seed=seed, process=process, num_processes=num_processes,
        num_threads=num_threads,
    )  # fmt: skip
    first_chunk, skip = divmod(first_step, chunks.batches_per_chunk)
    for batches in read_ahead(chunks, first_chunk):
        yield from batches[skip:]
        skip = 0


def read_ahead(chunks: Chunks, first: int) -> Generator[Any, None, None]:
    """The chunks from `first` on, a few of them cut ahead in the background."""
    options = grain.ReadOptions(num_threads=_CHUNKS_AHEAD, prefetch_buffer_size=_CHUNKS_AHEAD)
    iterator = iter(grain.MapDataset.source(chunks)[first:].to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()

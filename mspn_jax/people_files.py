"""The files of people in many pictures: json, csv, annotated pictures and videos."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable

import cv2
import numpy as np
from jaxtyping import UInt8

from mspn_jax.data.pictures import Source
from mspn_jax.data.video_writer import VideoWriter
from mspn_jax.drawing import write_picture
from mspn_jax.people import People, csv_columns, csv_lines
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage import files

JSON, CSV = "keypoints.json", "keypoints.csv"


class PeopleFiles:
    """A folder's keypoints.json and keypoints.csv, annotated pictures and videos, as a context.

    The two files are complete after every picture. The first picture replaces those of an earlier
    run. A video appears when its source ends.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        skeleton: Skeleton,
        sources: Iterable[Source],
    ):
        """Writes nothing yet. The names of `sources` become those of the files."""
        self.folder = pathlib.Path(folder)
        self.skeleton = skeleton
        self._sources = {source.name: source for source in sources}
        self.num_people = self.num_frames = 0
        self._files = contextlib.ExitStack()
        self._video: VideoWriter | None = None
        self._source: Source | None = None  # of the video

    def __enter__(self) -> "PeopleFiles":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        with self._files:
            if isinstance(error, OSError) and self._video:  # the disk is full
                self._video.abandon()
            else:
                self._close_video()

    def _open(self) -> None:
        def listing(name: str, *ends: bytes) -> files.Listing:
            return self._files.enter_context(files.Listing(self.folder / name, *ends))

        self._json = listing(JSON, b"[", b"\n]\n")
        self._csv = listing(CSV, csv_lines([csv_columns(self.skeleton)]).encode())

    def add(self, people: People, annotated: UInt8[np.ndarray, "H W 3"] | None = None) -> None:
        """Writes the people of a picture, and the annotated picture if it is given.

        A picture in a format that OpenCV cannot write gets the ending .jpg after its own, and a
        video .mp4.
        """
        if not self.num_frames:
            self._open()
        self.num_frames += 1
        entries = [json.dumps(entry) for entry in people.to_json()]
        separators = [",\n" if self.num_people + i else "\n" for i in range(len(entries))]
        self._json.add("".join(map("".join, zip(separators, entries))).encode())
        self._csv.add(csv_lines(people.rows()).encode())
        self.num_people += len(people)
        if annotated is not None:
            self._add_picture(people, annotated)

    def _add_picture(self, people: People, image: UInt8[np.ndarray, "H W 3"]) -> None:
        source = self._sources[people.file_name]
        path = self.folder / source.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.is_picture:
            writable = cv2.haveImageWriter(str(path))
            write_picture(path if writable else path.with_name(f"{path.name}.jpg"), image)
            return
        if self._source is not source:
            self._close_video()
            path = path if path.suffix == ".mp4" else path.with_name(f"{path.name}.mp4")
            self._video = VideoWriter(path, image.shape[:2], like=source.file)
            self._source = source
        if self._video is not None:
            self._video.write(image, people.time_s or 0.0)

    def _close_video(self) -> None:
        video, self._video = self._video, None
        if video is not None:
            video.close()

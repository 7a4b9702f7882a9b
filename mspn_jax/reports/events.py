"""TensorBoard's event files, an entry at a time.

tensorboardX's own writers pass events to a thread. If its disk is full, that thread dies, and the
next call blocks for ever. So events are encoded here by tensorboardX's messages and checksum, and
written by `storage.files.Log`. These two modules of tensorboardX are not in its documentation; no
other file uses them.
"""

import os
import pathlib
import socket
import struct
import time

import numpy as np
from jaxtyping import UInt8
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from mspn_jax.drawing import encode_picture
from mspn_jax.storage.files import Log


class EventLog:
    """A new event file in a folder. Like every `Log`, it never raises OSError.

    TensorBoard hides what earlier files of the folder hold from `first_step` on.
    """

    def __init__(self, folder: str | os.PathLike, first_step: int):
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self._log = Log(pathlib.Path(folder) / name)
        start = SessionLog(status=SessionLog.START)
        self._append(Event(file_version="brain.Event:2"))
        self._append(Event(step=first_step, session_log=start))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        entries = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._append(Event(step=step, summary=Summary(value=entries)))

    def picture(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        height, width, colors = pixels.shape
        image = Summary.Image(
            height=height,
            width=width,
            colorspace=colors,
            encoded_image_string=encode_picture(pixels, ".png"),
        )
        self._append(
            Event(step=step, summary=Summary(value=[Summary.Value(tag=name, image=image)]))
        )

    def _append(self, event: Event) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))  # the frame of a TFRecord
        parts = length, _checksum(length), data, _checksum(data)
        self._log.append(b"".join(parts))


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))

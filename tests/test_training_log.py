"""The training log: its content, after a resume, and on full disks."""

import json
import struct

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from mspn_jax.crops import decode_picture
from mspn_jax.reports import training_log
from mspn_jax.reports.events import EventLog
from mspn_jax.storage import files


def events_in(folder) -> list[Event]:
    """The events of a folder's only event file, read as TensorBoard reads them."""
    (path,) = folder.glob("events.out.tfevents.*")
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[12 + length + 4 :]
    return events


def test_events_are_what_tensorboard_reads(tmp_path):
    log = EventLog(tmp_path, first_step=7)
    log.scalars(8, {"loss": 0.5, "AP": 0.25})
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    log.picture(9, "samples", pixels)
    version, start, scalars, picture = events_in(tmp_path)
    assert version.file_version == "brain.Event:2" and version.wall_time > 1e9
    assert start.step == 7 and start.session_log.status == SessionLog.START
    values = {value.tag: value.simple_value for value in scalars.summary.value}
    assert scalars.step == 8 and values == {"loss": 0.5, "AP": 0.25}
    (value,) = picture.summary.value
    assert (value.tag, value.image.height, value.image.width) == ("samples", 4, 6)
    np.testing.assert_array_equal(decode_picture(value.image.encoded_image_string), pixels)


def test_the_frame_of_an_event_has_the_checksums_of_a_tfrecord(tmp_path):
    EventLog(tmp_path, first_step=1)
    (path,) = tmp_path.glob("events.out.tfevents.*")
    data = path.read_bytes()
    # TensorFlow's own writer gives the length 24 these four bytes.
    assert data[:12] == bytes.fromhex("18000000000000 00 a37f4b22".replace(" ", ""))


def test_a_log_survives_a_full_disk_and_is_whole_once_there_is_room(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    log = files.Log(path)
    log.append(b"1\n")
    log.append(b"2\n")
    assert caplog.text.count("No space left on device") == 1 and str(path) in caplog.text
    path.unlink()
    log.append(b"3\n")
    assert path.read_bytes() == b"1\n2\n3\n"


@pytest.mark.parametrize(
    "tail, warns",
    [
        (b'{"step": 5, "lo', False),
        (b"5\n\xff\xfe\n[]", True),
        (b"5\n" + b"[" * 99999 + b"\n5", True),
    ],
)
def test_a_resumed_run_keeps_the_lines_before_it_and_no_damaged_ones(tmp_path, tail, warns, caplog):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 2}, {"step": 4}, {"step": 4, "AP": 0.5}, {"step": 6}]
    path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines) + tail)
    training_log._forget_after(path, 4)
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines[:2]
    assert ("removed 3 damaged lines, first line 5" in caplog.text) == warns

"""Videos: times, rotation, sound, odd sides, damage; what is written is what browsers play."""

import pathlib
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from mspn_jax.data import video_writer
from mspn_jax.data.video import VideoReader
from mspn_jax.data.video_writer import VideoWriter
from mspn_jax.errors import DataError


def grey(level: int, hw=(48, 64)) -> np.ndarray:
    return np.full((*hw, 3), level, np.uint8)


def write(path: pathlib.Path, times, hw=(48, 64), **arguments) -> pathlib.Path:
    """A video whose frame i has the grey level 20 + 10 i."""
    writer = VideoWriter(path, hw, **arguments)
    for i, time_s in enumerate(times):
        writer.write(grey(20 + 10 * i % 200, hw), time_s)
    writer.close()
    return path


def read(path) -> list[tuple[np.ndarray, float]]:
    with VideoReader(path) as video:
        return list(video.frames())


def write_with_sound(path: pathlib.Path, codec: str, seconds: float = 2.0) -> pathlib.Path:
    """10 frames a second and a tone, in the container that the path's suffix names."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = output.add_stream(codec, rate=44100)
        sound.layout = "stereo"
        for i in range(int(seconds * 10)):
            output.mux(video.encode(av.VideoFrame.from_ndarray(grey(20 + 10 * i % 200), "rgb24")))
            times = np.arange(i * 4410, (i + 1) * 4410) / 44100
            tone = (8000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(np.repeat(tone, 2)[None], "s16", "stereo")
            frame.sample_rate, frame.pts = 44100, i * 4410
            frame.time_base = Fraction(1, 44100)
            output.mux(sound.encode(frame))
        output.mux(video.encode(None))
        output.mux(sound.encode(None))
    return path


def test_frames_keep_their_times_though_they_vary(tmp_path):
    times = [0.0, 0.04, 0.08, 0.5, 0.52, 1.0]
    found = read(write(tmp_path / "varying.mp4", times))
    np.testing.assert_allclose([time_s for _, time_s in found], times, atol=1e-4)
    levels = [image.mean() for image, _ in found]
    np.testing.assert_allclose(levels, 20 + 10 * np.arange(6), atol=2)


def test_what_is_written_plays_in_a_browser(tmp_path):
    path = write(tmp_path / "x.mp4", np.arange(5) / 25, hw=(47, 61))
    with av.open(str(path)) as video:
        (stream,) = video.streams
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.width, stream.height, stream.average_rate) == (62, 48, 25)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # it starts to play before it is there


def test_colours_come_back(tmp_path):
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40)]
    writer = VideoWriter(tmp_path / "x.mp4", (48, 64))
    for i, color in enumerate(colors):
        writer.write(np.full((48, 64, 3), color, np.uint8), i / 25)
    writer.close()
    for (image, _), color in zip(read(tmp_path / "x.mp4"), colors, strict=True):
        np.testing.assert_allclose(image[20, 20], color, atol=5)


@pytest.mark.parametrize(
    "name, codec, written",
    [("a.mp4", "aac", "aac"), ("a.ts", "aac", "aac"), ("a.mkv", "pcm_s16le", "aac")],
)
def test_the_sound_is_kept(tmp_path, name, codec, written):
    source = write_with_sound(tmp_path / name, codec)
    found = read(source)
    assert len(found) == 20
    writer = VideoWriter(tmp_path / "out.mp4", (48, 64), like=source)
    for image, time_s in found[:10]:
        writer.write(image, time_s)
    writer.close()
    with av.open(str(tmp_path / "out.mp4")) as video:
        assert video.streams.video[0].frames == 10
        (sound,) = video.streams.audio
        assert sound.codec_context.name == written
        samples = np.concatenate([f.to_ndarray()[0] for f in video.decode(sound)])
    assert abs(len(samples) / 44100 - 1) < 0.1  # as long as the pictures
    spectrum = np.abs(np.fft.rfft(samples[8192:16384]))
    assert spectrum.argmax() == pytest.approx(440 * 8192 / 44100, abs=1.5)


def test_rotation_is_applied(tmp_path):
    path = tmp_path / "turned.mp4"
    writer = VideoWriter(path, (48, 64))
    image = grey(20)
    image[:, :32] = 200  # bright on the left
    writer.write(image, 0.0)
    writer.close()
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    turn = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # clockwise
    data[matrix : matrix + 36] = turn
    path.write_bytes(data)
    ((image, _),) = read(path)
    assert image.shape == (64, 48, 3)
    assert image[5].mean() > 180 and image[-5].mean() < 40  # bright at the top


def test_damage_is_said_after_the_last_frame(tmp_path):
    path = write(tmp_path / "x.mp4", np.arange(40) / 25)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    count = 0
    with VideoReader(path) as video, pytest.raises(DataError, match=r"ends after \d+ frames of 40"):
        for _ in video.frames():
            count += 1
    assert 5 < count < 40
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(DataError, match="not a video, or damaged"):
        VideoReader(tmp_path / "text.mp4")


def test_an_abandoned_video_leaves_nothing(tmp_path):
    writer = VideoWriter(tmp_path / "x.mp4", (48, 64))
    writer.write(grey(9), 0.0)
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_without_h264_it_says_what_it_writes(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(video_writer.av, "codecs_available", {"mpeg4"})
    path = write(tmp_path / "x.mp4", np.arange(5) / 25)
    assert "no H.264 encoder" in caplog.text and len(read(path)) == 5

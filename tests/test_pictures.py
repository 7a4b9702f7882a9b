"""Pictures of every kind, and what happens to those that cannot be read."""

import base64
import struct

import av
import cv2
import numpy as np
import pytest

from mspn_jax.data.pictures import Source, count_frames, find_sources, frames
from mspn_jax.errors import DataError

# A JPEG of 8 x 8 pixels in CMYK, all (0, 255, 255, 0): red. OpenCV writes none.
CMYK_JPEG = base64.b85decode(
    "|JeWT01iQ9Z(?NtWB>pF0095n07C!+0s;d90s{jB0|WyD1O*5M1q1{I3I_)U2n-4g3=0Yi3k?nu5Dg9y4hstq77!5=6crT}3=bC=78Do~6crTzzyK5o00;mG1Va%3O%VWD5dcdO0RO}Q6aWDL000000000000000000U9!~hf!0RR910000000000000000RP$m4g^C0O#oQ{O8@{r093_Lsw!{)*#"
)


def left_red() -> np.ndarray:
    """BGR, red on the left, blue on the right."""
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, :15, 2] = image[:, 15:, 0] = 255
    return image


def encoded(image: np.ndarray, ending: str = ".png") -> bytes:
    return cv2.imencode(ending, image)[1].tobytes()


def rotated_by_exif(jpeg: bytes, orientation: int) -> bytes:
    tiff = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 3, 1, orientation) + b"\0" * 4
    exif = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def write_video(path, num_frames: int, hw=(48, 64)) -> None:
    """Frame i is noise around grey level 20 + 10 i."""
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, hw[::-1])
    for i in range(num_frames):
        writer.write((10 * i + rng.integers(0, 41, (*hw, 3))).astype(np.uint8))
    writer.release()


def read(path, **arguments):
    """The frames of a file, and why it was passed over."""
    reasons = []
    found = list(
        frames(find_sources([str(path)]), lambda source, why: reasons.append(why), **arguments)
    )
    return found, reasons


@pytest.mark.parametrize(
    "data, expected_rgb",
    [
        (encoded(left_red()), (255, 0, 0)),
        (encoded(left_red().astype(np.uint16) * 257), (255, 0, 0)),
        (encoded(np.full((5, 5), 77, np.uint8)), (77, 77, 77)),
        (encoded(np.full((5, 5), 77 * 257, np.uint16)), (77, 77, 77)),
        (encoded(np.full((5, 5, 4), (0, 0, 255, 128), np.uint8)), (255, 0, 0)),
        (encoded(np.full((1, 1, 3), 9, np.uint8)), (9, 9, 9)),
        (CMYK_JPEG, (255, 0, 0)),
    ],
    ids=["rgb", "16 bit", "grey", "grey 16 bit", "alpha", "1x1", "cmyk"],
)
def test_every_kind_becomes_rgb_bytes(tmp_path, data, expected_rgb):
    (tmp_path / "picture.png").write_bytes(data)
    (frame,), reasons = read(tmp_path / "picture.png")
    assert not reasons and frame.image.dtype == np.uint8 and frame.image.shape[2] == 3
    np.testing.assert_allclose(frame.image[0, 0], expected_rgb, atol=1)


def test_exif_rotation_is_done(tmp_path):
    path = tmp_path / "turned.jpg"
    path.write_bytes(rotated_by_exif(encoded(left_red(), ".jpg"), 6))  # its left is the top
    (frame,), _ = read(path)
    assert frame.image.shape == (30, 20, 3)
    assert frame.image[2, 10, 0] > 200 and frame.image[27, 10, 2] > 200


def test_what_cannot_be_read_is_named_and_the_rest_is_read(tmp_path):
    good = encoded(left_red(), ".jpg")
    (tmp_path / "a.jpg").write_bytes(good)
    (tmp_path / "b.jpg").write_bytes(good[: len(good) // 2])
    (tmp_path / "c.jpg").write_bytes(b"")
    (tmp_path / "d.png").write_text("no picture")
    (tmp_path / "e.mp4").write_text("no video")
    (tmp_path / "f.jpg").write_bytes(good)
    (tmp_path / "notes.txt").write_text("not asked for")
    found, reasons = read(tmp_path)
    assert [frame.source.name for frame in found] == ["a.jpg", "f.jpg"]
    assert reasons == [
        "truncated or damaged JPEG",
        "empty file",
        "not a picture",
        "not a video, or damaged",
    ]


def test_a_video_gives_its_frames_in_order(tmp_path):
    write_video(tmp_path / "grey.avi", 20)
    found, reasons = read(tmp_path / "grey.avi")
    assert not reasons and [frame.index for frame in found] == list(range(20))
    levels = [frame.image.mean() for frame in found]
    np.testing.assert_allclose(levels, 20 + 10 * np.arange(20), atol=2)
    np.testing.assert_allclose([frame.time_s for frame in found], np.arange(20) / 10, atol=1e-6)
    assert count_frames(found[0].source) == 20
    assert len(read(tmp_path / "grey.avi", max_frames=3)[0]) == 3


def test_a_video_that_ends_early_gives_what_it_has(tmp_path):
    write_video(tmp_path / "whole.avi", 20)
    data = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    found, reasons = read(tmp_path / "cut.avi")
    assert 5 <= len(found) < 20
    assert reasons == [f"ends after {len(found)} frames of 20"]


def test_folders_globs_and_files_are_found_once_and_named_apart(tmp_path):
    for name in ("x/1.jpg", "x/2.PNG", "y/1.jpg", "empty/3.txt", "x/deep/4.jpg", "x/v.mov"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    given = [str(tmp_path / "x"), str(tmp_path / "*" / "*.jpg"), str(tmp_path / "x" / "1.jpg"), "0"]
    sources = find_sources(given)
    assert [s.name for s in sources] == ["x/1.jpg", "x/2.PNG", "x/v.mov", "y/1.jpg", "camera0"]
    assert [s.is_picture for s in sources] == [True, True, False, True, False]
    assert sources[-1] == Source(0, "camera0") and count_frames(sources[-1]) is None
    for nothing, message in (("empty", "no pictures or videos in it"), ("*.bmp", "no such file")):
        with pytest.raises(DataError, match=message):
            find_sources([str(tmp_path / nothing)])


def test_an_animated_gif_and_other_containers_are_videos(tmp_path):
    formats = {"gif": ("gif", "rgb8"), "ts": ("libx264", "yuv420p"), "webm": ("libvpx", "yuv420p")}
    for ending, (codec, pixels) in formats.items():
        path = tmp_path / f"x.{ending}"
        with av.open(str(path), "w") as output:
            stream = output.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
            for i in range(4):
                image = np.full((48, 64, 3), 40 + 50 * i, np.uint8)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(image).reformat(format=pixels)))
            output.mux(stream.encode(None))
        found, reasons = read(path)
        assert not reasons and [frame.index for frame in found] == [0, 1, 2, 3], ending
        times = [frame.time_s for frame in found]
        np.testing.assert_allclose(times, np.arange(4) / 10, atol=0.011, err_msg=ending)
        levels = [frame.image.mean() for frame in found]
        np.testing.assert_allclose(levels, 40 + 50 * np.arange(4), atol=25, err_msg=ending)


def test_a_picture_with_too_long_a_side_is_passed_over(tmp_path):
    (tmp_path / "long.png").write_bytes(encoded(np.zeros((2, 32767, 3), np.uint8)))
    (tmp_path / "ok.png").write_bytes(encoded(np.zeros((2, 32766, 3), np.uint8)))
    found, reasons = read(tmp_path)
    assert [frame.source.name for frame in found] == ["ok.png"]
    assert reasons == ["has 32767 x 2 pixels; a side can have 32766: make it smaller"]


def test_hidden_files_are_read_only_if_they_are_named(tmp_path):
    for name in (".hidden.png", "seen.png"):
        (tmp_path / name).write_bytes(encoded(left_red()))
    for given in (tmp_path, tmp_path / "*.png", tmp_path / "**"):
        assert [source.name for source in find_sources([str(given)])] == ["seen.png"]
    assert [s.name for s in find_sources([str(tmp_path / ".hidden.png")])] == [".hidden.png"]


def test_addresses_are_named_apart():
    given = ["rtsp://a:554/live?x=1", "rtsp://b/live", "http://c/d/x%20y.jpg", "https://c/walk.mp4"]
    sources = find_sources(given)
    assert [s.name for s in sources] == ["live", "live-2", "x_y.jpg", "walk.mp4"]
    assert [s.is_live for s in sources] == [True, True, False, False]
    assert [s.is_picture for s in sources] == [False, False, True, False]

"""Drawn videos of people who cross, leave and come back."""

import numpy as np
import pytest

from mspn_jax.data.video import VideoReader
from mspn_jax.synthetic import walkers

PICTURES = {"train2017": 60, "val2017": 60}
HEIGHT, WIDTH = 240, 320


@pytest.mark.parametrize("scene", walkers.SCENES)
def test_walkers_are_the_same_for_a_seed_and_know_where_they_are(scene):
    walking = walkers.SCENES[scene](np.random.default_rng(1))
    first, again = (list(walkers.draw_video(walking, 60, seed=2)) for _ in range(2))
    for frame, other in zip(first, again):
        for one, two in zip(frame, other):
            np.testing.assert_array_equal(one, two)
    assert [frame.time_s for frame in first[:3]] == [0, 0.04, 0.08]
    for frame in first:
        visible = frame.keypoints[..., 2] == 2
        low, high = frame.boxes_xywh[:, :2], frame.boxes_xywh[:, :2] + frame.boxes_xywh[:, 2:]
        inside = (frame.keypoints[..., :2] > low[:, None] - 2) & (
            frame.keypoints[..., :2] < high[:, None] + 2
        )
        assert inside.all(-1)[visible].all()
        assert ((frame.seen_shares >= walkers.SEEN_SHARE) & (frame.seen_shares <= 1)).all()


@pytest.mark.slow
def test_walkers_cross_leave_and_come_back():
    crossing = walkers.crossing(np.random.default_rng(0))
    frames = list(walkers.draw_video(crossing, 150))
    overlap = [
        frame.boxes_xywh[0, 0] > frame.boxes_xywh[1, 0]
        for frame in frames
        if {0, 1} <= {*frame.ids}
    ]
    assert not overlap[0] and overlap[-1]
    returning = walkers.returning(np.random.default_rng(0))
    seen = np.array([1 in frame.ids for frame in walkers.draw_video(returning, 200)])
    assert (
        seen[0]
        and (np.diff(seen.astype(int)) == -1).any()
        and (np.diff(seen.astype(int)) == 1).any()
    )


def test_a_walker_keeps_the_clothes_and_turns_round():
    walker = walkers.Walker(3, 0.7, 0.5, 0.55, 0.5, turns_s=(1.0,))
    bodies_ = [walker.body(t, (240, 320)) for t in (0.0, 0.5, 1.0, 1.5, 2.0)]
    at_x = [body.origin_xy[0] for body in bodies_]
    np.testing.assert_allclose(np.diff(at_x), 0.25 * 0.7 * 240 * np.array([1, 1, -1, -1]))
    colors = [[blob.color for part in body.parts for blob in part.blobs] for body in bodies_[:2]]
    assert len(colors[0]) == len(colors[1])
    np.testing.assert_array_equal(*colors)
    nose, ear = ([body.points[name][0] for body in bodies_] for name in ("nose", "head"))
    assert [n > e for n, e in zip(nose, ear)] == [True, True, True, False, False]


def test_a_written_video_has_its_frames(tmp_path):
    walking = walkers.crossing(np.random.default_rng(0))
    walkers.write_video(tmp_path / "a.mp4", walkers.draw_video(walking, 10))
    with VideoReader(tmp_path / "a.mp4") as video:
        read = list(video.frames())
    drawn = list(walkers.draw_video(walking, 10))
    assert len(read) == 10
    for (image, time_s), frame in zip(read, drawn):
        assert time_s == pytest.approx(frame.time_s, abs=1e-3)
        assert np.abs(image.astype(int) - frame.image_rgb).mean() < 12

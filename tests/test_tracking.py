"""Ids that stay with people: crossing, missing, coming back; boxes between detections."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from mspn_jax.people import People
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import walkers
from mspn_jax.tracking import KEEP_S, MARGIN, MEMORY_S, Tracker, assign

STEP = 0.04  # seconds between frames
RNG = np.random.default_rng(0)
BODY = RNG.uniform((5, 5), (35, 95), (17, 2))  # joints in a box of 40 x 100


def people(*places, scores=1.2, **changes) -> People:
    """People of one shape, each (x, y) the corner of a box of 40 x 100."""
    corners = np.array(places, float).reshape(-1, 2)
    count = len(corners)
    made = People(
        boxes_xywh=np.column_stack([corners, np.tile([40.0, 100.0], (count, 1))]),
        box_scores=np.full(count, 0.9),
        keypoints_image_xy=corners[:, None] + BODY,
        keypoint_scores=np.full((count, 17), scores),
        skeleton=COCO,
        person_scores=np.ones(count),
    )
    return dataclasses.replace(made, **changes)


def ids_of(tracker: Tracker, frames, start=0.0, step=STEP) -> list[list[int]]:
    return [tracker.update(each, start + i * step).ids.tolist() for i, each in enumerate(frames)]


def test_ids_count_from_one_and_follow_people_in_any_order():
    frames = [people((10 + i, 20), (200 - i, 20)) for i in range(5)]
    frames.append(people((195, 20), (15, 20)))
    assert ids_of(Tracker(COCO), frames) == [[1, 2]] * 5 + [[2, 1]]


def test_ids_are_never_used_again():
    tracker = Tracker(COCO)
    assert ids_of(tracker, [people((0, 0)), people(), people((500, 0))]) == [[1], [], [2]]
    assert ids_of(tracker, [people((1000, 0))], start=9.0) == [[3]]


@pytest.mark.parametrize("unseen_s, same", [(KEEP_S - STEP, True), (KEEP_S + 2 * STEP, False)])
def test_an_id_is_kept_for_a_time(unseen_s, same):
    tracker = Tracker(COCO)
    seen = [people((10, 20))] * 60
    unseen = [people()] * round(unseen_s / STEP)
    assert KEEP_S == 1  # as docs/predict.md says
    *_, ids = ids_of(tracker, [*seen, *unseen, people((10, 20))])
    assert (ids == [1]) == same


@pytest.mark.parametrize("seconds, same", [(STEP, True), (0.2, True), (0.54, False)])
def test_older_sights_count_too(seconds, same):
    """The person is missed, and one behind is alike enough for the track, until both are found."""
    wrong = [people((26, 20))] * round(seconds / STEP)
    frames = [*[people((10, 20))] * 9, *wrong, people((10, 20), (41, 20))]
    assert (ids_of(Tracker(COCO), frames)[-1] == [1, 2]) == same


def test_the_sights_of_half_a_second_are_kept():
    tracker = Tracker(COCO)
    ids_of(tracker, [people((10, 20))] * 40)
    (track,) = tracker.tracks
    times = [sight.time_s for sight in track.sights]
    assert MEMORY_S == 0.5 and len(times) == 13
    assert times[-1] - times[0] == pytest.approx(0.48)


def test_a_second_box_of_a_person_does_not_take_the_track_of_another():
    """The box of a person who is hidden has the joints of the one in front."""
    walk = [people((10, 20), (60, 20))] * 5
    hidden = people((10, 20), (55, 20))
    hidden.keypoints_image_xy[1] = hidden.keypoints_image_xy[0]
    assert ids_of(Tracker(COCO), [*walk, hidden])[-1] == [1]


def test_a_box_that_is_far_too_small_does_not_make_a_person_another():
    small = people((30, 20))
    small.boxes_xywh[0, 2:] = 12, 30
    assert ids_of(Tracker(COCO), [small, people((10, 20))]) == [[1], [1]]


@pytest.mark.parametrize("x, same", [(30, True), (42, False)])
def test_boxes_alone_are_enough_if_they_overlap_by_a_fifth(x, same):
    frames = [people((10, 20), scores=0.5), people((x, 20), scores=0.5)]  # IoU 0.33, 0.11
    assert (ids_of(Tracker(COCO), frames)[-1] == [1]) == same


def test_faint_joints_count_less():
    """Two people whose faint joints are those of the other, as of a person half hidden."""
    scores = np.full((2, 17), 1.4)
    scores[:, :9] = 0.75
    before = people((10, 20), (60, 20), keypoint_scores=scores)
    after = people((10, 20), (60, 20), keypoint_scores=scores)
    after.boxes_xywh[:] = before.boxes_xywh.mean(0)
    after.keypoints_image_xy[:, :9] = before.keypoints_image_xy[::-1, :9]
    assert ids_of(Tracker(COCO), [before, after]) == [[1, 2]] * 2


def test_people_who_cross_keep_their_ids_by_their_motion():
    """Both vanish while they cross; without velocity each would be where the other was."""
    frames = [people((10 + 8 * i, 20), (202 - 8 * i, 20)) for i in range(24)]
    frames[9:15] = [people()] * 6
    assert {tuple(ids) for ids in ids_of(Tracker(COCO), frames)} == {(1, 2), ()}


def test_keypoints_tell_people_in_the_same_box_apart():
    shifted = BODY[::-1]
    both = people((10, 20), (10, 20))
    both.keypoints_image_xy[1] = (10, 20) + shifted
    swapped = both[::-1]
    tracker = Tracker(COCO)
    assert ids_of(tracker, [both, swapped, both]) == [[1, 2], [2, 1], [1, 2]]


def test_boxes_tell_people_apart_whose_joints_are_not_found():
    frames = [people((10, 20), (80, 20), scores=0.5), people((82, 20), (12, 20), scores=0.5)]
    assert ids_of(Tracker(COCO), frames) == [[1, 2], [2, 1]]


def test_a_far_person_is_another():
    assert ids_of(Tracker(COCO), [people((10, 20)), people((60, 20))]) == [[1], [2]]


def test_who_was_unseen_may_be_further_away():
    frames = [*[people((10, 20))] * 60, *[people()] * 9, people((32, 20))]
    assert ids_of(Tracker(COCO), frames)[-1] == [1]


def test_velocity_follows_a_turn_but_not_the_noise():
    tracker = Tracker(COCO)
    there = [people((10 + 4 * i, 20)) for i in range(50)]
    back = [people((206 - 4 * i, 20)) for i in range(20)]
    ids_of(tracker, [*there, *back])
    assert tracker.tracks[0].velocity_xy[0] == pytest.approx(-100, abs=40)
    tracker = Tracker(COCO)
    ids_of(tracker, [people((10 + 2 * (i % 2), 20)) for i in range(101)])
    assert abs(tracker.tracks[0].velocity_xy[0]) < 15  # 50 from frame to frame


def test_times_that_do_not_rise_are_survived():
    tracker = Tracker(COCO)
    times = [0.0, 0.04, 0.04, 0.0, -5.0, 0.04, 0.08]
    assert [tracker.update(people((10, 20)), t).ids.tolist() for t in times] == [[1]] * 7
    assert np.isfinite(tracker.expected(-1.0)[0]).all()


def test_people_close_to_one_another_are_two():
    close = people((10, 20), (16, 20), box_scores=np.array([0.9, 0.8]))
    assert ids_of(Tracker(COCO), [close] * 2) == [[1, 2]] * 2


def test_a_person_with_anothers_joints_is_left_out():
    twice = people((10, 20), (12, 20), (200, 0))
    twice.box_scores[:] = 0.5, 0.9, 0.9
    tracker = Tracker(COCO)
    assert tracker.update(twice, 0.0).boxes_xywh[:, 0].tolist() == [12, 200]  # the surer one
    frame = people((12, 20), (14, 20), (200, 0))
    frame.box_scores[:] = 0.5, 0.9, 0.9
    assert tracker.update(frame, STEP).boxes_xywh[:, 0].tolist() == [12, 200]  # the nearer one


def test_boxes_between_detections_hold_the_joints_and_move_on():
    tracker = Tracker(COCO)
    ids_of(tracker, [people((10 + 4 * i, 20), (300, 20)) for i in range(60)])
    boxes, ids = tracker.expected(60 * STEP)
    assert ids.tolist() == [1, 2] and boxes[:, 4].tolist() == [0.9, 0.9]
    low, high = BODY.min(0) + (250, 20), BODY.max(0) + (250, 20)
    margin = MARGIN * (high - low).max()
    expected = [*(low - margin), *(high - low + 2 * margin)]
    np.testing.assert_allclose(boxes[0, :4], expected, atol=0.1)
    np.testing.assert_allclose(boxes[1, :2], BODY.min(0) + (300, 20) - margin, atol=1e-6)


def test_people_of_known_boxes_keep_their_ids():
    tracker = Tracker(COCO)
    tracker.update(people((10, 20), (300, 20)), 0.0)
    _, ids = tracker.expected(STEP)
    moved = people((304, 20), (14, 20), ids=ids[::-1])
    assert tracker.update(moved, STEP).ids.tolist() == [2, 1]
    tracker.update(people((18, 20), ids=np.array([1])), 2 * STEP)  # 2 was not confident
    _, ids = tracker.expected(3 * STEP)
    assert ids.tolist() == [1]


def test_who_was_left_out_between_detections_is_found_again():
    tracker = Tracker(COCO)
    tracker.update(people((10, 20), (300, 20)), 0.0)
    for i in range(1, round(KEEP_S / STEP) + 5):
        tracker.update(people((10, 20), ids=np.array([1])), STEP * i)
    found = tracker.update(people((300, 20), (10, 20)), KEEP_S + 5 * STEP)
    assert found.ids.tolist() == [2, 1]


def test_who_walked_into_anothers_box_is_left_out():
    tracker = Tracker(COCO)
    tracker.update(people((10, 20), (300, 20)), 0.0)
    found = tracker.update(people((40, 20), (308, 20), ids=np.array([1, 2])), STEP)
    assert found.ids.tolist() == [2]


def test_a_person_without_found_joints_keeps_the_box():
    tracker = Tracker(COCO)
    tracker.update(people((10, 20), scores=0.5), 0.0)
    assert tracker.expected(STEP)[0].tolist() == [[10, 20, 40, 100, 0.9]]


def test_assignment_is_the_best_sum_and_refuses_what_is_not_alike():
    similarities = np.array([[0.9, 0.8], [0.8, 0.3], [0.1, 0.1]])
    assert assign(similarities) == [1, 0, None]
    assert assign(np.zeros((0, 3))) == [] and assign(np.zeros((2, 0))) == [None, None]


@pytest.mark.parametrize("scene", ["crossing", "returning"])
def test_drawn_people_keep_their_ids(scene):
    """With every joint known, ids change only of people who were away for longer than KEEP_S."""
    walking = walkers.SCENES[scene](np.random.default_rng(4))
    tracker, ids, last_s, num_returns = Tracker(COCO), {}, {}, 0
    for frame in walkers.draw_video(walking, 200, picture_hw=(120, 160)):
        inside = frame.keypoints[..., 2] > 0
        whole = inside.mean(1) > 0.6  # not cut by the picture's border
        found = tracker.update(
            dataclasses.replace(
                people(*np.zeros((whole.sum(), 2))),
                boxes_xywh=frame.boxes_xywh[whole],
                keypoints_image_xy=frame.keypoints[whole, :, :2],
                keypoint_scores=np.where(inside, 1.2, 0.5)[whole],
            ),
            frame.time_s,
        )
        if len(found) < whole.sum():
            continue  # one hides the other, joint by joint
        for true, given in zip(frame.ids[whole].tolist(), found.ids.tolist()):
            if frame.time_s - last_s.get(true, frame.time_s) < KEEP_S:
                assert ids.setdefault(true, given) == given
            num_returns += frame.time_s - last_s.get(true, frame.time_s) > KEEP_S
            ids[true], last_s[true] = given, frame.time_s
    assert len(ids) == len(walking) and (num_returns > 0) == (scene == "returning")


@pytest.mark.slow
def test_switches_are_counted_where_detector_and_network_err(tmp_path):
    root, file = pathlib.Path(__file__).parents[1], tmp_path / "rows.json"
    program = root / "tests" / "stress" / "tracking.py"
    flags = ("--quick", "--repeats=1", "--videos=1", f"--json={file}")
    subprocess.run([sys.executable, program, *flags], check=True, capture_output=True, cwd=root)
    rows = json.loads(file.read_text())["rows"]
    scenes = [row for row in rows if "scene" in row]
    assert len(scenes) == 9 and all(row["people"] > 20 and row["missed"] < 0.7 for row in scenes)
    assert all(row["milliseconds_a_frame"]["median"] > 0 for row in rows[9:])

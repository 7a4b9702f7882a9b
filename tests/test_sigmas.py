"""OKS sigmas of people who were annotated twice, with errors that are known."""

import json

import numpy as np
import pytest

from commands import error_of, run
from mspn_jax.commands.browse import sigma_lines
from mspn_jax.data import sigmas, validator
from mspn_jax.errors import DataError
from mspn_jax.skeletons import Skeleton

DOG = Skeleton("dog", ("nose", "left_paw", "right_paw", "tail"), (), (0.05,) * 4)
ERRORS = np.array([0.01, 0.03, 0.04, 0.002])  # of one annotator, on each axis, over sqrt(area)
SIDE = 400


def dogs(num_pictures: int, seed: int = 0) -> list[dict]:
    """Pictures with three dogs each, two of which overlap."""
    rng = np.random.default_rng(seed)
    rows = []
    for picture in range(num_pictures):
        for corner in ((20, 20), (40, 30), (250, 250)):
            width, height = rng.uniform(90, 110, 2)
            xy = np.array(corner) + rng.uniform(0.2, 0.8, (4, 2)) * (width, height)
            rows.append(
                {
                    "picture": picture,
                    "area": float(rng.uniform(0.3, 0.9) * width * height),
                    "bbox": [*map(float, corner), float(width), float(height)],
                    "xy": xy,
                    "visibility": np.full(4, 2),
                }
            )
    return rows


def annotated(rows: list[dict], seed: int, errors=ERRORS) -> list[dict]:
    """The same people by an annotator: with errors, in another order."""
    rng = np.random.default_rng(seed)
    mine = []
    for row in rows:
        error = rng.normal(0, 1, (4, 2)) * errors[:, None] * np.sqrt(row["area"])
        box = np.array(row["bbox"]) + rng.uniform(-3, 3, 4)
        mine.append(row | {"xy": row["xy"] + error, "bbox": box.tolist()})
    return [mine[i] for i in rng.permutation(len(mine))]


def write(path, rows: list[dict], names=DOG.keypoint_names, first_image=1, prefix="farm/"):
    pictures = sorted({row["picture"] for row in rows})
    content = {
        "images": [
            {"id": first_image + i, "file_name": f"{prefix}{i}.jpg", "height": SIDE, "width": SIDE}
            for i in pictures
        ],
        "categories": [{"id": 1, "name": "dog", "keypoints": list(names)}],
        "annotations": [
            {
                "id": number,
                "image_id": first_image + row["picture"],
                "category_id": 1,
                "bbox": row["bbox"],
                "area": row["area"],
                "keypoints": np.column_stack([row["xy"], row["visibility"]]).ravel().tolist(),
            }
            for number, row in enumerate(rows, start=1)
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def found(tmp_path, first, second, **of_second) -> sigmas.Sigmas:
    files = (write(tmp_path / "a.json", first), write(tmp_path / "b.json", second, **of_second))
    return sigmas.estimate(*(validator.read(file, DOG) for file in files), DOG)


def test_two_annotators_errors_give_twice_the_error_of_one(tmp_path):
    rows = dogs(700)
    result = found(tmp_path, annotated(rows, 1), annotated(rows, 2), first_image=5000)
    assert result.num_people == 2100 and result.counts.tolist() == [2100] * 4
    # The relative standard error of a sigma of n pairs is 1 / (2 sqrt(n)): 1.1%
    np.testing.assert_allclose(result.sigmas, 2 * ERRORS, rtol=0.04)
    np.testing.assert_allclose(result.of_medians, 2 * ERRORS, rtol=0.06)


def test_it_is_cocos_formula(tmp_path):
    """E[d² / s²], with the area of the first file, over the keypoints labelled in both."""
    first = dogs(2)
    second = [row | {"xy": row["xy"] + (3, 4), "area": 1.0} for row in first]  # d = 5
    second[0]["xy"][1] += (9, 12)  # d = 20
    first[1]["visibility"] = np.array([2, 0, 1, 2])
    second[2] = second[2] | {"visibility": np.array([1, 0, 2, 2])}
    result = found(tmp_path, first, second)
    areas = np.array([row["area"] for row in first])
    expected = np.full(4, (25 / areas).mean())
    expected[1] = np.mean([400 / areas[0], *25 / areas[3:]])
    np.testing.assert_allclose(result.sigmas, np.sqrt(expected))
    assert result.counts.tolist() == [6, 4, 6, 6]
    assert result.farthest[1] == pytest.approx(20 / np.sqrt(areas[0]))
    assert result.farthest_ids[1] == 1
    np.testing.assert_allclose(
        result.of_medians[0], np.median(5 / np.sqrt(areas)) / np.sqrt(np.log(2)), rtol=0.02
    )


def test_people_are_paired_by_boxes_and_then_by_keypoints(tmp_path):
    rows = dogs(20)
    second = annotated(rows, 1, errors=ERRORS / 4)
    del second[::3]  # not everyone is annotated twice
    second += [row | {"bbox": [300, 10, 50, 50]} for row in rows[:5]]  # and some are elsewhere
    result = found(tmp_path, rows, second)
    assert result.num_people == 40
    assert (result.farthest < 0.1).all()  # the overlapping ones are not exchanged
    (dog,) = [row | {"bbox": [50, 50, 100, 100]} for row in rows[:1]]
    moved = dog | {"xy": dog["xy"] + 1}
    assert found(tmp_path, [dog], [moved | {"bbox": [79, 50, 100, 100]}]).num_people == 1
    with pytest.raises(DataError, match="nobody in it"):
        found(tmp_path, [dog], [moved | {"bbox": [88, 50, 100, 100]}])
    # A keypoint far away is an error of annotation, and counts.
    wild = [row | {"xy": row["xy"] + (50, 0)} for row in rows]
    assert found(tmp_path, rows, wild).sigmas.min() > 0.5


def test_bad_input_is_one_line(tmp_path):
    rows = dogs(4)
    with pytest.raises(DataError, match=r"b.json: nobody in it is in .*a.json, too: they need pic"):
        found(tmp_path, rows, annotated(rows, 1), prefix="barn/")
    elsewhere = [row | {"bbox": [150, 150, 9, 9]} for row in rows]
    with pytest.raises(DataError, match=r"boxes that overlap by 0.5 or more"):
        found(tmp_path, rows, elsewhere)
    with pytest.raises(DataError, match=r"the sigma of nose is 0, and must be from 0.0001 to 1: w"):
        found(tmp_path, rows, rows)
    without = [row | {"visibility": np.array([2, 2, 2, 0])} for row in annotated(rows, 1)]
    with pytest.raises(DataError, match=r"has tail labelled in both: annotate more people twice"):
        found(tmp_path, rows, without)
    with pytest.raises(DataError, match=r"b.json: category 1: its keypoints are .*another order"):
        found(tmp_path, rows, annotated(rows, 1), names=DOG.keypoint_names[::-1])


@pytest.mark.slow
def test_the_command_prints_a_table_and_the_skeletons_line(tmp_path):
    rows = dogs(30)
    write(tmp_path / "annotations" / "person_keypoints_train.json", annotated(rows, 1))
    second = write(tmp_path / "second.json", annotated(rows, 2))
    check = ("mspn_jax", "check", "--config", "finetune", f"--config.data.root={tmp_path}")
    done = run(*check, "--sigmas", second)
    assert done.returncode == 0, done.stderr
    assert "90 people are in both" in done.stdout
    last = done.stdout.splitlines()[-1]
    skeleton = Skeleton.from_json(DOG.to_json() | json.loads(f"{{{last}}}"))
    np.testing.assert_allclose(skeleton.oks_sigmas, 2 * ERRORS, rtol=0.2)
    result = found(tmp_path, annotated(rows, 1), annotated(rows, 2))
    assert done.stdout.endswith("\n".join(sigma_lines(result, DOG)) + "\n")
    done = run(*check, "--sigmas", tmp_path / "nowhere.json")
    assert error_of(done) == f"error: {tmp_path}/nowhere.json: No such file or directory"
    done = run(*check, "--sigmas", second, "--output", tmp_path / "out")
    assert done.returncode == 1 and "error: --output: --sigmas only prints" in done.stderr

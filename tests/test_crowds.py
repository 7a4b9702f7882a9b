"""CrowdPose and OCHuman: files of their forms, and CrowdPose's own AP."""

import json
import math
import pathlib

import cv2
import numpy as np
import pytest

from commands import CONFIG, run
from mspn_jax.data import evaluation_set
from mspn_jax.data.validator import read_annotations
from mspn_jax.errors import DataError
from mspn_jax.evaluation import scoring
from mspn_jax.skeletons import COCO, CROWDPOSE

COCOS_LIMBS = json.loads(
    "[[16,14],[14,12],[17,15],[15,13],[12,13],[6,12],[7,13],[6,7],[6,8],[7,9],[8,10],[9,11]]"
)
NAMES = (
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
    "head",
    "neck",
)
SIGMAS = (0.079,) * 2 + (0.072,) * 2 + (0.062,) * 2 + (0.107,) * 2 + (0.087,) * 2 + (0.089,) * 2
LEVELS = {"APeasy": (0.0, 0.2), "APmedium": (0.2, 0.8), "APhard": (0.8, 99.0)}


def write(root: pathlib.Path, split: str, crowd_indices, names=NAMES, seed=0) -> pathlib.Path:
    """A split in CrowdPose's form: no areas, COCO's limbs, crowds that have keypoints."""
    rng = np.random.default_rng(seed)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    images, annotations = [], []
    for i, index in enumerate(crowd_indices):
        image_id = 100_000 + 10 * seed + i
        image = {"file_name": f"{image_id}.jpg", "id": image_id, "height": 90, "width": 120}
        images.append(image | ({} if index is None else {"crowdIndex": index}))
        pixels = rng.integers(0, 255, (90, 120, 3), np.uint8)
        cv2.imwrite(str(root / "images" / image["file_name"]), pixels)
        for k in range(rng.integers(2, 6)):
            x, y, w, h = *rng.uniform(0, 40, 2), *rng.uniform(20, 60, 2)
            v = rng.choice([0, 1, 2], len(names), p=[0.3, 0.2, 0.5]) * (rng.random() > 0.15)
            xy = rng.uniform((x, y), (x + w, y + h), (len(names), 2)).round() * (v > 0)[:, None]
            annotations.append(
                {
                    "num_keypoints": int((v > 0).sum()),
                    "iscrowd": int(k == 0 and i % 4 == 3),
                    "keypoints": np.column_stack([xy, v]).astype(int).ravel().tolist(),
                    "image_id": image_id,
                    "bbox": [x, y, w, h],
                    "category_id": 1,
                    "id": 200_000 + len(annotations),
                }
            )
    category = {"supercategory": "person", "id": 1, "name": "person", "keypoints": list(names)}
    content = {"images": images, "annotations": annotations}
    content["categories"] = [category | {"skeleton": COCOS_LIMBS}]
    path = root / "annotations" / f"person_keypoints_{split}.json"
    path.write_text(json.dumps(content))
    return path


def results_of(path: pathlib.Path, seed=1) -> list[dict]:
    """One or two results near each person, and one at random."""
    rng = np.random.default_rng(seed)
    results = []
    for row in json.loads(path.read_text())["annotations"]:
        triples = np.reshape(row["keypoints"], (-1, 3)).astype(float)
        for spread in rng.choice([0.3, 1.0, 2.0, 20.0], rng.integers(1, 3)):
            found = triples[:, :2] + rng.normal(0, spread, triples[:, :2].shape)
            keypoints = np.column_stack([found, np.ones(len(found))]).ravel().tolist()
            result = {"image_id": row["image_id"], "category_id": 1, "bbox": row["bbox"]}
            results.append(result | {"keypoints": keypoints, "score": float(rng.random())})
    return results


def crowdposes_own(path: pathlib.Path, results: list[dict], low: float, high: float) -> float:
    """AP over the pictures with a crowd index in [low, high), by loops over pictures and people.

    A person's area is 0.53 of their box. Crowds and people without keypoints are ignored, and so
    are results that match them.
    """
    content = json.loads(path.read_text())
    ids = [i["id"] for i in content["images"] if low <= i["crowdIndex"] < high]
    precisions = []
    for threshold in np.linspace(0.5, 0.95, 10):
        judged, num_people = [], 0
        for image_id in sorted(ids):
            people = [a for a in content["annotations"] if a["image_id"] == image_id]
            ignored = [bool(a["iscrowd"] or not a["num_keypoints"]) for a in people]
            num_people += ignored.count(False)
            order = sorted(range(len(people)), key=lambda k: ignored[k])
            taken = set()
            found = [r for r in results if r["image_id"] == image_id]
            for result in sorted(found, key=lambda r: -r["score"])[:20]:
                best, best_oks = None, min(threshold, 1 - 1e-10)
                for k in order:
                    if k in taken and not people[k]["iscrowd"]:
                        continue
                    if best is not None and not ignored[best] and ignored[k]:
                        break
                    similarity = oks(people[k], result)
                    if similarity >= best_oks:
                        best, best_oks = k, similarity
                if best is not None:
                    taken.add(best)
                if best is None or not ignored[best]:
                    judged.append((result["score"], best is not None))
        judged.sort(key=lambda pair: -pair[0])
        hits, curve = 0, []
        for n, (_, is_hit) in enumerate(judged, 1):
            hits += is_hit
            curve.append((hits / num_people, hits / n))
        for recall in np.linspace(0, 1, 101):
            precisions.append(max([p for r, p in curve if r >= recall], default=0.0))
    return float(np.mean(precisions))


def oks(person: dict, result: dict) -> float:
    sigmas = (*SIGMAS, 0.079, 0.079)
    x, y, w, h = person["bbox"]
    is_labelled = person["num_keypoints"] > 0
    terms = []
    for k in range(14):
        true_x, true_y, v = person["keypoints"][3 * k : 3 * k + 3]
        found_x, found_y, _ = result["keypoints"][3 * k : 3 * k + 3]
        dx, dy = found_x - true_x, found_y - true_y
        if not is_labelled:  # the distance beyond the box, enlarged by its own size on each side
            dx = max(0, x - w - found_x) + max(0, found_x - x - 2 * w)
            dy = max(0, y - h - found_y) + max(0, found_y - y - 2 * h)
        if v or not is_labelled:
            terms.append(math.exp(-(dx**2 + dy**2) / (2 * 0.53 * w * h * (2 * sigmas[k]) ** 2)))
    return sum(terms) / len(terms)


def test_the_skeleton_is_crowdposes():
    assert CROWDPOSE.keypoint_names == NAMES
    assert CROWDPOSE.oks_sigmas == (*SIGMAS, 0.079, 0.079)
    assert np.flatnonzero(~CROWDPOSE.is_upper_body).tolist() == [6, 7, 8, 9, 10, 11]
    limbs = sorted(tuple(sorted(limb)) for limb in CROWDPOSE.limbs)
    assert " ".join(f"{a}-{b}" for a, b in limbs) == (
        "0-1 0-2 0-6 0-13 1-3 1-7 1-13 2-4 3-5 6-7 6-8 7-9 8-10 9-11 12-13"
    )


@pytest.mark.parametrize("seed", range(3))
def test_ap_by_crowd_index_is_crowdposes_own(seed, tmp_path):
    path = write(tmp_path, "test", [0.0, 0.19, 0.2, 0.5, 0.79, 0.8, 1.09, 0.1, 0.3, 0.9], seed=seed)
    given = dict(root=tmp_path, split="test", skeleton=CROWDPOSE)
    truth = evaluation_set.open_split(**given, box_area_share=0.53).annotations
    boxes = np.array([a["bbox"] for a in json.loads(path.read_text())["annotations"]])
    np.testing.assert_allclose(truth.areas, 0.53 * boxes[:, 2] * boxes[:, 3])
    results = results_of(path, seed)
    metrics = scoring.crowd_metrics(truth, results, CROWDPOSE)
    metrics |= {"AP": scoring.coco_metrics(truth, results, CROWDPOSE)[0]["AP"]}
    for name, (low, high) in (LEVELS | {"AP": (0.0, 99.0)}).items():
        expected = crowdposes_own(path, results, low, high)
        assert 0.05 < expected < 0.95
        assert metrics[name] == pytest.approx(expected, abs=1e-9), name
    larger = evaluation_set.open_split(**given).annotations  # by whole boxes
    assert scoring.coco_metrics(larger, results, CROWDPOSE)[0]["AP"] > metrics["AP"] + 0.01


def test_a_level_without_pictures_or_results_and_pictures_without_an_index(tmp_path):
    path = write(tmp_path, "test", [0.5, None, 0.9])
    truth = read_annotations(root=tmp_path, split="test", skeleton=CROWDPOSE)
    ids = truth.image_ids
    found = [r for r in results_of(path) if r["image_id"] != ids[2]]
    metrics = scoring.crowd_metrics(truth, found, CROWDPOSE)
    assert metrics["APeasy"] == -1 and metrics["APhard"] == 0
    alone = [r for r in found if r["image_id"] == ids[0]]
    assert metrics == scoring.crowd_metrics(truth, alone, CROWDPOSE)
    write(tmp_path, "plain", [None, None])
    plain = read_annotations(root=tmp_path, split="plain", skeleton=CROWDPOSE)
    assert plain.crowd_indices is None and scoring.crowd_metrics(plain, found, CROWDPOSE) == {}


def test_a_crowd_index_that_is_no_number_is_refused(tmp_path):
    write(tmp_path, "test", [0.5, "much"])
    with pytest.raises(DataError, match='image 100001: crowdIndex is "much"; expected a number'):
        read_annotations(root=tmp_path, split="test", skeleton=CROWDPOSE)


def test_ochuman_is_read_as_it_is(tmp_path):
    """Areas are the boxes', and every person has keypoints."""
    path = write(tmp_path, "val", [None] * 4, names=COCO.keypoint_names)
    content = json.loads(path.read_text())
    content["annotations"] = [
        row | {"area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for row in content["annotations"]
        if row["num_keypoints"]
    ]
    path.write_text(json.dumps(content))
    dataset = evaluation_set.open_split(root=tmp_path, split="val", skeleton=COCO)
    assert len(dataset.boxes) == len(content["annotations"])
    results = [
        {key: row[key] for key in ("image_id", "category_id", "bbox", "keypoints")} | {"score": 1.0}
        for row in content["annotations"]
    ]
    metrics, _ = scoring.coco_metrics(dataset.annotations, results, COCO)
    assert metrics["AP"] == pytest.approx(1)


@pytest.mark.slow
def test_crowdpose_from_training_to_evaluation(tmp_path):
    write(tmp_path, "trainval", [0.1, 0.5, 0.9, 0.4], seed=1)
    write(tmp_path, "test", [0.1, 0.5, 0.9], seed=2)
    tiny = CONFIG.replace("default.get_config(", "mspn50_crowdpose_256x192.get_config(")
    tiny = tiny.replace('"tiny", num_stages=1', "").replace("ROOT", str(tmp_path))
    tiny = tiny.replace("import default", "import mspn50_crowdpose_256x192")
    config = tmp_path / "tiny.py"
    config.write_text(tiny.replace("num_steps = 12", "num_steps = 3"))
    done = run("train.py", "--config", config, "--workdir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    given = ("--checkpoint", tmp_path / "run", "--output", tmp_path / "out")
    done = run("eval.py", "--config", config, *given)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for name in LEVELS:
        assert f" {name:18} = {metrics[name]:.3f}\n" in done.stdout

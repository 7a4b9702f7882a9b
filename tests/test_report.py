"""The report of an evaluation: its metrics are right, and the page shows them."""

import dataclasses
import itertools
import json
import pathlib
import re

import cv2
import numpy as np
import pytest
from browser import opened

import commands
from mspn_jax.data import evaluation_set
from mspn_jax.errors import DataError
from mspn_jax.evaluation.diagnosis import KINDS
from mspn_jax.evaluation.results import coco_results
from mspn_jax.evaluation.scoring import METRICS, coco_metrics
from mspn_jax.reports import charts, evaluation
from mspn_jax.reports.cases import CasePicture
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import people
from mspn_jax.variables import initial_variables
from mspn_jax.weights import checkpoints
from mspn_jax.weights.description import Description


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("drawn")
    people.write_dataset(root, {"train2017": 1, "val2017": 16})
    return root


@pytest.fixture(scope="module")
def dataset(root):
    return evaluation_set.open_split(root=root, split="val2017", skeleton=COCO)


@pytest.fixture(scope="module")
def results(dataset):
    """The annotations with noise: some little, some much, some with left and right confused."""
    rng = np.random.default_rng(0)
    boxes = dataset.boxes
    keypoints = dataset.records.people.keypoints_image_xy.copy()
    keypoints[::5] = keypoints[::5][:, COCO.flip_permutation]
    shaken = keypoints + rng.normal(
        0, rng.choice([0.3, 2, 8, 60], (len(keypoints), 1, 1)), keypoints.shape
    )
    scores = rng.uniform(0.6, 1.2, shaken.shape[:2])
    return coco_results(
        boxes.image_ids, boxes.boxes_xyxy, boxes.scores, shaken, scores, np.ones(len(boxes)), COCO
    )


@pytest.fixture(scope="module")
def folder(dataset, results, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("report")
    evaluation.write(folder, dataset, results, COCO, {"model": "shaken <truth>", "boxes in all": 7})
    return folder


@pytest.fixture(scope="module")
def metrics(folder) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_the_metrics_are_cocos(dataset, results, metrics):
    ten, _ = coco_metrics(dataset.annotations, results, COCO)
    assert {name: metrics[name] for name in METRICS} == ten
    curves = metrics["precision_recall"]
    assert list(curves["precision"]) == [f"{0.5 + 0.05 * i:.2f}" for i in range(10)]
    for threshold, precision in curves["precision"].items():
        assert len(precision) == len(curves["recall"]) == 101
        assert np.mean(precision) == pytest.approx(curves["AP"][threshold])
    assert np.mean(list(curves["AP"].values())) == pytest.approx(ten["AP"])
    assert curves["AP"]["0.50"] == pytest.approx(ten["AP50"])
    assert 0.05 < ten["AP"] < 0.95


def test_groups_contain_each_person_once_and_a_group_of_all_scores_as_all(
    dataset, results, metrics, monkeypatch
):
    labelled = metrics["people"]["labelled"]
    assert len(dataset.boxes) == labelled
    for key in ("by_size", "by_labelled"):
        assert sum(group["people"] for group in metrics[key]) == labelled
    monkeypatch.setattr(evaluation, "SIZE_EDGES_PX", (0, 10_000, 20_000))
    everyone, *nobody = evaluation.measure(dataset, results, COCO)[0]["by_size"]
    assert everyone["people"] == labelled
    for name in ("AP", "AP50", "AP75", "AR"):
        assert everyone[name] == pytest.approx(metrics[name])
        assert nobody[0][name] is None


def test_errors_in_one_group_do_not_lower_another(dataset, results):
    """Results of people of at least 64 pixels are 40 pixels off. The other groups have AP 1."""
    _, people, judged = evaluation.measure(dataset, results, COCO)
    is_big = np.sqrt(people.areas) >= 64
    perfect = []
    for row in np.flatnonzero(judged.match >= 0):
        keypoints_xy = people.keypoints_image_xy[row] + 40 * is_big[row]
        triples = np.concatenate([keypoints_xy, np.ones((17, 1))], -1)
        perfect.append(results[judged.match[row]] | {"keypoints": triples.ravel().tolist()})
    matched = np.isin(dataset.annotations.ids, people.ids[judged.match >= 0])
    of_matched = dataclasses.replace(dataset, annotations=dataset.annotations.select(matched))
    metrics, *_ = evaluation.measure(of_matched, perfect, COCO)
    below_64 = [group for group in metrics["by_size"][:2] if group["people"]]
    assert below_64 and all(group["AP"] == pytest.approx(1) for group in below_64)
    assert metrics["AP"] < 0.8
    assert all(group["AP"] < 0.8 for group in metrics["by_size"][2:4] if group["people"])


def replaced(node, numbers):
    """A copy of metrics in which each number is replaced by the next of `numbers`."""
    if isinstance(node, dict):
        return {key: replaced(value, numbers) for key, value in node.items()}
    if isinstance(node, list):
        return [replaced(value, numbers) for value in node]
    return node if isinstance(node, bool | str | None) else next(numbers)


def leaves(node, key=""):
    if not isinstance(node, dict | list):
        return {key: node}
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    return {k: v for name, value in pairs for k, v in leaves(value, f"{key}/{name}").items()}


def forms(number: float) -> set[str]:
    return {format(number, spec) for spec in ("", ",", ".3f", ".1f", ".1%")}


def test_the_page_shows_all_metrics_and_no_other_numbers(metrics, tmp_path):
    changed = replaced(metrics, (1000.375 + i for i in itertools.count()))
    for group in changed["by_size"] + changed["by_labelled"]:
        group["name"] = "a group"
    sections = ("unmatched", "worst", "best")
    pictures = {
        section: [
            CasePicture("data:,", dict.fromkeys(case["keypoints"], (0.0, 0.0, 0.0, 0.0)))
            for case in changed[section]
        ]
        for section in sections
    }
    evaluation.write_page(tmp_path / "page.html", changed, pictures)
    body = (tmp_path / "page.html").read_text("utf-8").split("<body>")[1]
    body = body.split("<h2>Definitions")[0]
    body = re.sub(r'<div class="chart".*?</div>|<td class="words">.*?</td>', "", body, flags=re.S)
    texts = re.findall(r'>([^<]+)<|title="([^"]+)"', body)
    shown = set(re.findall(r"(?<![\w.])\d[\d.,]*%?", " ".join(map("".join, texts))))
    shown = {number.strip(".,") for number in shown} - set(metrics["precision_recall"]["AP"])
    numbers = {k: v for k, v in leaves(changed).items() if isinstance(v, float)}
    assert shown <= set().union(*map(forms, numbers.values()))
    missing = {key for key, number in numbers.items() if not forms(number) & shown}
    # The chart shows the curves. The bars show shares instead of counts.
    assert all(re.match("/precision_recall/|/keypoints/.*/count", key) for key in missing)
    assert not any("/AP/" in key for key in missing)


def test_an_undefined_metric_is_a_dash(metrics, tmp_path):
    pictures = {"unmatched": [], "worst": [], "best": []}
    evaluation.write_page(tmp_path / "page.html", metrics | {"APM": None}, pictures)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "<span>APM</span><b>-</b>" in text and "<h2>Best" not in text


def test_the_chart_has_a_curve_per_threshold_and_text(metrics):
    curves = metrics["precision_recall"]
    undefined = dict.fromkeys(curves["precision"], [-1.0] * 101)
    for precision, are_drawn in ((curves["precision"], True), (undefined, False)):
        svg = charts.precision_recall(curves | {"precision": precision})
        drawn = re.findall(r'<g id="oks-([\d.]+)"><title>.*?</title>\s*<path d="[^"]', svg)
        assert drawn == list(curves["AP"]) * are_drawn
        assert re.search(r"<text[^>]*>precision</text>", svg)
    assert len(set(charts.curve_colors(10))) == 10


# Machado, Oliveira & Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency", 2009: full severity, linear RGB.
COLOR_VISIONS = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


@pytest.mark.parametrize("vision", COLOR_VISIONS)
def test_colors_of_kinds_differ_for_color_blind_people(folder, vision):
    text = (folder / "report.html").read_text("utf-8")
    lab = {}
    for kind in KINDS:
        (color,) = re.findall(f"--{kind}: #(\\w{{6}})", text)
        rgb = (np.frombuffer(bytes.fromhex(color), np.uint8) / 255) ** 2.2
        seen = (np.clip(COLOR_VISIONS[vision] @ rgb, 0, 1) ** (1 / 2.2)).astype(np.float32)
        lab[kind] = cv2.cvtColor(seen[None, None], cv2.COLOR_RGB2LAB)[0, 0]
    for one, other in itertools.combinations(KINDS, 2):
        assert np.linalg.norm(lab[one] - lab[other]) > 25, (one, other)


def test_the_page_loads_nothing_and_is_small(folder):
    text = (folder / "report.html").read_text("utf-8")
    addresses = re.findall(r"""(?:href|src)=["']([^"']*)|url\(([^)]*)\)""", text)
    assert len(addresses) > 10
    assert all("".join(a).startswith(("data:image/jpeg;base64,", "#")) for a in addresses)
    assert "<script" not in text and "@import" not in text
    assert "shaken &lt;truth&gt;" in text and "<truth>" not in text
    assert len(text) < 10e6


@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_in_a_browser(folder, tmp_path, width):
    seen = opened(folder / "report.html", tmp_path, width)
    assert seen["console"] == []
    assert seen["overflow"] <= 0 and seen["broken"] == 0
    assert seen["height"] > 2000 and seen["text"] > 3000


def test_cases_are_in_order_and_in_one_section_only(metrics):
    worst, best = ([case["OKS"] for case in metrics[name]] for name in ("worst", "best"))
    assert worst == sorted(worst) and best == sorted(best, reverse=True)
    assert max(worst) <= min(best)
    sections = ("unmatched", "worst", "best")
    ids = [case["annotation_id"] for name in sections for case in metrics[name]]
    assert len(ids) == len(set(ids)) > 10
    assert not any(case["matched"] for case in metrics["unmatched"])
    for case in metrics["worst"] + metrics["best"]:
        assert case["matched"] and sum(case["errors"].values()) == case["labelled"]
        kinds = [keypoint["kind"] for keypoint in case["keypoints"].values()]
        assert {kind: kinds.count(kind) for kind in KINDS} == case["errors"]


def test_without_results_there_is_an_error_and_no_folder(dataset, tmp_path):
    with pytest.raises(DataError, match="nobody was found"):
        evaluation.write(tmp_path / "new", dataset, [], COCO, {})
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_command_writes_a_report_or_explains_in_one_line(root, tmp_path):
    config = tmp_path / "tiny.py"
    config.write_text(commands.CONFIG.replace("ROOT", str(root)))
    model = dict(
        num_stages=1,
        num_keypoints=17,
        blocks_per_unit=(1, 1, 1, 1),
        stem_channels=8,
        unit_channels=16,
    )
    description = Description("tiny", model, crop_hw=(64, 64))
    variables = initial_variables(description.new_model(), 0, (64, 64))
    checkpoints.save_variables(tmp_path / "start", description, variables)

    def run(*arguments):
        return commands.run(
            "eval.py",
            "--config",
            config,
            "--checkpoint",
            tmp_path / "start",
            "--report",
            tmp_path / "out",
            "--config.eval.metrics=('PCK@0.2', 'EPE')",
            *arguments,
        )

    images = json.loads((root / "annotations/person_keypoints_val2017.json").read_text())["images"]
    (root / "annotations/image_info_test-dev.json").write_text(json.dumps({"images": images}))
    (root / "test-dev").symlink_to(root / "val2017")
    detections = tmp_path / "detections.json"
    row = {"image_id": images[0]["id"], "category_id": 1, "bbox": [0, 0, 50, 90], "score": 0.5}
    detections.write_text(json.dumps([row]))
    refused = run("--config.data.val_split=test-dev", f"--config.data.detections={detections}")
    assert refused.returncode == 1 and not (tmp_path / "out").exists()
    assert "error: --report: test-dev has no annotations" in refused.stderr
    assert "Traceback" not in refused.stderr

    done = run("--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {*METRICS, "keypoints", "by_size"} <= set(metrics)
    assert f"PCK@0.2            = {metrics['PCK@0.2']:.3f}\n" in done.stdout
    assert f"EPE                = {metrics['EPE']:.3f}\n" in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"<span>PCK@0.2</span><b>{metrics['PCK@0.2']:.3f}</b>" in page
    assert metrics["about"]["model"] == "tiny"
    assert (tmp_path / "out" / "report.html").stat().st_size > 50_000

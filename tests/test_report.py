"""The report of an evaluation: its figures are right, all in metrics.json, and the page stands."""

import dataclasses
import html.parser
import json
import pathlib

import numpy as np
import pytest
from browser import opened

import commands
from mspn_jax.data import evaluation_set
from mspn_jax.errors import DataError
from mspn_jax.evaluation.diagnosis import KINDS
from mspn_jax.evaluation.scoring import METRICS, coco_metrics, coco_results
from mspn_jax.reports import evaluation
from mspn_jax.reports.page import Figures
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
    """The truth, shaken: some a little, some much, some with left and right confused."""
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


def test_the_figures_are_cocos(dataset, results, metrics):
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


def test_groups_hold_everyone_once_and_a_group_of_all_scores_as_all(
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


def test_a_group_is_not_charged_with_the_estimates_of_another(dataset, results):
    """Perfect, but for everyone of at least 64 pixels, who is 40 off: the others have AP 1."""
    _, people, judged = evaluation.measure(dataset, results, COCO)
    is_big = np.sqrt(people.areas) >= 64
    perfect = []
    for row in np.flatnonzero(judged.match >= 0):
        keypoints_xy = people.keypoints_image_xy[row] + 40 * is_big[row]
        triples = np.concatenate([keypoints_xy, np.ones((17, 1))], -1)
        perfect.append(results[judged.match[row]] | {"keypoints": triples.ravel().tolist()})
    matched = np.isin(dataset.annotations.ids, people.ids[judged.match >= 0])
    of_matched = dataclasses.replace(dataset, annotations=dataset.annotations.select(matched))
    figures, *_ = evaluation.measure(of_matched, perfect, COCO)
    below_64 = [group for group in figures["by_size"][:2] if group["people"]]
    assert below_64 and all(group["AP"] == pytest.approx(1) for group in below_64)
    assert figures["AP"] < 0.8
    assert all(group["AP"] < 0.8 for group in figures["by_size"][2:4] if group["people"])


class Printed(html.parser.HTMLParser):
    """Collects what the page prints with a key, and the digits it prints without one."""

    def __init__(self):
        super().__init__()
        self.keyed: list[tuple[str, str, str]] = []
        self.titles: list[tuple[str, str]] = []
        self.stray: list[str] = []
        self.urls: list[str] = []
        self.inside: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.urls += [attributes[name] for name in ("href", "src") if name in attributes]
        if tag not in ("meta", "br", "image", "line", "circle", "polyline", "img"):
            self.inside.append((tag, attributes))

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop()[0] != tag:
            pass

    def handle_data(self, text):
        tag, attributes = self.inside[-1] if self.inside else ("", {})
        tags = {tag for tag, _ in self.inside}
        classes = {a.get("class") for _, a in self.inside}
        if tag == "data":
            self.keyed.append((attributes["data-key"], attributes["data-form"], text))
        elif tag == "title" and "data-key" in attributes:
            self.titles.append((attributes["data-key"], text))
        elif tags & {"td", "p", "figcaption", "dd"} or "tile" in classes:
            exempt = classes & {"terms", "words"} or text.startswith("AP") or text.startswith("AR")
            if not exempt and any(c.isdigit() for c in text):
                self.stray.append(text)


def test_every_figure_of_the_page_is_in_its_metrics(folder, metrics):
    printed = Printed()
    printed.feed((folder / "report.html").read_text("utf-8"))
    figures = Figures(metrics)
    assert len(printed.keyed) > 17 * 4 + 10 + 10
    assert set(METRICS) <= {key for key, _, _ in printed.keyed}
    for key, form, text in printed.keyed:
        value = figures.value(key)
        assert text == ("-" if value is None else format(value, form)), key
    assert len(printed.titles) > 20
    for key, text in printed.titles:
        assert f" {figures.text(key, '.1f')} px" in text
    # A threshold of the curves' legend is the name of a key, and no figure.
    assert [t for t in printed.stray if t not in metrics["precision_recall"]["AP"]] == []
    assert all(url.startswith("data:image/jpeg;base64,") for url in printed.urls) and printed.urls


def test_the_page_is_drawn_from_the_metrics_alone(metrics):
    """Other figures, another page: nothing is worked out on the way."""
    changed = json.loads(json.dumps(metrics))
    changed["AP"] = 0.1234567
    changed["keypoints"]["nose"]["median_error_px"] = 98.7654
    changed["errors"]["swap"]["share"] = 0.98765
    text = "".join(evaluation.parts(Figures(changed), {}))
    for shown in ('value="0.1234567">0.123<', ">98.8<", ">98.8%<", "flex:0.9877"):
        assert shown in text
    assert text.count("<polyline") == 10


def test_the_page_loads_nothing_and_is_small(folder):
    text = (folder / "report.html").read_text("utf-8")
    for address in ("http:", "https:", "<script", "@import", "url(", "//cdn"):
        assert address not in text
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


def test_nothing_found_is_one_line_and_leaves_the_folder_alone(dataset, tmp_path):
    with pytest.raises(DataError, match="nobody was found"):
        evaluation.write(tmp_path / "new", dataset, [], COCO, {})
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_command_writes_a_report_or_says_in_a_line_why_not(root, tmp_path):
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
    assert metrics["about"]["model"] == "tiny"
    assert (tmp_path / "out" / "report.html").stat().st_size > 50_000

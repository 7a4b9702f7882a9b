"""How the report of an evaluation looks: its sections, in order, and the pictures of its cases."""

import html
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mspn_jax import geometry
from mspn_jax.crops import cut, decode_picture
from mspn_jax.data.annotations import Annotations
from mspn_jax.data.evaluation_set import EvaluationSet
from mspn_jax.drawing import annotate_people
from mspn_jax.evaluation.diagnosis import KINDS, NOBODY, Diagnosis
from mspn_jax.evaluation.scoring import METRICS
from mspn_jax.reports import page
from mspn_jax.reports.page import Figures
from mspn_jax.skeletons import Skeleton

CASE_HW, CASE_PADDING = (480, 360), 1.25
STRAY = 0.5  # how far beyond its box, in boxes, an estimate still widens the picture of its case

_KIND_TERMS = {
    "good": "Similarity of at least 0.85 with its own annotated place.",
    "jitter": "Similarity of 0.5 to 0.85 with its own place: right, but not precise.",
    "inversion": "Closest to the mirrored keypoint of the same person: left and right confused.",
    "swap": "Closest to that keypoint, or its mirrored one, of another person.",
    "miss": "Similarity below 0.5 with all of these: nowhere near.",
}
_CASES = {
    "unmatched": "Matched with nobody found",
    "worst": "The worst of the matched",
    "best": "The best",
}
_TERMS = {
    "OKS": "Object keypoint similarity of a person found with one annotated, 0 to 1: the mean, over"
    " the labelled keypoints, of exp(&minus;d² / 2s²(2&sigma;)²), with d the distance in pixels,"
    " s² the annotated area and &sigma; the keypoint's own falloff. A keypoint's"
    " <em>similarity</em> is its part in this mean.",
    "AP, AR": "COCO's average precision and recall over the OKS thresholds 0.50, 0.55 … 0.95, by"
    " pycocotools; AP50 and AP75 at one threshold; APM and APL of people of 32² to 96² and of more"
    " square pixels. COCO takes at most 20 people of a picture.",
    "Size, labelled": "AP and AR of the group's people alone, with what was found nearest (in OKS)"
    " to one of them and what was found in pictures without labelled people."
    " Crowds and people without labelled keypoints are ignored, as everywhere. Size is the square"
    " root of the annotated area. APM and APL differ a little from such groups: COCO sorts what it"
    " cannot match by the size of its own box.",
    "Kinds of error": "After Ruggero Ronchi and Perona, “Benchmarking and Error Diagnosis in"
    " Multi-Instance Pose Estimation”, ICCV 2017. Taken over the labelled keypoints of people who"
    " were matched, best score first, with someone found at an OKS of at least 0.1.",
    "Cases": "People with more than 5/17 of their keypoints labelled, by OKS; those without a match"
    " with whoever was found nearest. Drawn: the person found (left orange,"
    " right blue); white rings: where the keypoints were annotated; lines: estimates that are not"
    " good, in the colour of their kind. Point at a ring for its name and error.",
}


def parts(figures: Figures, pictures: dict[str, list[str]]) -> list[str]:
    """The page, section by section. `pictures` are the SVGs of the cases."""
    sections = [
        "<header><h1>Evaluation report</h1>",
        page.about(figures, "about"),
        "</header>",
        '<div class="tiles">',
        *(f'<div class="tile"><span>{n}</span>{figures(n, ".3f")}</div>' for n in METRICS),
        "</div>",
        "<h2>Precision and recall</h2>",
        "<p class='soft'>One curve for each OKS from which a person counts as found."
        " The area under a curve is its AP.</p>",
        _curves(figures),
        "<h2>Kinds of error</h2>",
        f"<p class='soft'>Of the labelled keypoints of {figures('people/matched', ',')} people,"
        f" whose mean OKS is {figures('people/mean_oks', '.3f')}. The other"
        f" {figures('people/unmatched', ',')} of {figures('people/labelled', ',')} could be matched"
        " with nobody found.</p>",
        page.stack(figures, "errors", tall=True),
        page.table(
            ("kind", "keypoints", "share", "which is"),
            [
                (
                    f'<i class="swatch {kind}"></i>{kind}',
                    figures(f"errors/{kind}/count", ","),
                    figures(f"errors/{kind}/share", ".1%"),
                    _KIND_TERMS[kind],
                )
                for kind in KINDS
            ],
        ),
        "<h2>By keypoint</h2>",
        page.table(
            ("keypoint", "labelled", "similarity", "median error, px", "mean error, px", "kinds"),
            [
                (
                    html.escape(name.replace("_", " ")),
                    figures(f"keypoints/{name}/labelled", ","),
                    figures(f"keypoints/{name}/similarity", ".3f"),
                    figures(f"keypoints/{name}/median_error_px", ".1f"),
                    figures(f"keypoints/{name}/mean_error_px", ".1f"),
                    page.stack(figures, f"keypoints/{name}/errors"),
                )
                for name in figures.value("keypoints")
            ],
        ),
        "<h2>By size of the person</h2>",
        _groups(figures, "by_size", "√area"),
        "<h2>By number of labelled keypoints</h2>",
        _groups(figures, "by_labelled", "labelled"),
    ]
    for name, svgs in pictures.items():
        sections += _cases(figures, name, svgs)
    terms = (f"<dt>{term}</dt><dd>{text}</dd>" for term, text in _TERMS.items())
    return [*sections, "<h2>Definitions</h2>", f'<dl class="terms">{"".join(terms)}</dl>']


def _cases(figures: Figures, name: str, svgs: list[str]) -> list[str]:
    captions = (_caption(figures, f"{name}/{i}") for i in range(len(svgs)))
    shown = (
        f"<figure>{svg}<figcaption>{text}</figcaption></figure>"
        for svg, text in zip(svgs, captions)
    )
    return [f"<h2>{_CASES[name]}</h2>", '<div class="cases">', *shown, "</div>"] if svgs else []


def _curves(figures: Figures) -> str:
    precision = figures.value("precision_recall/precision")
    chart = page.line_chart(
        figures.value("precision_recall/recall"),
        {f"OKS {t}": p for t, p in precision.items()},
        x_name="recall",
        y_name="precision",
        label="Precision over recall, for ten OKS thresholds",
    )
    rows = [
        (
            f'<i class="swatch" style="background:{page.color_of_rank(i, len(precision))}"></i>'
            + name,
            figures(f"precision_recall/AP/{name}", ".3f"),
        )
        for i, name in enumerate(precision)
    ]
    return f'<div class="beside">{chart}{page.table(("OKS ≥", "AP"), rows)}</div>'


def _groups(figures: Figures, key: str, name: str) -> str:
    return page.table(
        (name, "people", "AP", "AP50", "AP75", "AR"),
        [
            (
                figures(f"{key}/{i}/name"),
                figures(f"{key}/{i}/people", ","),
                *(figures(f"{key}/{i}/{metric}", ".3f") for metric in ("AP", "AP50", "AP75", "AR")),
            )
            for i in range(len(figures.value(key)))
        ],
    )


def _caption(figures: Figures, key: str) -> str:
    kinds = [kind for kind in KINDS if figures.value(f"{key}/errors/{kind}")]
    said = ", ".join(f"{figures(f'{key}/errors/{kind}')} {kind}" for kind in kinds)
    return (
        f"OKS {figures(f'{key}/OKS', '.3f')}, {figures(f'{key}/labelled')} labelled<br>"
        f"{said and said + '<br>'}picture {figures(f'{key}/image_id')},"
        f" annotation {figures(f'{key}/annotation_id')}"
    )


def picture_of_case(
    dataset: EvaluationSet,
    results: list[dict[str, Any]],
    people: Annotations,
    judged: Diagnosis,
    row: int,
    skeleton: Skeleton,
    key: str,
    figures: dict[str, Any],
) -> str:
    """A person as SVG: the picture annotated with the prediction, and `rings` on it.

    Args:
      key: of the case in `figures`.
    """
    labelled = people.visibility[row] > 0
    true_xy = people.keypoints_image_xy[row]
    found = judged.closest[row]
    triples = (
        np.zeros((len(true_xy), 3))
        if found == NOBODY
        else np.reshape(results[found]["keypoints"], (-1, 3))
    )

    box_xyxy = geometry.boxes_xywh_to_xyxy(people.boxes_xywh[row])
    stray = STRAY * (box_xyxy[2:] - box_xyxy[:2])
    shown_xy = [box_xyxy.reshape(2, 2), true_xy[labelled]]
    if judged.match[row] != NOBODY:
        near_xy = np.clip(triples[:, :2], box_xyxy[:2] - stray, box_xyxy[2:] + stray)
        shown_xy.append(near_xy[labelled])
    corners = np.concatenate(shown_xy)
    center_xy, size_wh = geometry.crop_regions(
        np.concatenate([corners.min(0), corners.max(0)]), CASE_PADDING, CASE_HW
    )
    to_case = geometry.image_to_crop(center_xy, size_wh, 0.0, CASE_HW)
    image_id = people.image_ids[people.image_rows[row]]
    record = dataset.records.source[int(np.flatnonzero(dataset.records.image_ids == image_id)[0])]
    crop = np.zeros((*CASE_HW, 3), np.uint8)
    cut(decode_picture(record["image"]), to_case, False, crop)
    found_xy = geometry.transform(to_case, triples[:, :2])
    inside = ((found_xy >= 0) & (found_xy < CASE_HW[::-1])).all(-1)
    crop = annotate_people(crop, found_xy[None], np.where(inside, triples[:, 2], 0)[None], skeleton)

    true_xy = geometry.transform(to_case, true_xy)
    size = f'width="{CASE_HW[1]}" height="{CASE_HW[0]}"'
    svg = [
        f'<svg viewBox="0 0 {CASE_HW[1]} {CASE_HW[0]}"><image {size} href="{page.jpeg_uri(crop)}"/>'
    ]
    svg += rings(skeleton, np.flatnonzero(labelled), true_xy, found_xy, Figures(figures), key)
    return "".join(svg) + "</svg>"


def rings(
    skeleton: Skeleton,
    labelled: Int[np.ndarray, "N"],
    true_xy: Float[np.ndarray, "K 2"],
    found_xy: Float[np.ndarray, "K 2"],
    metrics: Figures,
    key: str,
) -> Iterator[str]:
    """A ring around each labelled keypoint, and a line to its prediction if that is not good.

    Args:
      labelled: indices of keypoints.
      true_xy, found_xy: pixels of the case's picture.
      key: of the case in `metrics`.
    """
    for k in labelled:
        name = skeleton.keypoint_names[k]
        kind = metrics.value(f"{key}/keypoints/{name}/kind")
        (x, y), (found_x, found_y) = true_xy[k], found_xy[k]
        if kind not in (None, "good"):
            ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{found_x:.1f}" y2="{found_y:.1f}"'
            yield f'<line class="link {kind}" {ends}/>'
        at = f'cx="{x:.1f}" cy="{y:.1f}"'
        error_key = f"{key}/keypoints/{name}/error_px"
        yield (
            f'<circle class="halo" {at} r="5"/><circle class="true" {at} r="5"/>'
            f'<circle class="hover" {at} r="9"><title data-key="{error_key}">'
            f"{html.escape(name)}: {kind or 'no match'}, {metrics.text(error_key, '.1f')} px"
            "</title></circle>"
        )

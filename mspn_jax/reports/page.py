"""Self-contained HTML pages: figures, tables, charts and pictures, with nothing to load.

A page's figures are those of one dictionary that is also written as json. `Figures` prints them,
and leaves with each the key under which it is found there.
"""

import base64
import html
import importlib.resources
import os
import string
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mspn_jax.drawing import encode_picture
from mspn_jax.storage.files import write_text

_CHART_WH, _CHART_MARGIN = (520, 340), 42


class Figures:
    """Prints figures of a nested dictionary, each by its key: "keypoints/nose/similarity"."""

    def __init__(self, figures: dict[str, Any]):
        self.figures = figures

    def value(self, key: str) -> Any:
        """What is there; lists are entered by number.

        Raises:
          KeyError, IndexError: nothing is.
        """
        node: Any = self.figures
        for part in key.split("/"):
            node = node[int(part)] if isinstance(node, list) else node[part]
        return node

    def text(self, key: str, form: str = "") -> str:
        """The figure as text; a dash where there is none."""
        value = self.value(key)
        return "-" if value is None else format(value, form)

    def __call__(self, key: str, form: str = "") -> str:
        """The figure as HTML, with its key and its value in full."""
        value = self.value(key)
        full = "" if value is None else html.escape(str(value))
        return (
            f'<data data-key="{html.escape(key)}" data-form="{form}" value="{full}">'
            f"{html.escape(self.text(key, form))}</data>"
        )


def write(path: str | os.PathLike, title: str, parts: Iterable[str]) -> None:
    """Writes a page of HTML parts, whole or not at all."""
    template = (
        importlib.resources.files("mspn_jax.reports")
        .joinpath("page.html")
        .read_text(encoding="utf-8")
    )
    page = string.Template(template).substitute(title=html.escape(title), body="\n".join(parts))
    write_text(path, page)


def about(figures: Figures, key: str) -> str:
    """A dictionary of the figures as a line of names and values."""
    rows = (
        f"<div><dt>{name}</dt><dd>{figures(f'{key}/{name}')}</dd></div>"
        for name in figures.value(key)
    )
    return f'<dl class="about">{"".join(rows)}</dl>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already. The first column is text, the others figures."""
    rows = list(rows)
    kinds = ["bar" if cell.startswith('<div class="stack') else "" for cell in rows[0]]
    if rows[0][-1].endswith("."):  # a sentence
        kinds[-1] = "words"

    def line(cells: Sequence[str], tag: str) -> str:
        inside = (f'<{tag} class="{kind}">{cell}</{tag}>' for cell, kind in zip(cells, kinds))
        return f"<tr>{''.join(inside)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return (
        f'<div class="wide"><table><thead>{line(head, "th")}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def stack(figures: Figures, key: str, tall: bool = False) -> str:
    """A bar of the `share`s of the kinds at `key`, in the colours of their names."""
    parts = "".join(
        f'<i class="{kind}" style="flex:{share:.4f}" title="{kind} '
        f'{figures.text(f"{key}/{kind}/share", ".1%")}"></i>'
        for kind in figures.value(key)
        if (share := figures.value(f"{key}/{kind}/share"))
    )
    return f'<div class="stack{" tall" if tall else ""}">{parts}</div>'


def color_of_rank(rank: int, count: int) -> str:
    """A series of hues of one lightness, which the style sheet sets for light and dark."""
    return f"oklch(var(--lightness) 0.13 {255 - 215 * rank / max(1, count - 1):.0f})"


def line_chart(
    x: Sequence[float],
    series: dict[str, Sequence[float]],
    *,
    x_name: str,
    y_name: str,
    label: str,
) -> str:
    """Lines over the unit square; negative values (COCO's -1: none) are left out."""
    (width, height), margin = _CHART_WH, _CHART_MARGIN
    inner_w, inner_h = width - margin - 12, height - margin - 12

    def place(across: float, up: float) -> str:
        return f"{margin + across * inner_w:.1f},{12 + (1 - up) * inner_h:.1f}"

    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{label}">'
    ]
    for tick in np.linspace(0, 1, 6):
        (left, y), (right, _) = place(0, tick).split(","), place(1, tick).split(",")
        parts.append(f'<line class="grid-line" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        up, across = f'x="{margin - 7}" y="{y}" dy="4"', place(tick, 0).split(",")[0]
        parts.append(f'<text class="tick" {up} text-anchor="end">{tick:.1f}</text>')
        down = f'x="{across}" y="{height - margin + 18}"'
        parts.append(f'<text class="tick" {down} text-anchor="middle">{tick:.1f}</text>')
    parts.append(
        f'<text x="{margin + inner_w / 2}" y="{height - 6}" text-anchor="middle">{x_name}</text>'
        f'<text transform="translate(11 {12 + inner_h / 2}) rotate(-90)" text-anchor="middle">'
        f"{y_name}</text>"
    )
    for rank, (name, values) in enumerate(series.items()):
        points = " ".join(place(a, b) for a, b in zip(x, values) if b >= 0)
        parts.append(
            f'<polyline class="curve" style="stroke:{color_of_rank(rank, len(series))}"'
            f' points="{points}"><title>{html.escape(name)}</title></polyline>'
        )
    return "".join(parts) + "</svg>"


def jpeg_uri(image: UInt8[np.ndarray, "H W 3"]) -> str:
    """An RGB picture inside a URI."""
    encoded = base64.b64encode(encode_picture(image, ".jpg"))
    return f"data:image/jpeg;base64,{encoded.decode()}"

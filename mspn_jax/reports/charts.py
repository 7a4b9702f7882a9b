"""Charts of the pages, drawn by matplotlib as SVG."""

import io
from typing import Any

import numpy as np

COLORMAP, COLOR_RANGE = "plasma", (0.35, 0.78)  # readable on white and on black
SIZE_INCHES = (6.2, 4.2)


def curve_colors(count: int) -> list[str]:
    """Hexadecimal colours of an ordered series of curves, from dark to bright."""
    import matplotlib.colors  # imported late, like all of matplotlib: it takes half a second

    shades = matplotlib.colormaps[COLORMAP](np.linspace(*COLOR_RANGE, count))
    return [matplotlib.colors.to_hex(shade) for shade in shades]


def precision_recall(curves: dict[str, Any]) -> str:
    """An SVG of precision over recall, one curve per OKS threshold, from `precision_recall` of
    metrics.json. Pointing at a curve shows its threshold and AP.

    Text stays text, and has the colour and font of the page's style sheet.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mspn_jax"}):
        figure = Figure(SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot(xlabel="recall", ylabel="precision")
        axes.set(xlim=(0, 1), ylim=(0, 1.005))
        axes.grid(color="gray", alpha=0.25)
        axes.tick_params(length=0, pad=7)
        axes.spines[:].set_visible(False)
        precision = curves["precision"]
        for (threshold, values), color in zip(precision.items(), curve_colors(len(precision))):
            # matplotlib skips NaN. COCO's -1 means that a precision is undefined.
            defined = np.where(np.array(values) < 0, np.nan, values)
            axes.plot(curves["recall"], defined, color=color, linewidth=1.8, gid=f"oks-{threshold}")
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    svg = file.getvalue()
    for threshold, value in curves["AP"].items():
        group = f'<g id="oks-{threshold}">'
        svg = svg.replace(group, f"{group}<title>OKS {threshold}, AP {value:.3f}</title>")
    return svg[svg.index("<svg") :]

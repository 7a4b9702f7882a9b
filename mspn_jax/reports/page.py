"""Self-contained HTML pages, rendered by Jinja2 from the templates in this folder."""

import base64
import os
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mspn_jax.drawing import encode_picture
from mspn_jax.storage.files import write_text


def write(path: str | os.PathLike, template: str, **context: Any) -> None:
    """Renders a template of this folder with its variables, and writes the page atomically.

    The template extends page.html, which shows `about`, names and values.
    """
    import jinja2  # only pages need it

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mspn_jax.reports", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["metric"] = _metric
    write_text(path, environment.get_template(template).render(context))


def _metric(value: float | None, spec: str = ".3f") -> str:
    """Formats a number by Python's format specification; None becomes a dash."""
    return "-" if value is None else format(value, spec)


def jpeg_uri(image: UInt8[np.ndarray, "H W 3"]) -> str:
    """Encodes an RGB picture as JPEG in a data URI."""
    encoded = base64.b64encode(encode_picture(image, ".jpg"))
    return f"data:image/jpeg;base64,{encoded.decode()}"

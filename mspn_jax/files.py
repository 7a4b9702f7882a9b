"""Files that are written whole or not at all, whenever the program is killed."""

import json
import os
import pathlib
import tempfile
from typing import Any


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replaces a file by one with `text` in it; raises OSError, and then the old one stands."""
    path = pathlib.Path(path)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def write_json(path: str | os.PathLike, content: Any, indent: int | None = None) -> None:
    """Likewise with json; TypeError for what it cannot hold."""
    write_text(path, json.dumps(content, indent=indent) + "\n")

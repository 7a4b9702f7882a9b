"""Where weights come from: the note beside converted weights, and the published files."""

import dataclasses
import json
import pathlib

from mspn_jax.errors import CheckpointError
from mspn_jax.storage import files, paths

# Published by mmpose: name -> the first eight characters of the file's sha256, as in the name.
PUBLISHED = {
    f"{variant}_coco_256x192-{sha256}_20201123.pth": sha256
    for variant, sha256 in {
        "mspn50": "8fbfb5d0",
        "2xmspn50": "c8765a5c",
        "3xmspn50": "e348f18e",
        "4xmspn50": "7b837afb",
    }.items()
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """`source.json`: what weights were converted from.

    Attributes:
      source: name of the file, or path and step of the checkpoint.
      kind: of its names (`torch.names.Kind`), or "our own".
      sha256: of the file.
      batches_tracked: torch's counts by their mmpose 1.x names. Our network has none; `to_torch`
        puts them back.
    """

    source: str
    kind: str
    sha256: str = ""
    batches_tracked: dict[str, int] = dataclasses.field(default_factory=dict)

    def write(self, folder: paths.Path) -> None:
        files.write_json(folder / "source.json", dataclasses.asdict(self), indent=2)

    @classmethod
    def read(cls, folder: paths.Path) -> "Origin | None":
        """None if the folder has no readable note."""
        try:
            return cls(**json.loads(files.read_text(folder / "source.json")))
        except (OSError, ValueError, TypeError):
            return None


def is_published(file: pathlib.Path, sha256: str) -> bool:
    """Whether a file is one of those that mmpose published.

    Raises:
      CheckpointError: it has the name of one, but other contents.
    """
    published = PUBLISHED.get(file.name)
    if published is not None and not sha256.startswith(published):
        raise CheckpointError(
            f"{file}: damaged, or not what was published: its sha256 begins {sha256[:8]}, but its"
            f" name says {published}; download it again"
        )
    return published is not None

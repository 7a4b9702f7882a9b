"""Where weights come from: the note beside converted weights, and the published files."""

import dataclasses
import pathlib

from mspn_jax.errors import CheckpointError
from mspn_jax.storage import files, paths


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """A checkpoint that mmpose publishes, trained on COCO at 256x192. Apache 2.0."""

    name: str
    sha256: str  # the first eight characters of the file's, as in its name
    num_bytes: int  # of the file, about
    # mmpose 1.3.2 reports them, for COCO val2017 with flip test. The detector has person AP 56.4.
    metrics: dict[str, float]

    @property
    def file(self) -> str:
        return f"{self.name}_coco_256x192-{self.sha256}_20201123.pth"

    @property
    def url(self) -> str:
        return f"https://download.openmmlab.com/mmpose/top_down/mspn/{self.file}"

    def beside(self, metrics: dict[str, float], differences: list[str]) -> list[str]:
        """Lines with each metric beside the published one, or why they cannot be compared."""
        about = f"{self.name} on COCO val2017, on detected boxes, with flip test"
        if differences:
            told = ", ".join(f"{name} {value:.3f}" for name, value in self.metrics.items())
            return [
                f"published of {about}: {told}",
                f"not comparable: here {'; '.join(differences)}",
            ]
        lines = [f"{about}:", f"{'':6}{'here':>8}{'published':>11}"]
        off = {name: metrics[name] - value for name, value in self.metrics.items()}
        for name, value in self.metrics.items():
            remark = "" if abs(off[name]) < _AGREEMENT else f"  {off[name]:+.4f}"
            lines.append(f"{name:6}{metrics[name]:8.4f}{value:11.3f}{remark}")
        agree = all(abs(difference) < _AGREEMENT for difference in off.values())
        verdict = "agree" if agree else "do not agree: is the detections' person AP 56.4?"
        return [*lines, f"the metrics {verdict}"]


_AGREEMENT = 0.001  # published metrics have three digits, some cut off
_METRICS = ("AP", "AP50", "AP75", "AR", "AR50")
MODELS = {
    name: PublishedModel(name, sha256, num_bytes, dict(zip(_METRICS, metrics)))
    for name, sha256, num_bytes, metrics in (
        ("mspn50", "8fbfb5d0", 101_000_000, (0.723, 0.895, 0.794, 0.788, 0.934)),
        ("2xmspn50", "c8765a5c", 228_000_000, (0.754, 0.903, 0.826, 0.816, 0.942)),
        ("3xmspn50", "e348f18e", 355_000_000, (0.758, 0.904, 0.830, 0.821, 0.943)),
        ("4xmspn50", "7b837afb", 482_000_000, (0.765, 0.906, 0.835, 0.826, 0.943)),
    )
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """`source.json`: what weights were converted from."""

    source: str  # name of the file, or path and step of the checkpoint
    kind: str  # of its names (`torch.names.Kind`), or "our own"
    sha256: str = ""  # of the file
    # Torch's counts by their mmpose 1.x names. Our network has none; `to_torch` puts them back.
    batches_tracked: dict[str, int] = dataclasses.field(default_factory=dict)

    def write(self, folder: paths.Path) -> None:
        files.write_json(folder / "source.json", dataclasses.asdict(self), indent=2)

    @classmethod
    def read(cls, folder: paths.Path) -> "Origin | None":
        """None if the folder has no readable note."""
        try:
            origin = cls(**files.parsed(files.read_text(folder / "source.json")))
        except (OSError, ValueError, TypeError):
            return None
        tracked = origin.batches_tracked
        is_sound = all(
            isinstance(each, str) for each in (origin.source, origin.kind, origin.sha256)
        )
        is_sound &= isinstance(tracked, dict) and all(type(v) is int for v in tracked.values())
        return origin if is_sound else None


def published_as(file_name: str) -> PublishedModel | None:
    """The published model whose file has this name."""
    return next((model for model in MODELS.values() if model.file == file_name), None)


def is_published(file: pathlib.Path, sha256: str) -> bool:
    """Whether mmpose published this file. CheckpointError: it has the name, but other contents."""
    published = published_as(file.name)
    if published is not None and not sha256.startswith(published.sha256):
        raise CheckpointError(
            f"{file}: damaged, or not what was published: its sha256 begins {sha256[:8]}, but its"
            f" name says {published.sha256}; download it again"
        )
    return published is not None

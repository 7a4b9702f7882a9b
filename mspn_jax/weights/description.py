"""`model.json`: what inference needs to know besides the weights."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from mspn_jax.errors import CheckpointError
from mspn_jax.model import COARSEST_STRIDE, MEAN_RGB, MSPN, STD_RGB
from mspn_jax.skeletons import COCO, SKELETONS, Skeleton
from mspn_jax.storage import files, paths

FILE = "model.json"
# Larger values are mistakes: no machine has the memory or the time for them.
LARGEST_SIZES = {  # of an MSPN
    "num_stages": 16,
    "num_keypoints": 4096,
    "stem_channels": 4096,
    "unit_channels": 4096,
}
LARGEST_LAYERS = 64
LARGEST_CROP = 4096  # pixels
SMALLEST_PADDING, LARGEST_PADDING = 0.1, 10
_LAYERS = "blocks_per_unit"


@dataclasses.dataclass(frozen=True)
class Description:
    """What `model.json` holds.

    Attributes:
      variant: the config's name, such as mspn50_coco_256x192.
      model: keyword arguments of `MSPN`, without the dtype.
      skeleton: all of it, so that a checkpoint is enough to use the network; None if unknown.
      crop_hw: the network's input, in pixels.
      padding: size of the crop region over the size of the box.
      source: where the weights come from.
    """

    variant: str
    model: dict[str, Any]
    skeleton: Skeleton | None = COCO
    crop_hw: tuple[int, int] = (256, 192)
    padding: float = 1.25
    source: str = ""

    def new_model(self, **arguments) -> MSPN:
        """The described network; `arguments` (dtype, axis_name) are added, or replace others."""
        return MSPN(**(self.model | arguments))

    def new_skeleton(self) -> Skeleton:
        """Raises CheckpointError if the skeleton is unknown: training can start from such weights,
        inference cannot use them."""
        if self.skeleton is None:
            raise CheckpointError(
                f"this checkpoint of {self.variant} does not name its keypoints: convert it again,"
                " with --skeleton"
            )
        return self.skeleton

    def write(self, folder: str | os.PathLike) -> None:
        folder = paths.path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / FILE, self.to_json(), indent=2)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"skeleton": self.skeleton and self.skeleton.to_json()}

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "Description":
        """Raises CheckpointError if the file is missing, cut, or not as `write` writes it."""
        path = paths.path(folder) / FILE
        try:
            fields = files.parsed(files.read_text(path))
            if problems := list(_problems(fields)):
                raise ValueError("; ".join(problems))
            skeleton = fields.get("skeleton", COCO.name)
            if isinstance(skeleton, str):  # older versions wrote the name alone
                skeleton = SKELETONS.get(skeleton)
            elif skeleton is not None:
                skeleton = Skeleton.from_json(skeleton)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error}): copy it from another checkpoint of the same"
                " network, or convert again"
            ) from None
        for constant in ("mean_rgb", "std_rgb"):
            fields.pop(constant, None)
        model = {k: tuple(v) if k == _LAYERS else v for k, v in fields["model"].items()}
        crop_hw = tuple(fields.get("crop_hw", cls.crop_hw))
        return cls(**fields | {"model": model, "skeleton": skeleton, "crop_hw": crop_hw})


def _problems(content: Any) -> Iterator[str]:
    """What keeps the json from being a `Description`."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        yield "not an object with the key model"
        return
    model = content["model"]
    names = {field.name for field in dataclasses.fields(Description)} | {"mean_rgb", "std_rgb"}
    for key in sorted(content.keys() - names):
        yield f"unknown key {key}"
    for key in sorted(model.keys() - LARGEST_SIZES.keys() - {_LAYERS}):
        yield f"unknown key model.{key}"
    for key, largest in LARGEST_SIZES.items():
        if key not in model and key != "num_stages":  # the others have defaults
            continue
        if not _is_size(model.get(key), largest):
            yield f"model.{key} is {model.get(key)!r}, must be an integer from 1 to {largest:,}"
    blocks = model.get(_LAYERS, [1, 1, 1, 1])
    if not (
        isinstance(blocks, list)
        and len(blocks) == 4
        and all(_is_size(each, LARGEST_LAYERS) for each in blocks)
    ):
        yield f"model.{_LAYERS} is {blocks!r}, must be four integers from 1 to {LARGEST_LAYERS}"
    for key, value in (("variant", content.get("variant")), ("source", content.get("source", ""))):
        if not isinstance(value, str):
            yield f"{key} is {value!r}, must be a string"
    crop_hw = content.get("crop_hw", [COARSEST_STRIDE, COARSEST_STRIDE])
    if not (
        isinstance(crop_hw, list)
        and len(crop_hw) == 2
        and all(_is_size(side, LARGEST_CROP) and side % COARSEST_STRIDE == 0 for side in crop_hw)
    ):
        yield (
            f"crop_hw is {crop_hw!r}, must be two multiples of {COARSEST_STRIDE}, at most"
            f" {LARGEST_CROP:,}"
        )
    padding = content.get("padding", 1.0)
    low, high = SMALLEST_PADDING, LARGEST_PADDING
    if type(padding) not in (int, float) or not low <= padding <= high:
        yield f"padding is {padding!r}, must be a number from {low} to {high}"
    for key, constant in (("mean_rgb", MEAN_RGB), ("std_rgb", STD_RGB)):  # older versions' keys
        if (value := content.get(key, list(constant))) != list(constant):
            yield f"{key} {value}, where the network takes {list(constant)}"


def _is_size(value: Any, largest: int) -> bool:
    return type(value) is int and 1 <= value <= largest

"""The flags of `mspn predict` and `mspn serve` that say which network and detector find people."""

import jax.numpy as jnp
from absl import flags

from mspn_jax import backends, finder, heatmaps
from mspn_jax.commands import command_line
from mspn_jax.detector.outputs import LAYOUTS, NORMALISATIONS
from mspn_jax.errors import UsageError
from mspn_jax.finder import Detect, PeopleFinder

MODEL = flags.DEFINE_string(
    "model",
    finder.MODEL,
    "a published name, a workdir (its best), one step's folder, or convert's output",
)
DETECTOR = flags.DEFINE_string("detector", finder.DETECTOR, "a published name, or an .onnx")
_DETECTOR_CLASS = flags.DEFINE_string(
    "detector_class",
    "person",
    "what the detector looks for: one of COCO's 80 classes, or its index",
)
_DETECTOR_NMS = flags.DEFINE_float(
    "detector_nms", 0.45, "of two boxes that overlap more, the worse is dropped"
)
_DETECTOR_HW = flags.DEFINE_list(
    "detector_hw", None, "height,width to which pictures are resized, if the file takes any size"
)
_DETECTOR_LAYOUT = flags.DEFINE_enum(
    "detector_layout", None, LAYOUTS, "what the file returns; by default recognised"
)
_DETECTOR_NORMALISATION = flags.DEFINE_enum(
    "detector_normalisation",
    None,
    list(NORMALISATIONS),
    "what the file takes; by default recognised, but for YOLOX's files of release 0.1.0",
)
_MAX_PEOPLE = flags.DEFINE_integer(
    "max_people", None, "of a picture, those with the best boxes", lower_bound=1
)
MIN_BOX_SCORE = flags.DEFINE_float("min_box_score", 0.3, "leave out boxes with a lower score")
_MIN_SCORE = flags.DEFINE_float(
    "min_score",
    finder.MIN_SCORE,
    "leave out detected people with a lower confidence: box score times mean heatmap peak, from 0"
    " (no keypoint found) to 1",
)
_STAGES = flags.DEFINE_integer("stages", None, "run only so many stages; by default all")
_FLIP_TEST = flags.DEFINE_bool("flip_test", True, "average with the mirrored; twice the work")
_DECODING = flags.DEFINE_enum(
    "decoding", "quarter", heatmaps.DECODINGS, "how a heatmap gives its keypoint"
)
_BF16 = flags.DEFINE_bool("bf16", False, "compute in bfloat16")
_BACKEND = flags.DEFINE_enum(
    "backend",
    None,
    backends.BACKENDS,
    "what computes the network; by default onnxruntime on a CPU in float32 if the extra onnx is"
    " installed, else jax",
)

_ONLY_OF_A_DETECTOR = (
    _DETECTOR_CLASS,
    _DETECTOR_NMS,
    _DETECTOR_HW,
    _DETECTOR_LAYOUT,
    _DETECTOR_NORMALISATION,
    _MAX_PEOPLE,
)


def load_finder(model: str | None = None, *, has_detector: bool = True) -> PeopleFinder:
    """The network of `model`, or else of --model, and the detector of the flags if there is one."""
    return PeopleFinder.load(
        model or MODEL.value,
        _load_detector() if has_detector else None,
        min_score=_MIN_SCORE.value,
        flip_test=_FLIP_TEST.value,
        num_stages=_STAGES.value,
        dtype=jnp.bfloat16 if _BF16.value else jnp.float32,
        decoding=_DECODING.value,
        backend=_BACKEND.value,
    )


def _load_detector() -> Detect:
    name = _DETECTOR_CLASS.value
    told = {"layout": _DETECTOR_LAYOUT.value, "normalisation": _DETECTOR_NORMALISATION.value}
    return finder.load_detector(
        DETECTOR.value,
        min_score=MIN_BOX_SCORE.value,
        nms_threshold=_DETECTOR_NMS.value,
        top_k=_MAX_PEOPLE.value,
        class_name=int(name) if name.isdecimal() else name,
        input_hw=command_line.height_width(_DETECTOR_HW),
        **{name: value for name, value in told.items() if value},  # a published one tells itself
    )


def refuse_detector_flags() -> None:
    """Raises UsageError if flags are given that are of a detector alone."""
    for flag in _ONLY_OF_A_DETECTOR:
        if flags.FLAGS[flag.name].present:
            raise UsageError(
                f"--{flag.name}: is of a detector, and the boxes are given without one"
            )

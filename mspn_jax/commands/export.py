"""Exports a network for deployment: python export.py --checkpoint PATH --format stablehlo|onnx

The file holds the network with its weights, with batch norm folded, normalisation and flip test.
--with-decode adds decoding to keypoints. The file is read back, run and compared with the network
before it is kept. FILE.json beside it describes inputs, outputs and source.
"""

import logging

import jax.numpy as jnp
from absl import flags

from mspn_jax.errors import ExportError, UsageError
from mspn_jax.export import formats
from mspn_jax.export.formats import Deployment
from mspn_jax.storage import paths
from mspn_jax.storage.files import write_json
from mspn_jax.storage.mirror import Mirror
from mspn_jax.weights import checkpoints, published

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "a published name, a workdir (its best is taken), one step's folder, or convert's output",
    required=True,
)
_FORMAT = flags.DEFINE_enum("format", None, list(formats.FORMATS), "what to write", required=True)
_OUTPUT = flags.DEFINE_string(
    "output", None, "the file to write; by default VARIANT.FORMAT in this folder"
)
_WITH_DECODE = flags.DEFINE_bool("with_decode", False, "give keypoints and scores, not heatmaps")
_DYNAMIC_BATCH = flags.DEFINE_bool("dynamic_batch", False, "take any number of crops at a time")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 1, "crops at a time, if not any number", lower_bound=1
)
_BF16 = flags.DEFINE_bool("bf16", False, "compute in bfloat16 (stablehlo)")
_STAGES = flags.DEFINE_integer("stages", None, "run only so many stages; by default all")
_FLIP_TEST = flags.DEFINE_bool("flip_test", True, "average with the mirrored; twice the work")
flags.DEFINE_alias("with-decode", "with_decode")
flags.DEFINE_alias("dynamic-batch", "dynamic_batch")

log = logging.getLogger("mspn_jax")


def main() -> None:
    description, variables, step = published.load(_CHECKPOINT.value)
    output = paths.path(_OUTPUT.value or f"{description.variant}.{_FORMAT.value}")
    card_file = output.with_name(f"{output.name}.json")
    for path in (output, card_file):
        if path.exists():
            raise UsageError(f"{path}: exists; give another --output, or remove it")
    deployment = Deployment(
        description,
        variables,
        num_stages=_STAGES.value,
        flip_test=_FLIP_TEST.value,
        with_decode=_WITH_DECODE.value,
        batch_size=None if _DYNAMIC_BATCH.value else _BATCH_SIZE.value,
        dtype=jnp.bfloat16 if _BF16.value else jnp.float32,
    )
    with Mirror(output.parent) as folder:
        file = folder.local / output.name
        try:
            differences = formats.write(file, deployment, _FORMAT.value)
        except ExportError as error:
            raise UsageError(f"{output}: {error}") from None
        except ImportError as error:
            # jax replaces the error of a missing flatbuffers by one without a name
            name = error.name or getattr(error.__cause__, "name", None)
            missing = f"{name} is not installed: pip install {name}" if name else str(error)
            raise UsageError(missing) from None
        metrics = checkpoints.metrics_of(step)
        card = formats.card(
            file, deployment, _FORMAT.value, differences=differences, metrics=metrics
        )
        write_json(folder.local / card_file.name, card)
        num_bytes = file.stat().st_size
    for name, difference in differences.items():
        print(f"{name}: at most {difference:.2g} from the network's")
    print(f"written: {output}, {num_bytes:,} bytes, of {step}, and {card_file}")

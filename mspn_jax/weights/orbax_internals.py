"""What orbax has no public setting for: all that this package uses of its private names.

A test fails if a name is gone. Without them checkpoints are still right, but large ones take more
memory to convert, and an outage of a bucket takes longer to be noticed.
"""

import contextlib
import itertools
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mspn_jax.storage import files

_CONTEXTS = ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT")
_BATCH_BITS = 22  # 4 MiB


def limit_retries() -> None:
    """If a bucket does not answer, tensorstore's 32 tries take 15 minutes; 7 take one or two."""
    with contextlib.suppress(ImportError):
        from orbax.checkpoint._src.serialization import tensorstore_utils

        for name in _CONTEXTS:
            getattr(tensorstore_utils, name, {})["gcs_request_retries"] = {"max_retries": 7}


class BatchedNumpyHandler(ocp.type_handlers.NumpyHandler):
    """Writes arrays in batches of some 4 MiB.

    Orbax makes two copies of every array that it is writing, and writes all at once.
    """

    async def _background_serialize(self, values, infos, args) -> None:
        edges = itertools.accumulate(value.nbytes for value in values)
        rows = zip(edges, values, infos, args)
        for _, batch in itertools.groupby(rows, lambda row: row[0] >> _BATCH_BITS):
            _, values, infos, args = zip(*batch)
            await super()._background_serialize(values, infos, args)
            for value in values:
                files.release(value)


def numpy_handlers() -> Any:
    """Type handlers that take least memory for arrays that do not change while they are written."""
    numpy_handler = BatchedNumpyHandler(deepcopy_host_arrays=False)
    # There are none of jax's arrays, but orbax warns if nobody would take them.
    jax_handler = ocp.type_handlers.ArrayHandler()
    return ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, numpy_handler), (jax.Array, jax_handler)
    )

"""Sessions of onnxruntime: of a detector's file, or of the network's own graph on a CPU."""

from collections.abc import Sequence
from typing import Any

CPU_PROVIDER = "CPUExecutionProvider"
_ERRORS_ONLY = 3  # onnxruntime's level of messages


def new_session(model: str | bytes, providers: Sequence[str] = (CPU_PROVIDER,)) -> Any:
    """An `onnxruntime.InferenceSession` of a file, or of its bytes.

    Its threads wait without spinning. Spinning threads would take a core from the next computation,
    which is JAX's or another session's (docs/benchmarks.md).
    """
    import onnxruntime  # takes a while to import

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=list(providers))
    session.disable_fallback()  # it prints, and hides why
    return session

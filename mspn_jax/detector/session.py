"""An ONNX file in onnxruntime: on which device it runs, and errors in one line."""

import contextlib
import ctypes
import io
import logging
import os
import pathlib
import sys
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from mspn_jax.errors import DataError
from mspn_jax.onnx_session import CPU_PROVIDER, new_session

log = logging.getLogger(__name__)

# In the order of preference. TensorRT compiles for minutes, and CoreML refuses outputs without
# boxes, so neither is asked for.
GPU_PROVIDERS = ("CUDAExecutionProvider", "MIGraphXExecutionProvider", "DmlExecutionProvider")


class Session:
    """A network of one picture."""

    def __init__(self, path: str | os.PathLike, providers: Sequence[str] | None = None):
        """Opens a file, or the .onnx in a .zip; by default on a GPU, if there is one."""
        import onnxruntime  # takes a while to import

        if not os.path.isfile(path):
            raise DataError(f"{path}: no such file")
        self.path = path
        self._model = _model(path)
        try:
            # onnxruntime prints what the warning below says
            with contextlib.redirect_stdout(io.StringIO()):
                asked = list(providers or _providers(onnxruntime))
                self._session = new_session(self._model, asked)
        except Exception as error:  # onnxruntime's errors share no narrower base class
            raise DataError(f"{path}: onnxruntime cannot load it ({_reason(error)})") from None
        self.provider: str = self._session.get_providers()[0]
        log.info("%s: runs on onnxruntime's %s", path, self.provider)
        if self.provider != asked[0]:
            log.warning(
                "%s: onnxruntime cannot use %s; are its libraries installed?", path, asked[0]
            )
        self.input_hw = self._checked_input()

    def _checked_input(self) -> tuple[int | None, int | None]:
        """The size that the file fixes; None for a side that it leaves open."""
        inputs = self._session.get_inputs()
        self._name, shape = inputs[0].name, inputs[0].shape
        is_picture = len(inputs) == 1 and len(shape) == 4 and inputs[0].type == "tensor(float)"
        if not is_picture or (isinstance(shape[1], int) and shape[1] != 3):
            takes = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
            raise DataError(
                f"{self.path}: takes {takes}, but a detector takes one tensor(float) [1, 3, H, W];"
                " export it in float32"
            )
        if isinstance(shape[0], int) and shape[0] != 1:
            raise DataError(
                f"{self.path}: takes {shape[0]} pictures at a time; export it with a batch of 1"
            )
        height, width = (side if isinstance(side, int) else None for side in shape[2:])
        return height, width

    def run(self, pixels: Float32[np.ndarray, "1 3 H W"]) -> list[Shaped[np.ndarray, "..."]]:
        """The outputs."""
        try:
            return self._session.run(None, {self._name: pixels})
        except Exception as error:
            raise DataError(
                f"{self.path}: onnxruntime cannot run it on {self.provider} ({_reason(error)});"
                " export it again, in float32 and with a batch of 1"
            ) from None

    def has_names(self, *marks: bytes) -> bool:
        """Whether all the marks occur in the file, which holds the names of nodes and weights."""
        model = self._model
        data = model if isinstance(model, bytes) else pathlib.Path(model).read_bytes()
        return all(mark in data for mark in marks)


def _model(path: str | os.PathLike) -> str | bytes:
    """What onnxruntime opens: the path, or the .onnx of a .zip, as mmdeploy's are published."""
    if pathlib.Path(path).suffix != ".zip":
        return os.fspath(path)
    try:
        with zipfile.ZipFile(path) as archive:
            models = [name for name in archive.namelist() if name.endswith(".onnx")]
            if len(models) != 1:
                raise DataError(f"{path}: holds {len(models)} .onnx files, not one; unpack it")
            return archive.read(models[0])
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:  # or encrypted
        raise DataError(f"{path}: not a .zip that can be read ({error})") from None


def _providers(onnxruntime: Any) -> list[str]:
    """The CPU's, after a GPU's if there is one: onnxruntime complains about absent devices."""
    available = onnxruntime.get_available_providers()
    found = [name for name in GPU_PROVIDERS if name in available]
    if "CUDAExecutionProvider" in found:
        if not _has_cuda_device():
            found.remove("CUDAExecutionProvider")
        elif hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls(directory="")  # of NVIDIA's packages, which pip installs
    return [*found[:1], CPU_PROVIDER]


def _has_cuda_device() -> bool:
    """Whether the NVIDIA driver finds a GPU."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int()
        failed = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
        return not failed and count.value > 0
    except (OSError, AttributeError):
        return False


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0]

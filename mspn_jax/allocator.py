"""How glibc's allocator deals with large arrays. Where the C library is another nothing happens."""

import ctypes
import importlib.metadata
import importlib.util

import jax

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # parameters of mallopt, from malloc.h
_NEVER = -1


def keep_freed_memory() -> None:
    """What is freed is kept for the next time, instead of given back to the system.

    Otherwise every picture's memory comes back page by page, each filled with zeros.
    """
    _set(_MMAP_MAX, 0)
    _set(_TRIM_THRESHOLD, _NEVER)


def prepare() -> None:
    """The same for the arrays of a training step, if JAX computes on the CPU.

    They are allocated in threads, and glibc always gives large arrays of the threads' own arenas
    back: all must share one, for which this has to come before there are any threads, which is
    before JAX finds its devices. It costs a loader some percent, and so is not for accelerators.
    """
    keep_freed_memory()
    platforms = jax.config.values["jax_platforms"]
    if platforms:
        on_cpu = platforms == "cpu"
    else:
        plugins = importlib.metadata.entry_points(group="jax_plugins")
        on_cpu = not plugins and importlib.util.find_spec("libtpu") is None
    if on_cpu:
        _set(_ARENA_MAX, 1)


def _set(parameter: int, value: int) -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(parameter, value)

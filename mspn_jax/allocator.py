"""Settings of glibc's allocator for large arrays. With another C library, nothing happens."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # mallopt's parameters, from malloc.h
_NEVER = -1


def keep_freed_memory(of_threads: bool = False) -> None:
    """Keeps freed memory in the process, for reuse.

    By default, glibc returns large arrays to the system, which zeroes each page when the next array
    touches it.

    Args:
      of_threads: also keep what threads allocate, such as the arrays of a training step on the CPU.
        All threads then share one arena, so call this before any thread starts, and so before JAX
        initialises its backends.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)
        if of_threads:
            libc.mallopt(_ARENA_MAX, 1)

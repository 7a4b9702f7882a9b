"""How glibc's allocator deals with large arrays. Where the C library is another nothing happens."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # parameters of mallopt, from malloc.h
_NEVER = -1


def keep_freed_memory(of_threads: bool = False) -> None:
    """What is freed is kept for the next time, instead of given back to the system.

    Otherwise every picture's memory comes back page by page, each filled with zeros.

    Args:
      of_threads: also what a thread's arena has no room for, such as the arrays of a training step
        on the CPU. All threads share one arena then, so this has to come before there are any,
        which is before JAX finds its devices.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)
        if of_threads:
            libc.mallopt(_ARENA_MAX, 1)

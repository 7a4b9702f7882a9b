"""How the C library's allocator deals with large arrays."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # parameters of mallopt, from malloc.h
_NEVER = -1


def keep_freed_memory() -> None:
    """Tells glibc to keep what is freed for the next time, instead of giving it back to the system.

    Otherwise every picture's memory, and on the CPU that of every training step, comes back from
    the system page by page, each filled with zeros. Threads must share one arena for that, as
    large arrays are always given back from those of their own; so this has to come before there
    are any, which is before JAX finds its devices. Nothing happens where the C library is another.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_ARENA_MAX, 1)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)

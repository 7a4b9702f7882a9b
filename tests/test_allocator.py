"""The process keeps freed memory: page faults are counted in a subprocess."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
import numpy as np
from mspn_jax import allocator

keep, in_thread = (argument == "yes" for argument in sys.argv[1:])
if keep:
    allocator.keep_freed_memory(of_threads=in_thread)

def count():
    np.ones(100 << 20, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(100 << 20, np.uint8)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=count)
thread.start() if in_thread else count()
"""


def faults(keep: str, in_thread: str) -> int:
    command = [sys.executable, "-c", PROGRAM, keep, in_thread]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
@pytest.mark.parametrize("in_thread", ["no", "yes"])
def test_large_arrays_reuse_the_pages_of_those_before(in_thread):
    assert faults("no", in_thread) > 200  # even if all pages are huge
    assert faults("yes", in_thread) < 20

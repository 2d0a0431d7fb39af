"""The allocator of the processor's memory."""

import ctypes
import sys
from collections.abc import Generator
from contextlib import contextmanager

# Of glibc's malloc.h, with the values that glibc starts with.
_TRIM_THRESHOLD, _TRIM_THRESHOLD_DEFAULT = -1, 128 * 1024
_MMAP_MAX, _MMAP_MAX_DEFAULT = -4, 65_536


@contextmanager
def freed_memory_kept() -> Generator[None]:
    """Inside, what is freed stays with the process; afterwards it is given back to the system.

    A training step makes and frees the same tensors of tens of megabytes, and glibc returns such blocks to the system
    at once, so that a fifth of a step goes into fetching and clearing pages. Does nothing where the C library is
    another one.
    """
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _MMAP_MAX_DEFAULT)
        libc.mallopt(_TRIM_THRESHOLD, _TRIM_THRESHOLD_DEFAULT)
        libc.malloc_trim(0)

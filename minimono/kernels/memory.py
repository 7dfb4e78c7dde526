"""Keep the memory that arrays give back, for the next arrays of their size.

A training step makes and drops the same arrays again and again. By default the C library (glibc)
returns large ones to the system at once, and each page that it gets anew costs a page fault, which
the system fills with zeros first: a quarter of the time of a small GPT's step, measured.
"""

import ctypes
import os

KEPT = 2**30  # bytes that may lie free at the end of the heap before some go back to the system
LARGEST = 32 * 2**20  # bytes of the largest block that is taken from the heap: glibc's limit

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as glibc's malloc.h numbers them


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory; returns whether it was told.

    It is not where the environment already says how `malloc` is to behave (`MALLOC_...`,
    `GLIBC_TUNABLES`), and where the C library is another.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)  # the functions of the running program
        library.gnu_get_libc_version  # noqa: B018  (raises AttributeError where there is none)
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT))

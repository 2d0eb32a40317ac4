"""How a CPU run holds on to its memory."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = 2**31 - 1  # bytes free at the top of the heap before it shrinks


def keep_freed_memory() -> None:
    """Have glibc keep freed tensors for the next step instead of handing each back to the kernel.

    Every step allocates the same tensors; mapped and zeroed anew they took a fifth of a training step (0.50 s against 0.39 s on one core,
    4 layers of 256). No effect elsewhere than on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)

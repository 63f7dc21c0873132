# SPDX-License-Identifier: Apache-2.0
"""Keeps the memory that XLA's kernels on a CPU give back, for their next call.

A kernel asks malloc for its scratch at every call. glibc returns such pieces to the
system, which then clears each page of the next ones: a fifth of the processor's time of
a training step (benchmarks/NOTES.md, 9).
"""

from __future__ import annotations

import ctypes
import os

# Of malloc.h: how much may lie free at the top before it is returned, how much more
# than asked for is taken, how many pieces have a mapping of their own, how many heaps.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_OPTIONS = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26, _MMAP_MAX: 0, _ARENA_MAX: 1}
# Where one of these is, the CPU only loads data, and many threads ask for memory.
_ACCELERATORS = ("/dev/nvidiactl", "/dev/accel0", "/dev/vfio/0")


def keep() -> bool:
  """Sets glibc's malloc so; returns whether it did. Call it before threads start."""
  if any(map(os.path.exists, _ACCELERATORS)):
    return False
  try:
    mallopt = ctypes.CDLL("libc.so.6").mallopt
  except (OSError, AttributeError):  # another system's C library
    return False
  return all([mallopt(option, value) for option, value in _OPTIONS.items()])

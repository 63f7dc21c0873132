# SPDX-License-Identifier: Apache-2.0
"""Memory that was given back is used again: counted in pages, not timed."""

import subprocess
import sys

import pytest

# Faults of 20 pieces of 40 MB, one after the other, each written and given back.
_PROGRAM = """
import resource, sys
import numpy as np
from lamd_jax.training import host_memory
if sys.argv[1] == "keep":
  assert host_memory.keep()
np.ones(5_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
  np.ones(5_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how):
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM, how], capture_output=True, text=True, check=True
  )
  return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc's malloc")
def test_pages_are_cleared_once(monkeypatch):
  monkeypatch.setenv("NUMPY_MADVISE_HUGEPAGE", "0")  # pages of one size
  assert _faults("keep") < 1000 < 100_000 < _faults("leave")


def test_a_host_with_an_accelerator_is_left_alone(monkeypatch, tmp_path):
  from lamd_jax.training import host_memory

  monkeypatch.setattr(host_memory, "_ACCELERATORS", (str(tmp_path),))
  assert not host_memory.keep()

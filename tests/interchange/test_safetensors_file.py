# SPDX-License-Identifier: Apache-2.0
"""Files of weights are to be passed on."""

import os
import stat

import numpy as np
import pytest

from lamd_jax.interchange import safetensors_file


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_others_may_read_what_the_umask_lets_them(tmp_path):
  path = tmp_path / "a.safetensors"
  before = os.umask(0o027)
  try:
    safetensors_file.write(path, {"x": np.zeros(2, np.float32)}, {})
    assert os.umask(0o027) == 0o027
  finally:
    os.umask(before)
  assert stat.S_IMODE(path.stat().st_mode) == 0o640

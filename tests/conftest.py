# SPDX-License-Identifier: Apache-2.0
"""Eight virtual CPU devices and one compile cache for the whole suite."""

from importlib import metadata
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and compute little: unoptimised code halves the compile time. So does
# code of fusions by LLVM alone, without MLIR before, which jaxlib 0.11 has no more.
_FLAGS = "--xla_backend_optimization_level=0"
if metadata.version("jaxlib").startswith("0.10."):
  _FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _FLAGS)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update(
  "jax_compilation_cache_dir",
  str(pathlib.Path(__file__).resolve().parents[1] / ".jax_cache"),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

FIXTURES = pathlib.Path(__file__).with_name("fixtures")


@pytest.fixture(scope="session")
def fixtures() -> pathlib.Path:
  """Folder with numbers computed by the reference implementation."""
  return FIXTURES

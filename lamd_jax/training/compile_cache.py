# SPDX-License-Identifier: Apache-2.0
"""The persistent compile cache: a second start of the same program compiles nothing.

It is on by default. LAMD_COMPILE_CACHE names another folder (a bucket works too) or
says `off`. With several processes it is on only where a folder is named, which all of
them must see: the first alone writes, and on GPUs those that compile wait for the tuning
of those that do not.
"""

from __future__ import annotations

import os
import pathlib

from absl import logging
import jax

VARIABLE = "LAMD_COMPILE_CACHE"


def _folder() -> str:
  chosen = os.environ.get(VARIABLE, "")
  if chosen:
    return chosen
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return str(pathlib.Path(cache) / "lamd_jax" / "xla")


def enable() -> str | None:
  """Switches the cache on and returns its folder; None if it is off.

  A folder that JAX already has (JAX_COMPILATION_CACHE_DIR, or a test's) stays.
  """
  if os.environ.get(VARIABLE) == "off":
    return None
  if jax.config.jax_compilation_cache_dir:
    return jax.config.jax_compilation_cache_dir
  if jax.process_count() > 1 and not os.environ.get(VARIABLE):
    return None
  folder = _folder()
  if "://" not in folder:
    try:
      pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
      logging.warning("no compile cache: cannot make %s (%s)", folder, error)
      return None
  jax.config.update("jax_compilation_cache_dir", folder)
  # By default JAX leaves out programs that compile in under a second. Start-up runs
  # dozens of those.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
  if "://" in folder:
    # XLA's own cache of GPU kernels would take the address for a local folder.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
  return folder

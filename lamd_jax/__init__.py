# SPDX-License-Identifier: Apache-2.0
"""Latent video diffusion in JAX: LVDM, LaMD and Gen-1, every stage trained."""

from __future__ import annotations

import typing

__version__ = "0.1.0"
__all__ = ["Clip", "Model", "load", "tile"]

if typing.TYPE_CHECKING:
  from lamd_jax.api import Clip, Model, load
  from lamd_jax.clip import tile


def __getattr__(name: str) -> typing.Any:
  # Lazy: `import lamd_jax.data` in a loader process must not start JAX.
  if name in __all__:
    from lamd_jax import api
    from lamd_jax import clip

    known = {"Model": api.Model, "load": api.load}
    return {**known, "Clip": clip.Clip, "tile": clip.tile}[name]
  raise AttributeError(f"module lamd_jax has no attribute {name}")

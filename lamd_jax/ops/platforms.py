# SPDX-License-Identifier: Apache-2.0
"""Several formulations of one computation, of which the platform takes its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def dependent(
  *arguments: Any, default: Callable[..., Any], **forms: Callable[..., Any]
) -> Any:
  """`lax.platform_dependent`, of whose forms one is traced where the mesh is known.

  A mesh says what its devices are, be they absent. Without one all forms are traced, with
  their gradients, and the platform that the program is lowered for takes its own.

  Args:
    *arguments: of the form.
    default: for platforms that `forms` does not name.
    **forms: by platform, cpu, tpu or cuda.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  if device is not None:
    platform = "cuda" if device.platform == "gpu" else device.platform
    return forms.get(platform, default)(*arguments)
  if jax.default_backend() != "gpu":  # cuDNN can be asked only where it is
    forms.pop("cuda", None)
  if not forms:
    return default(*arguments)
  return lax.platform_dependent(*arguments, default=default, **forms)

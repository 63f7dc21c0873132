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
    **forms: by platform, cpu or tpu.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  if device is None:
    return lax.platform_dependent(*arguments, default=default, **forms)
  return forms.get(device.platform, default)(*arguments)

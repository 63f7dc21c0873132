# SPDX-License-Identifier: Apache-2.0
"""What `train.mesh` means: how many devices each axis of the mesh gets. Plain Python.

A mesh is written as sizes, "data=2,fsdp=-1,tensor=4": -1 takes the devices that are
left, axes that are not named have one. The presets are such lines with a name.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
import re

from lamd_jax.errors import ConfigError

# data: copies of the parameters, each with its part of the batch. fsdp: parts of the
# batch too, with large arrays cut. tensor: parts of a layer. frames: parts of a clip.
AXES = ("data", "fsdp", "tensor", "frames")
BATCH_AXES = ("data", "fsdp")  # both cut the batch

# Layers that read what another one of the same block made, cut along its outputs.
READS_CUT = frozenset(("out", "conv_1", "dense_1"))

PRESETS = {
  "one": "",  # the first device alone
  "dp": "data=-1",
  "fsdp": "fsdp=-1",
  "fsdp_tp": "fsdp=-1,tensor=2",
  "frames": "data=-1,frames=2",
}


def sizes(mesh: str, devices: int) -> dict[str, int]:
  """Returns the number of devices on each of AXES.

  Args:
    mesh: a preset, or a product as above.
    devices: how many there are; all are used, but by "one".

  Raises:
    ConfigError: no such preset or axis, or the product does not fit.
  """
  found, flag = dict.fromkeys(AXES, 1), f"--config.train.mesh={mesh}"
  named: list[str] = []
  if mesh == "one":
    return found
  for part in PRESETS.get(mesh, mesh).split(","):
    axis, equals, size = (x.strip() for x in part.partition("="))
    if not equals:
      raise ConfigError(
        f"{flag}: {part!r} is not one of {', '.join(PRESETS)}, nor"
        f" a size such as fsdp=-1 of the axes {', '.join(AXES)}"
      )
    if axis not in AXES:
      raise ConfigError(
        f"{flag}: {axis!r} is no axis; choose from {', '.join(AXES)}"
      )
    if not re.fullmatch("-1|[1-9][0-9]*", size):
      raise ConfigError(
        f"{flag}: {axis}={size} is no number of devices; -1 takes what is left"
      )
    if axis in named:
      raise ConfigError(f"{flag}: {axis} is named twice")
    named.append(axis)
    found[axis] = int(size)
  return _fill(found, flag, devices)


def _fill(found: dict[str, int], flag: str, devices: int) -> dict[str, int]:
  """Puts the rest of the devices where -1 stands."""
  open_axes = [axis for axis, size in found.items() if size == -1]
  if len(open_axes) > 1:
    raise ConfigError(f"{flag}: -1 may stand once, not {len(open_axes)} times")
  named = math.prod(size for size in found.values() if size > 0)
  if devices % named or (not open_axes and devices != named):
    raise ConfigError(
      f"{flag}: its sizes make {named}, there are {devices} device(s); choose"
      " sizes whose product they are, or -1 for one of them"
    )
  return {axis: devices // named if n == -1 else n for axis, n in found.items()}


def batch_parts(mesh: str, devices: int) -> int:
  """Into how many pieces the mesh cuts a batch."""
  found = sizes(mesh, devices)
  return math.prod(found[axis] for axis in BATCH_AXES)


def tensor_axis(layer: str, shape: Sequence[int], parts: int) -> int | None:
  """Which axis of a layer's kernel `tensor` cuts into so many parts; None: none."""
  axis = -2 if layer in READS_CUT else -1
  return axis if parts > 1 and len(shape) > 1 and shape[axis] % parts == 0 else None

# SPDX-License-Identifier: Apache-2.0
"""How much arithmetic a second the steps do, and what share that is of the devices'.

Counted are convolutions and matrix products as they are carried out: what
rematerialisation computes twice counts twice. The share is of the dense bfloat16 peak in
the vendor's data sheet, whatever precision the run computes in.
"""

from __future__ import annotations

import jax

from lamd_jax.training import flops

# jax.Device.device_kind begins with -> FLOP/s of one device, dense, bfloat16
_PEAK = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "TPU7x": 1153.5e12,  # two devices a chip
  "NVIDIA A100": 312e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H100 NVL": 835e12,
  "NVIDIA H200": 989e12,
}


def peak(kind: str) -> float:
  """FLOP/s of a device by its kind; 0 where it is not known, as for CPUs."""
  found = [name for name in _PEAK if kind.startswith(name)]
  return _PEAK[max(found, key=len)] if found else 0.0


class Throughput:
  """Adds up the arithmetic of steps between two looks at the clock."""

  def __init__(self, devices: list[jax.Device]):
    """Args: the devices, of all processes, that share a step's work."""
    self._peak = sum(peak(device.device_kind) for device in devices)
    self._of_step: dict[str, int] = {}
    self._done = 0

  def count(self, variant: str, step, *arguments) -> None:
    """Notes that a step of `variant` is started.

    The first of a variant is traced here; calling it traces it no second time.
    """
    if variant not in self._of_step:
      self._of_step[variant] = flops.of_jaxpr(step.trace(*arguments).jaxpr.jaxpr)
    self._done += self._of_step[variant]

  def take(self, seconds: float) -> dict[str, float]:
    """Returns the scalars of the time since the last call, and begins anew."""
    done, self._done = self._done, 0
    if seconds <= 0:
      return {}
    rate = done / seconds
    share = {"utilisation": rate / self._peak} if self._peak else {}
    return {"tflops_per_second": rate / 1e12, **share}

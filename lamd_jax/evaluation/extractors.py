# SPDX-License-Identifier: Apache-2.0
"""From clips to features, as a protocol says; spread over all devices of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.errors import DataError
from lamd_jax.evaluation import random_network
from lamd_jax.evaluation import resize
from lamd_jax.evaluation import spread
from lamd_jax.evaluation.protocol import Protocol
from lamd_jax.networks import c3d
from lamd_jax.networks import i3d
from lamd_jax.nn import initializers

Apply = Callable[[Any, jax.Array], jax.Array]
RANDOM_I3D_SEED = 400  # never changed: another seed is another score


def random_i3d(protocol: Protocol) -> Any:
  """Returns the parameters of an I3D with fixed random weights."""
  clip = jax.ShapeDtypeStruct((1, i3d.MIN_FRAMES, i3d.SIZE, i3d.SIZE, 3), np.float32)
  network = i3d.I3D(protocol.epsilon)
  return initializers.initialize(network, RANDOM_I3D_SEED, clip)["params"]


def _i3d(protocol: Protocol) -> Apply:
  network = i3d.I3D(protocol.epsilon)

  def apply(params: Any, clips: jax.Array) -> jax.Array:
    x = resize.to_network(clips, i3d.SIZE, protocol.resize, protocol.crop)
    return network.apply({"params": params}, x)

  return apply


def _c3d(protocol: Protocol) -> Apply:
  """Class probabilities, from which an inception score is made."""
  del protocol

  def apply(params: Any, clips: jax.Array) -> jax.Array:
    x = clips.astype(jnp.float32) / 127.5 - 1
    x = c3d.prepare(x, params["mean"])
    return jax.nn.softmax(c3d.C3D().apply({"params": params["network"]}, x))

  return apply


# Extractor -> what makes its function of (parameters, clips uint8).
FUNCTIONS: dict[str, Callable[[Protocol], Apply]] = {
  "i3d_kinetics400": _i3d,
  "random_i3d": _i3d,
  "random_small": lambda protocol: random_network.features,
  "c3d_ucf101": _c3d,
}
# Those whose parameters need no file.
RANDOM: dict[str, Callable[[Protocol], Any]] = {
  "random_i3d": random_i3d,
  "random_small": lambda protocol: random_network.parameters(),
}
_MIN_FRAMES = {
  "i3d_kinetics400": i3d.MIN_FRAMES, "random_i3d": i3d.MIN_FRAMES,
  "random_small": random_network.MIN_FRAMES, "c3d_ucf101": c3d.FRAMES,
}  # fmt: skip


class Extractor:
  """A compiled network with its parameters on all devices."""

  def __init__(self, protocol: Protocol, params: Any, batch: int):
    """Args: the protocol, the parameters, clips at once (on all devices together)."""
    least = _MIN_FRAMES[protocol.extractor]
    if protocol.frames < least:
      raise DataError(
        f"{protocol.name}: clips of {protocol.frames} frames; {protocol.extractor} needs"
        f" {least} or more"
      )
    apply = FUNCTIONS[protocol.extractor](protocol)
    self._spread = spread.OverDevices(apply, params, batch)
    self.batch = self._spread.batch

  def __call__(self, clips: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields features [b,D] float64 of clips [T,H,W,3] uint8, batch by batch.

    Raises:
      DataError: features are not finite.
    """
    for made in self._spread((clip,) for clip in clips):
      if not np.isfinite(made).all():
        raise DataError("features are not finite: are these the weights of the network?")
      yield made.astype(np.float64)

# SPDX-License-Identifier: Apache-2.0
"""Named random streams: every random number is a function of (seed, name, step).

No key is stored in the training state and none is split in a loop, so a resumed run
draws what the unbroken run would have drawn. Numbers that belong to an example are
keyed by the example's index in the global data order (`VideoBatch.index`), not by
its row, so that they do not depend on the number of hosts or on micro-batching.
"""

from __future__ import annotations

from typing import NamedTuple
import zlib

import jax
import jax.numpy as jnp


def root(seed: int) -> jax.Array:
  """Returns the root key. Make it once, before a transfer guard is set."""
  return jax.random.key(seed)


def stream(root_key: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
  """Returns the key of stream `name` at `step`; of each root key, if there are several."""
  # crc32 and not hash(): Python salts the latter per process.
  fold = jax.vmap(jax.random.fold_in, (0, None)) if root_key.ndim else jax.random.fold_in
  return fold(fold(root_key, zlib.crc32(name.encode())), step)


def example_keys(key: jax.Array, index: jax.Array) -> jax.Array:
  """Returns one key per example, [B], from the examples' global indices [B].

  `key` is a scalar, or [B] where examples have seeds of their own.
  """
  return jax.vmap(jax.random.fold_in, (0 if key.ndim else None, 0))(key, index)


class Streams(NamedTuple):
  """The streams of one step; the only source of randomness a stage gets."""

  root: jax.Array  # scalar key, or [B]: one an example
  step: jax.Array  # int32 scalar

  def key(self, name: str) -> jax.Array:
    return stream(self.root, name, self.step)

  def normal(self, name: str, index: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal float32 [B, *shape], row b keyed by index[b]."""
    keys = example_keys(self.key(name), index)
    return jax.vmap(lambda k: jax.random.normal(k, shape, jnp.float32))(keys)

  def uniform(self, name: str, index: jax.Array) -> jax.Array:
    """Uniform float32 [B] in [0, 1), row b keyed by index[b]."""
    keys = example_keys(self.key(name), index)
    return jax.vmap(lambda k: jax.random.uniform(k, (), jnp.float32))(keys)

  def integers(self, name: str, index: jax.Array, high: int) -> jax.Array:
    """Uniform int32 [B] in {0, ..., high-1}, row b keyed by index[b]."""
    keys = example_keys(self.key(name), index)
    return jax.vmap(lambda k: jax.random.randint(k, (), 0, high))(keys)

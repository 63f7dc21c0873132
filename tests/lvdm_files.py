# SPDX-License-Identifier: Apache-2.0
"""State dicts as LVDM's code writes them, for networks of any size."""

from __future__ import annotations

import numpy as np

from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_checkpoint as parts

LPIPS = {
  "loss.perceptual_loss.scaling_layer.shift": (1, 3, 1, 1),
  "loss.perceptual_loss.net.slice1.0.weight": (64, 3, 3, 3),
  "loss.perceptual_loss.lin0.model.1.weight": (1, 64, 1, 1),
}
POSITION_IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


def tables(steps: int, start: float, end: float) -> dict[str, np.ndarray]:
  """The 12 buffers, from the definitions in arXiv 2006.11239, float32."""
  beta = np.linspace(start**0.5, end**0.5, steps) ** 2
  bar = np.cumprod(1 - beta)
  last = np.append(1.0, bar[:-1])
  variance = beta * (1 - last) / (1 - bar)
  values = (
    beta, bar, last, np.sqrt(bar), np.sqrt(1 - bar), np.log(1 - bar), bar**-0.5,
    np.sqrt(1 / bar - 1), variance, np.log(np.append(variance[1], variance[1:])),
    beta * np.sqrt(last) / (1 - bar), (1 - last) * np.sqrt(1 - beta) / (1 - bar),
  )  # fmt: skip
  return {
    name: value.astype(np.float32)
    for name, value in zip(parts.SCHEDULE, values, strict=True)
  }


def names_and_shapes(networks, ema: bool, own: bool) -> dict[str, tuple[int, ...]]:
  """What a checkpoint should hold: of a whole model, or an autoencoder's own."""
  # Names that tell the kind of the file.
  hints = ["loss.discriminator.x"] if own else ["model.diffusion_model.x"]
  hints += ["model_ema.x"] if ema else []
  tree = parts.expected(hints, networks)
  rules = parts.rules(tree, "" if own else "first_stage_model.")
  return keys.source_shapes(tree, rules)


def state(networks, ema=True, own=False, seed=0) -> dict[str, np.ndarray]:
  """A checkpoint of small normal numbers; aliases are the arrays of their originals."""
  rng = np.random.default_rng(seed)
  shapes = names_and_shapes(networks, ema, own)
  found = {
    name: (0.1 * rng.standard_normal(shape)).astype(np.float32)
    for name, shape in shapes.items()
  }
  for name in found:
    original = name.removesuffix("weight") + "conv.weight"
    if original in found:
      found[name] = found[original]
  if own:
    found |= {name: np.zeros(shape, np.float32) for name, shape in LPIPS.items()}
    found["loss.discriminator.main.3.num_batches_tracked"] = np.int64(5).reshape(())
    return found
  found |= tables(networks.steps, 0.0015, 0.0155)
  if ema:
    found["model_ema.decay"] = np.asarray(0.9999, np.float32)
    found["model_ema.num_updates"] = np.asarray(21, np.int32)
  if networks.text is not None:
    found[POSITION_IDS] = np.arange(77)[None]
  return found

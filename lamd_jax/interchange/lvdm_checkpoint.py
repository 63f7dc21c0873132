# SPDX-License-Identifier: Apache-2.0
"""Whole checkpoints of LVDM's code: which tensor belongs to which part of a model.

  model.diffusion_model.K           the UNet
  model_ema.K'                      its moving average: K' is diffusion_model.K without
                                    its dots
  model_ema.{decay,num_updates}     scalars
  first_stage_model.A               the autoencoder; A alone in its own checkpoints
  cond_stage_model.transformer.C    CLIP's text tower, of text-to-video
  betas, alphas_cumprod, ...        12 tables of the noise schedule
  loss.*                            autoencoders only: the critic, LPIPS

The 3-D autoencoder's padded convolutions stand there twice, as X.conv.weight and as
X.weight; the second is called an alias here. A checkpoint becomes a tree of parts with
one rule (`keys.Rule`) for each of its names, so that nothing can be lost or left over,
and the tree becomes a checkpoint of the same names again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import clip_text
from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_autoencoder
from lamd_jax.interchange import lvdm_discriminator
from lamd_jax.interchange import lvdm_unet

# All of float32 [steps].
SCHEDULE = (
  "betas",
  "alphas_cumprod",
  "alphas_cumprod_prev",
  "sqrt_alphas_cumprod",
  "sqrt_one_minus_alphas_cumprod",
  "log_one_minus_alphas_cumprod",
  "sqrt_recip_alphas_cumprod",
  "sqrt_recipm1_alphas_cumprod",
  "posterior_variance",
  "posterior_log_variance_clipped",
  "posterior_mean_coef1",
  "posterior_mean_coef2",
)
_UNET = "model.diffusion_model."
_EMA = "model_ema."
_FIRST_STAGE = "first_stage_model."
_TEXT = "cond_stage_model.transformer."
_LOSS = "loss."
_CRITIC = "loss.discriminator."
# May stand in a file and is not read: LPIPS, which is frozen and comes from elsewhere,
# counters of batches, and a buffer of older CLIP files.
_PERCEPTUAL = "loss.perceptual_loss."
_COUNTER = ".num_batches_tracked"
_POSITION_IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"

# Parts of a checkpoint's tree. `video` and `image` are the two kinds of autoencoder.
DENOISER, EMA, EMA_STATE, TEXT = "denoiser", "ema", "ema_state", "text"
VIDEO, ALIASES, IMAGE = "video", "aliases", "image"
CRITIC, LOSS, TABLES = "critic", "loss", "schedule"


class Networks(NamedTuple):
  """Shapes (`jax.ShapeDtypeStruct`) of what a config describes."""

  denoiser: keys.Params
  autoencoder: keys.Params
  kind: str  # video | image, of the autoencoder
  critic: keys.Params | None  # its collections; None: not asked for
  text: keys.Params | None
  steps: int  # of the noise schedule


def is_autoencoder(names: Iterable[str]) -> bool:
  """Whether a checkpoint of these names is an autoencoder's own."""
  return not any(name.startswith((_UNET, _EMA, _FIRST_STAGE)) for name in names)


def expected(names: Iterable[str], networks: Networks) -> dict[str, Any]:
  """Returns the tree of shapes that a checkpoint of these names should hold.

  A file with any name of an average must have all of it; so too with the critic.
  """
  names = set(names)
  scalar = lambda kind: jax.ShapeDtypeStruct((), kind)
  tree: dict[str, Any] = {networks.kind: networks.autoencoder}
  if networks.kind == VIDEO:
    tree[ALIASES] = keys.nest(
      {r.path: _leaf(networks.autoencoder, r.path) for r in _doubled(tree[VIDEO])}
    )
  if is_autoencoder(names):
    if networks.critic is not None and any(n.startswith(_CRITIC) for n in names):
      tree[CRITIC] = networks.critic
      tree[LOSS] = {"logvar": scalar(np.float32)}
    return tree
  tree[DENOISER] = networks.denoiser
  if any(name.startswith(_EMA) for name in names):
    tree[EMA] = networks.denoiser
    tree[EMA_STATE] = {"decay": scalar(np.float32), "num_updates": scalar(np.int32)}
  if networks.text is not None:
    tree[TEXT] = networks.text
  table = jax.ShapeDtypeStruct((networks.steps,), np.float32)
  tree[TABLES] = {name: table for name in SCHEDULE}
  return tree


def not_read(names: Iterable[str], tree: keys.Params) -> list[str]:
  """Returns the names that may stand in a checkpoint and are left aside.

  Args:
    names: of the checkpoint.
    tree: what `expected` makes of them.
  """
  if TABLES in tree:
    return [name for name in names if name == _POSITION_IDS and TEXT in tree]
  prefix = _PERCEPTUAL if CRITIC in tree else _LOSS
  counts = lambda name: name.startswith(_CRITIC) and name.endswith(_COUNTER)
  return [name for name in names if name.startswith(prefix) or counts(name)]


def rules(tree: keys.Params, first_stage: str = _FIRST_STAGE) -> list[keys.Rule]:
  """Returns one rule per leaf of a checkpoint's tree, or of some parts of it.

  Args:
    tree: parts by the names above; leaves are arrays or shapes.
    first_stage: what the autoencoder's names begin with; "" in its own checkpoints.
  """
  found, parts = [], _parts(first_stage)
  for part, params in tree.items():
    rules_of, rename = parts[part]
    found += [
      keys.Rule(rename(rule.source), (part, *rule.path), rule.layout)
      for rule in rules_of(params)
    ]
  return found


def _parts(
  first_stage: str,
) -> dict[str, tuple[Callable[..., list[keys.Rule]], Callable[[str], str]]]:
  """Part -> its rules by its own names, and its names in a checkpoint."""
  below = lambda prefix: lambda name: prefix + name
  return {
    DENOISER: (lvdm_unet.rules, below(_UNET)),
    EMA: (lvdm_unet.rules, ema_name),
    EMA_STATE: (_copies, below(_EMA)),
    VIDEO: (lvdm_autoencoder.video_rules, below(first_stage)),
    ALIASES: (_doubled, lambda name: first_stage + _alias(name)),
    IMAGE: (lvdm_autoencoder.image_rules, below(first_stage)),
    TEXT: (clip_text.rules, below(_TEXT)),
    CRITIC: (lvdm_discriminator.rules, below(_CRITIC)),
    LOSS: (_copies, below(_LOSS)),
    TABLES: (_copies, below("")),
  }


def ema_name(name: str) -> str:
  """The name of a UNet's tensor in the average: a buffer's name may have no dots."""
  return _EMA + f"diffusion_model.{name}".replace(".", "")


def _alias(name: str) -> str:
  return name.removesuffix(".conv.weight") + ".weight"


def _doubled(params: keys.Params) -> list[keys.Rule]:
  """Rules of those tensors of a 3-D autoencoder that have an alias.

  Padded convolutions register their weight twice, as X.conv.weight and X.weight.
  """
  of = lvdm_autoencoder.video_rules(params)
  return [rule for rule in of if rule.source.endswith(".conv.weight")]


def _copies(tree: keys.Params) -> list[keys.Rule]:
  return [keys.Rule(name, (name,), "copy") for name in tree]


def _leaf(tree: keys.Params, path: tuple[str, ...]) -> Any:
  for name in path:
    tree = tree[name]
  return tree


def to_tree(
  state: keys.State, networks: Networks
) -> tuple[dict[str, Any], list[str]]:
  """Takes a checkpoint apart.

  Args:
    state: {name: array}, the file's names; any float type.
    networks: what the file must hold, shape by shape.

  Returns:
    The tree of parts, weights in float32, without the aliases; and the names that
    were not read.

  Raises:
    WeightsError: lists every name that is missing, unused or of a wrong shape; every
      alias that differs from its original; every tensor that is not finite.
  """
  tree = expected(state, networks)
  left = not_read(state, tree)
  prefix = "" if is_autoencoder(state) else _FIRST_STAGE
  all_rules = rules(tree, prefix)
  tree = keys.to_params(state, all_rules, tree, left)
  aliases = keys.flatten(tree.pop(ALIASES, {}))
  names = {rule.path: rule.source for rule in all_rules}
  problems = [
    f"{names[ALIASES, *path]} differs from {names[VIDEO, *path]}"
    for path, value in aliases.items()
    if not np.array_equal(value, _leaf(tree[VIDEO], path), equal_nan=True)
  ]
  flat = {path: _weights(value) for path, value in keys.flatten(tree).items()}
  finite = lambda path, value: path[0] == TABLES or np.isfinite(value).all()
  problems += [
    f"{names[path]} is not finite" for path, v in flat.items() if not finite(path, v)
  ]
  if problems:
    raise WeightsError("; ".join(problems))
  return keys.nest(flat), left


def _weights(value: np.ndarray) -> np.ndarray:
  """Floats as float32, aligned: a zip's members lie anywhere in it."""
  is_float = value.dtype.kind == "f"
  return np.require(value, np.float32 if is_float else None, ["C", "ALIGNED"])


def to_state(tree: keys.Params) -> dict[str, np.ndarray]:
  """Puts parts together again, under their names in a checkpoint; aliases included."""
  tree = dict(tree)
  if VIDEO in tree:
    flat = keys.flatten(tree[VIDEO])
    tree[ALIASES] = keys.nest({r.path: flat[r.path] for r in _doubled(tree[VIDEO])})
  return keys.to_state(tree, rules(tree))

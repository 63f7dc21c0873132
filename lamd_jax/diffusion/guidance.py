# SPDX-License-Identifier: Apache-2.0
"""Guidance: combinations of denoisers that are denoisers again.

All are weighted sums of raw outputs, whose weights add up to 1, and mean the same for
every prediction type, since each is linear in raw output. Weights are Python numbers:
a term of weight zero is not computed, and calls of the same denoiser run as one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lamd_jax import types
from lamd_jax.diffusion.process import Denoiser

Null = Callable[[types.Conditions], types.Conditions]


class _Term(NamedTuple):
  weight: float
  denoise: Denoiser
  null: bool


def classifier_free(
  denoise: Denoiser, null: Null, guidance: float, rescale: float = 0.0
) -> Denoiser:
  """Ho and Salimans (arXiv 2207.12598), equation 6.

  null + guidance (conditional - null). 1 is off: one call with the conditions; 0 is
  one call without. LVDM's and the paper's own w is guidance - 1 (LVDM's `cfg_original`;
  in its standard form w is `guidance`).

  Args:
    denoise: the denoiser.
    null: returns the conditions with what guidance drops taken out, by `keep` flags of
      0 or by None. It must not look at the state.
    guidance: the weight.
    rescale: phi of `_rescaled`, 0 for none.
  """
  terms = [_Term(guidance, denoise, False), _Term(1 - guidance, denoise, True)]
  return _weighted_sum(terms, null, rescale)


def three_term(
  video: Denoiser,
  image: Denoiser,
  null: Null,
  guidance: float,
  temporal_guidance: float,
  rescale: float = 0.0,
) -> Denoiser:
  """Gen-1's guidance (Esser et al., arXiv 2302.03011, section 3.3).

  image(null) + w_t (video(null) - image(null)) + guidance (video(c) - video(null)),
  with w_t the temporal guidance: below 1 more frame by frame, above 1 smoother; at 1
  it is classifier-free guidance and `image` is not called. At 0 the video model still
  acts through the last term.

  Args:
    video: the denoiser.
    image: the same with its temporal layers bypassed.
    null, guidance, rescale: as in `classifier_free`.
    temporal_guidance: w_t.
  """
  terms = [
    _Term(guidance, video, False),
    _Term(temporal_guidance - guidance, video, True),
    _Term(1 - temporal_guidance, image, True),
  ]
  return _weighted_sum(terms, null, rescale)


def free_of_known(
  denoise: Denoiser,
  null: Null,
  guidance: float,
  mask: jax.Array,
  project: Callable[[jax.Array, jax.Array], jax.Array],
) -> Denoiser:
  """Classifier-free guidance whose null call does not see the known frames either.

  `classifier_free` with a constraint shows both calls the same state, known frames
  included. Here the state is left alone; the conditional call sees `project(z, t)`,
  and at the known frames' places the null call's own clip goes on, so that it stays
  a state of the level it is told. Pass the sampler no constraint.

  Args:
    denoise, null, guidance: as in `classifier_free`.
    mask: broadcastable to z, nonzero at known frames.
    project: the constraint that holds them.
  """

  def guided(z: jax.Array, t: jax.Array, conditions: types.Conditions) -> jax.Array:
    both = jax.tree.map(
      lambda *leaves: _interleave(leaves), *_alike([conditions, null(conditions)])
    )
    raw = denoise(_interleave([project(z, t), z]), _interleave([t, t]), both)
    raw = raw.reshape(z.shape[0], 2, *z.shape[1:])
    given, free = raw[:, 0], raw[:, 1]
    return jnp.where(mask != 0, free, free + guidance * (given - free))

  return guided


def interval(
  guided: Denoiser, unguided: Denoiser, lowest: float, highest: float
) -> Denoiser:
  """Guides only between two positions (Kynkäänniemi et al., arXiv 2404.07724).

  Outside of lowest <= t <= highest only `unguided` is computed. All rows of a call are
  taken to be at the position of the first, as they are in a sampler's.
  """

  def denoise(z: jax.Array, t: jax.Array, conditions: types.Conditions) -> jax.Array:
    position = t.reshape(-1)[0]
    inside = (lowest <= position) & (position <= highest)
    return jax.lax.cond(inside, guided, unguided, z, t, conditions)

  return denoise


def _weighted_sum(terms: list[_Term], null: Null, rescale: float) -> Denoiser:
  """Returns the denoiser sum_k weight_k denoise_k; the first term is the reference."""
  reference = terms[0]
  terms = [term for term in terms if term.weight != 0]
  # The other weights being zero, this one is 1; return what was given, untouched.
  if terms == [reference]:
    return reference.denoise
  # Rescaling compares with the conditional output, at guidance 0 there is none.
  rescale = rescale if reference in terms else 0.0

  def denoise(z: jax.Array, t: jax.Array, conditions: types.Conditions) -> jax.Array:
    outputs = {}
    for function in dict.fromkeys(term.denoise for term in terms):
      calls = [term for term in terms if term.denoise is function]
      given = [null(conditions) if term.null else conditions for term in calls]
      outputs.update(zip(calls, _batched(function, z, t, given), strict=True))
    total = sum(term.weight * outputs[term] for term in terms)
    return _rescaled(total, outputs[reference], rescale) if rescale else total

  return denoise


def _batched(
  denoise: Denoiser, z: jax.Array, t: jax.Array, conditions: list[types.Conditions]
) -> list[jax.Array]:
  """Calls once for all `conditions`; returns one output each."""
  if len(conditions) == 1:
    return [denoise(z, t, conditions[0])]
  n, rows = len(conditions), z.shape[0]
  joined = jax.tree.map(lambda *leaves: _interleave(leaves), *_alike(conditions))
  raw = denoise(_interleave([z] * n), _interleave([t] * n), joined)
  raw = raw.reshape(rows, n, *raw.shape[1:])
  return [raw[:, k] for k in range(n)]


def _interleave(arrays: list[jax.Array]) -> jax.Array:
  """Joins n arrays [B,...] to [B*n,...], row by row.

  One after the other would move rows between devices where B is sharded.
  """
  return jnp.stack(arrays, 1).reshape(-1, *arrays[0].shape[1:])


def _alike(conditions: list[types.Conditions]) -> list[types.Conditions]:
  """Gives all the same fields and flags: None becomes zeros that are not kept."""
  given = [c.keep or {} for c in conditions]
  alike, flags = [{} for _ in conditions], [{} for _ in conditions]
  for name in types.Conditions._fields:
    values = [c._asdict()[name] for c in conditions]
    present = next((v for v in values if v is not None), None)
    if name == "keep" or present is None:
      continue
    flagged = any(v is None for v in values) or any(name in keep for keep in given)
    ones = jnp.ones(jnp.shape(present)[0], jnp.float32)
    for k, value in enumerate(values):
      alike[k][name] = jnp.zeros_like(present) if value is None else value
      if flagged:
        flags[k][name] = 0 * ones if value is None else given[k].get(name, ones)
  return [
    types.Conditions(**fields, keep=keep or None)
    for fields, keep in zip(alike, flags, strict=True)
  ]


def _rescaled(guided: jax.Array, conditional: jax.Array, phi: float) -> jax.Array:
  """Lin et al. (arXiv 2305.08891), equations 15, 16: undoes over-exposure.

  Scales each row to the standard deviation of the conditional output, and mixes that
  with the row as it was, phi parts to 1 - phi.
  """
  axes = tuple(range(1, guided.ndim))
  std = lambda a: a.std(axis=axes, keepdims=True)
  return guided * (phi * std(conditional) / std(guided) + 1 - phi)

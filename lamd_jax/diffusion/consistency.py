# SPDX-License-Identifier: Apache-2.0
"""Consistency functions, and how a diffusion model is distilled into one.

The probability-flow ODE carries every state z_t of a diffusion process to a clean x0,
by a path without branches. A consistency function f (Song et al., arXiv 2303.01469)
answers any state of a path by the path's end, in one call of a network:

  f(z_t, t) = f(z_s, s) for all states of one path,  f(z, clean) = z.

Distillation (their algorithm 2; Luo et al., arXiv 2310.04378, algorithm 1, for latents
with guidance) makes a trained denoiser, the teacher, say where its own path leads from
z_t, a little way down to s, and makes the student's answer at t that of its own moving
average at s:

  z_t = alpha_t x0 + sigma_t eps
  z_s = alpha_s x0' + sigma_s eps'     (x0', eps') of the guided teacher at z_t: DDIM
  loss = d(f_student(z_t, t), f_average(z_s, s))

The papers write t for what is here the ratio sigma/alpha (Song) or a position (Luo);
the clean end, their epsilon, is here position -1 with sigma = 0 exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lamd_jax import types
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion import schedule as schedule_lib
from lamd_jax.diffusion.process import Denoiser

# (z [B,T,h,w,C], t [B], conditions) -> x0, like z
Function = Callable[[jax.Array, jax.Array, types.Conditions], jax.Array]

# sigma/alpha at which a state is half its own answer: below the lowest level of any
# schedule, so that a student begins as its teacher's x0. (Luo et al. have a factor for
# time to the same end.)
_EDGE = 3e-5
# The paper's 0.00054 sqrt(elements), for a root of the mean in place of the sum.
_HUBER = 0.00054


def pseudo_huber(difference: jax.Array) -> jax.Array:
  """sqrt(|d|^2 + c^2) - c of each row, [B], over the root of the number of elements.

  Song and Dhariwal (arXiv 2310.14189), section 3.3: nearly the norm, so that rows with
  a large error weigh less than in its square.
  """
  axes = tuple(range(1, difference.ndim))
  return jnp.sqrt(jnp.square(difference).mean(axes) + _HUBER**2) - _HUBER


def squared(difference: jax.Array) -> jax.Array:
  """The mean square of each row, [B]."""
  return jnp.square(difference).mean(tuple(range(1, difference.ndim)))


# Keys of distill.loss.
DISTANCES: dict[str, Callable[[jax.Array], jax.Array]] = {
  "pseudo_huber": pseudo_huber,
  "l2": squared,
}


def skip_weight(process: process_lib.Process, t: jax.Array) -> jax.Array:
  """c_skip in the shape of t: 1 at the clean end, all but 0 where there is noise."""
  alpha, sigma = process.alpha_sigma(t)
  near = jnp.square(_EDGE * alpha)
  return near / (near + jnp.square(sigma))


def function(denoise: Denoiser, process: process_lib.Process) -> Function:
  """Returns f(z, t) = c_skip(t) z + c_out(t) x0(z, t), the network's x0 in any form.

  Song et al., equation 5, with c_out = 1 - c_skip: where the network's x0 is z, f is
  z, at every level. At the clean end f(z, -1) = z exactly, whatever the network says;
  it is asked at the lowest level there, for none below was trained.
  """

  def f(z: jax.Array, t: jax.Array, conditions: types.Conditions) -> jax.Array:
    asked = jnp.maximum(t, 0)
    x0, _ = process.split(denoise(z, asked, conditions).astype(z.dtype), z, asked)
    c_skip = skip_weight(process, t).reshape(t.shape + (1,) * (z.ndim - t.ndim))
    return c_skip * z + (1 - c_skip) * x0

  return f


def teacher_step(
  teacher: Denoiser,
  process: process_lib.Process,
  z: jax.Array,
  t: jax.Array,
  s: jax.Array,
  conditions: types.Conditions,
) -> jax.Array:
  """One step of DDIM with eta=0 (arXiv 2010.02502, equation 12) from t [B] to s [B]."""
  x0, eps = process.split(teacher(z, t, conditions).astype(z.dtype), z, t)
  return process.add_noise(x0, eps, s)


def loss(
  student: Denoiser,
  average: Denoiser,
  teacher: Denoiser,
  process: process_lib.Process,
  x0: jax.Array,
  noise: jax.Array,
  t: jax.Array,
  skip: int,
  conditions: types.Conditions,
  kind: str,
) -> jax.Array:
  """Returns the distance of each example, [B] float32.

  Gradients flow through the student's answer alone.

  Args:
    student: the network that learns.
    average: the same with its averaged weights.
    teacher: the trained network under its guidance.
    process: the process.
    x0, noise: [B,T,h,w,C] float32, data and standard normal.
    t: [B] float32, trained positions.
    skip: levels that the teacher goes down; to the clean end where there are fewer.
    conditions: what all three networks are told.
    kind: a key of DISTANCES.
  """
  s = jnp.maximum(t - skip, schedule_lib.CLEAN)
  z = process.add_noise(x0, noise, t)
  below = jax.lax.stop_gradient(teacher_step(teacher, process, z, t, s, conditions))
  wanted = jax.lax.stop_gradient(function(average, process)(below, s, conditions))
  return DISTANCES[kind](function(student, process)(z, t, conditions) - wanted)

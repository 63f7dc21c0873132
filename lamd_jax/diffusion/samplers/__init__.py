# SPDX-License-Identifier: Apache-2.0
"""Samplers by name: the keys of `sample.sampler`. Their signature: chain.py."""

from lamd_jax.diffusion.samplers import ddim
from lamd_jax.diffusion.samplers import ddpm
from lamd_jax.diffusion.samplers import dpm_solver
from lamd_jax.diffusion.samplers import euler
from lamd_jax.diffusion.samplers import heun
from lamd_jax.diffusion.samplers import multistep_consistency
from lamd_jax.diffusion.samplers import unipc

SAMPLERS = {
  "ddpm": ddpm.sample,
  "ddim": ddim.sample,
  "dpmpp_2m": dpm_solver.sample,
  "unipc": unipc.sample,
  "heun": heun.sample,
  "euler": euler.sample,
  "consistency": multistep_consistency.sample,  # of distilled networks alone
}

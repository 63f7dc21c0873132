# SPDX-License-Identifier: Apache-2.0
"""One competitor on one case; started by `unet_step.py`, one process each.

    python -m benchmarks.worker --side=ours --case=unet_64_forward --threads=2
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks import harness

# Latents of a 16x256x256 clip at LVDM's factors (4, 8, 8).
LATENT = (4, 32, 32, 4)
CASES = (
  "unet_256_forward",
  "unet_256_gradient",
  "unet_64_forward",
  "unet_64_gradient",
  "decode",
  "clip_256",
  "clip_64",
)
OUR_STEPS, TWIN_STEPS = 20, 50  # of DPM-Solver++ (2M), of DDIM

# What to call, what is known of it, and perhaps a shorter call for the warm-up.
Program = tuple[Callable[[], None], dict[str, float], Callable[[], None] | None]


def _weights(module: Any, *args: Any) -> Any:
  """Uniform numbers, none left at zero: no side may profit from a trivial product."""
  import jax
  import numpy as np

  from lamd_jax.nn import initializers

  generator = np.random.default_rng(0)
  draw = lambda x: generator.random(x.shape, np.float32) * 0.04 - 0.02
  shapes = initializers.shapes(module, *args)["params"]
  return jax.device_put(jax.tree.map(draw, shapes))


def _our_clip(system: Any, batch: int) -> Callable[..., Any]:
  """Noise to finished uint8 clips, as one function."""
  import jax.numpy as jnp

  from lamd_jax import rng
  from lamd_jax import types
  from lamd_jax.systems import sampling

  settings = sampling.SamplerSettings(
    "dpmpp_2m", OUR_STEPS, eta=0.0, spacing="trailing", guidance=1.0,
    temporal_guidance=1.0,
  )
  nothing = types.Prompt()
  latent = {"latent_scale": 0.33422927, "latent_shift": 1.4606637}

  def clip(denoiser, generator, root):
    found = {
      "diffusion": {"params": {"denoiser": denoiser}, "extras": {}},
      "autoencoder": {"params": {"generator": generator}, "extras": latent},
    }
    streams = rng.Streams(root, jnp.zeros((), jnp.int32))
    index = jnp.arange(batch)
    latents = system.sample_latents(found, streams, index, nothing, settings, 0)
    return system.decode(found, latents, nothing)

  return clip


def _ours(case: str, bf16: bool, batch: int) -> Program:
  """The case as one compiled call, and its model FLOPs."""
  import jax
  import jax.numpy as jnp

  from lamd_jax.training import flops
  from lamd_jax import config as config_lib
  from lamd_jax import rng
  from lamd_jax import types
  from lamd_jax.systems import lvdm

  config = config_lib.defaults()
  if case != "decode":
    config.model.denoiser.channels = int(case.split("_")[1])
  system = lvdm.LVDM(config, jnp.bfloat16 if bf16 else jnp.float32)
  z = jax.random.normal(jax.random.key(0), (batch, *LATENT))
  t = jnp.full((batch,), 500.0)
  clip = jax.ShapeDtypeStruct((1, 16, 256, 256, 3), jnp.float32)
  denoiser = lambda: _weights(system.unets["diffusion"], z, t, types.Conditions())
  decoder = lambda: _weights(system.autoencoder, clip)
  denoise = lambda p, z, t: system.denoiser("diffusion", p)(z, t, types.Conditions())
  decode = lambda p, z: system.autoencoder.apply({"params": p}, z, method="decode")

  if case == "decode":
    function, args = decode, (decoder(), z)
  elif case.startswith("clip"):
    function, args = _our_clip(system, batch), (denoiser(), decoder(), rng.root(0))
  else:
    function, args = denoise, (denoiser(), z, t)
  work = flops.count(function, *args)
  if case.endswith("gradient"):
    function = jax.grad(lambda p, z, t: jnp.abs(denoise(p, z, t)).mean())
    # The convention of MFU: backward is twice forward, recomputation is not counted.
    work *= 3
  compiled = jax.jit(function)
  return lambda: jax.block_until_ready(compiled(*args)), {"flops": float(work)}, None


def _twin(case: str, form: str, threads: int, bf16: bool, batch: int) -> Program:
  import torch

  from benchmarks import torch_clip
  from benchmarks import torch_twin

  if threads:
    torch.set_num_threads(threads)
  torch.manual_seed(0)
  card = torch.cuda.is_available()
  place = {"device": "cuda" if card else "cpu",
           "dtype": torch.bfloat16 if bf16 else torch.float32}  # fmt: skip
  memory_format = torch_twin.FORMS[form][0]
  frames, height, width, channels = LATENT
  z = torch.randn(batch, channels, frames, height, width)
  z = z.to(**place, memory_format=memory_format)
  t = torch.full((batch,), 500, device=place["device"])
  compiled = torch.compile if form == "compiled" else lambda function: function

  def unet() -> Any:  # a module, or what stands for it compiled
    network = torch_twin.UNet(
      channels, int(case.split("_")[1]), (1, 2, 3, 4), 3, (2, 4, 8), 4, 4
    )
    return compiled(torch_twin.in_form(network, form).to(**place))

  def decoder() -> Callable[[Any], Any]:
    network = torch_twin.VideoAutoencoder(32, (4, 8, 8), channels)
    return compiled(torch_twin.in_form(network, form).to(**place).decode)

  def finished(call: Callable[[], Any]) -> Callable[[], None]:
    def whole() -> None:
      call()
      if card:
        torch.cuda.synchronize()

    return whole

  if case.endswith("gradient"):
    network = unet()

    def call():
      network.zero_grad(set_to_none=True)
      network(z, t).abs().mean().backward()

    return finished(call), {}, None
  if case == "decode":
    function, args = decoder(), (z,)
  elif case.startswith("clip"):
    function, args = torch_clip.ddim_clip, (unet(), decoder(), z, TWIN_STEPS)
  else:
    function, args = unet(), (z, t)
  run = torch.inference_mode()(function)
  short = finished(lambda: run(*args[:-1], 1)) if case.startswith("clip") else None
  return finished(lambda: run(*args)), {}, short


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--side", required=True, help="ours, or a form of the twin")
  parser.add_argument("--case", choices=CASES, required=True)
  parser.add_argument("--threads", type=int, default=2, help="0: all")
  parser.add_argument("--batch", type=int, default=1)
  parser.add_argument("--bf16", action="store_true")
  flags = parser.parse_args()
  if flags.threads:
    harness.use_threads(flags.threads)
  if flags.side == "ours":
    program = _ours(flags.case, flags.bf16, flags.batch)
  else:
    program = _twin(flags.case, flags.side, flags.threads, flags.bf16, flags.batch)
  harness.serve(*program)


if __name__ == "__main__":
  main()

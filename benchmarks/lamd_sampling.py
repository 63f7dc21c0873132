# SPDX-License-Identifier: Apache-2.0
"""LaMD's cost against the length of a clip, beside video diffusion and pixel diffusion.

    python -m benchmarks.lamd_sampling

The claim (arXiv 2304.11603): the motion map has no time axis, so a chain costs the same
for any length L. Three systems make clips of the same size with UNets of the same
width, levels and steps, random weights, one clip at once:

  LaMD          a UNet without temporal layers on the motion map [1,H/fs,W/fs]
  latent video  LVDM's UNet, with temporal layers, on [L/ft,H/fs,W/fs]
  pixels        the same UNet on [L,H,W]

Each system, length and part (the chain; the decoder) is a process of its own; all take
turns. Predicted factors are those of positions: pixels over LaMD L*fs^2, pixels over
latent video ft*fs^2. Ratios of time are of processor time. `--paper` counts the FLOPs of
the paper's sizes, and runs nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks import harness

SYSTEMS = {"lamd": "LaMD", "latent": "latent video", "pixels": "pixels"}
BOTH = ("chain", "decode")
PARTS = {"lamd": BOTH, "latent": BOTH, "pixels": ("chain",)}
SPACE, TIME = 4, 4  # f_s of both, f_t of latent video diffusion


def _system(name: str, frames: int, size: int, paper: bool) -> Any:
  """The system on clips [frames,size,size]; unconditional but for LaMD's image."""
  from lamd_jax import config as config_lib
  from lamd_jax import lamd_variants
  from lamd_jax.systems import registry

  config = config_lib.defaults()
  if paper:
    lamd_variants.paper(config)
  else:
    config.model.denoiser.update(
      channels=32, channel_mult=(1, 2), res_blocks=1, attention_downsample=(2,)
    )
    config.model.motion.concat_channels = 16
    config.model.motion.autoencoder.update(
      content_channels=16, content_blocks=1, content_groups=8,
      encoder_widths=(16, 32, 64), decoder_widths=(16, 32, 64), groups=8,
    )  # fmt: skip
    config.model.autoencoder.update(channels=16, groups=8)
  config.model.discriminator.layers = 1  # no part of a sample
  config.system = "lamd" if name == "lamd" else "lvdm"
  config.data.update(frames=frames, size=size)
  config.model.autoencoder.downsample = (TIME, SPACE, SPACE)
  if name == "pixels":
    config.model.autoencoder.latent_channels = 3
  system = registry.SYSTEMS[config.system](config)
  if name == "pixels":
    # Its latents are the clip itself, and its autoencoder is never used.
    system.latent_shape = (frames, size, size, 3)
  return system


def _weights(system: Any, part: str, seed: int | None) -> dict[str, Any]:
  """Initial weights of the stages a part needs; with seed None only their shapes."""
  autoencoder, generator = system.stages()[:2]
  needed = [] if part == "chain" and not system.animates_images else [autoencoder]
  found = {}
  for stage in needed + ([generator] if part == "chain" else []):
    params, extras = stage.init(seed)
    found[stage.name] = {"params": params, "extras": extras}
  if needed:
    found[autoencoder.name]["extras"].update(latent_shift=0.0, latent_scale=1.0)
  return found


def program(
  name: str, part: str, frames: int, size: int, steps: int, paper: bool
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
  """Returns a function that makes one clip's latent, or decodes it, and its arguments.

  Of the paper's sizes the arguments are shapes alone.
  """
  import jax
  import jax.numpy as jnp

  from lamd_jax import rng
  from lamd_jax import types
  from lamd_jax.systems import sampling

  system = _system(name, frames, size, paper)
  weights = _weights(system, part, None if paper else 0)
  sampler = "ddim" if paper else "dpmpp_2m"
  settings = sampling.SamplerSettings(sampler, steps, 0.0, "trailing", 1.0, 1.0)
  image = None
  if system.animates_images:
    image = jnp.zeros((1, 1, size, size, 3), jnp.uint8)
  index, prompt = jnp.zeros(1, jnp.int32), types.Prompt(image=image)

  def chain(weights, root, prompt):
    streams = rng.Streams(root, jnp.zeros((), jnp.int32))
    # 0: as long as `latent_shape`, which of pixels is not what the config says.
    return system.sample_latents(weights, streams, index, prompt, settings, 0)

  if part == "chain":
    return chain, (weights, rng.root(0), prompt)
  z = jax.ShapeDtypeStruct((1, *system.latent_shape), jnp.float32)
  if not paper:
    z = jax.random.normal(jax.random.key(0), z.shape)
  return system.decode, (weights, z, prompt)


def work(flags: argparse.Namespace) -> None:
  """The worker: one system, one part, one length."""
  harness.use_threads(flags.threads)
  import jax

  from lamd_jax.training import flops

  name, part, frames = flags.worker.split(":")
  function, arguments = program(
    name, part, int(frames), flags.size, flags.steps, paper=False
  )
  compiled = jax.jit(function).lower(*arguments).compile()
  memory = compiled.memory_analysis()
  held = memory.temp_size_in_bytes + memory.output_size_in_bytes
  facts = {"flops": float(flops.count(function, *arguments)), "memory": float(held)}
  harness.serve(lambda: jax.block_until_ready(compiled(*arguments)), facts)


def _predicted(name: str, frames: int) -> str:
  """Positions of pixel diffusion over those of a system."""
  factor = {"lamd": frames * SPACE**2, "latent": TIME * SPACE**2, "pixels": 1}[name]
  return str(factor)


HEAD = ("L", "system", "seconds a clip", "cpu/threads", "of it chain", "GFLOPs a clip",
        "of it chain", "working memory, MiB", "pixels' chain over this one: positions",
        "FLOPs", "cpu")  # fmt: skip


def measured(flags: argparse.Namespace) -> str:
  """Runs all, returns the table and the ratio of the longest to the shortest clip."""
  common = [f"--{key}={vars(flags)[key]}" for key in ("size", "steps", "threads")]
  commands = {
    f"{name}:{part}:{frames}": [
      "-m", "benchmarks.lamd_sampling", f"--worker={name}:{part}:{frames}", *common
    ]
    for frames in flags.frames for name in SYSTEMS for part in PARTS[name]
  }  # fmt: skip
  found = harness.compete(commands, flags.repeats)
  rows, clip = [], {}
  for frames in flags.frames:
    pixels = found[f"pixels:chain:{frames}"]
    for name, title in SYSTEMS.items():
      timings = {part: found[f"{name}:{part}:{frames}"] for part in PARTS[name]}
      chain = timings["chain"]
      cpu = {part: t.least_cpu(flags.threads) for part, t in timings.items()}
      clip[name, frames] = cpu["chain"], sum(cpu.values())
      total = sum(t.facts["flops"] for t in timings.values())
      memory = max(t.facts["memory"] for t in timings.values()) / 2**20
      rows.append((
        str(frames), title, f"{sum(t.best for t in timings.values()):.2f}",
        f"{sum(cpu.values()):.2f}", f"{cpu['chain']:.2f}",
        f"{total / 1e9:.1f}", f"{chain.facts['flops'] / 1e9:.1f}", f"{memory:.0f}",
        _predicted(name, frames),
        f"{pixels.facts['flops'] / chain.facts['flops']:.1f}",
        f"{pixels.least_cpu(flags.threads) / cpu['chain']:.1f}",
      ))  # fmt: skip
  short, long = min(flags.frames), max(flags.frames)
  ratios = []
  for name, title in SYSTEMS.items():
    chain, whole = (clip[name, long][i] / clip[name, short][i] for i in range(2))
    ratios.append((title, f"{chain:.2f}", f"{whole:.2f}"))
  head = ("system", f"chain, cpu at L={long} over L={short}", "whole clip")
  return f"{harness.table(HEAD, rows)}\n\n{harness.table(head, ratios)}"


def counted(flags: argparse.Namespace) -> str:
  """FLOPs of the paper's sizes: 339.8M parameters, 128x128, DDIM-200."""
  from lamd_jax.training import flops

  rows = []
  for frames in flags.frames:
    for name, title in SYSTEMS.items():
      # Two numbers of steps tell what a step is, and what is done but once.
      parts = {
        part: flops.count(*_flat(program(name, part, frames, 128, 2, paper=True)))
        for part in PARTS[name]
      }
      once = flops.count(*_flat(program(name, "chain", frames, 128, 1, paper=True)))
      step = parts["chain"] - once
      chain = once + 199 * step
      total = chain + parts.get("decode", 0)
      rows.append((
        str(frames), title, f"{step / 1e9:.0f}", f"{chain / 1e12:.1f}",
        f"{parts.get('decode', 0) / 1e12:.2f}", f"{total / 1e12:.1f}",
      ))  # fmt: skip
  head = ("L", "system", "GFLOPs a step", "TFLOPs of 200", "of the decoder", "a clip")
  return harness.table(head, rows)


def _flat(made: tuple[Callable[..., Any], tuple[Any, ...]]) -> tuple[Any, ...]:
  return made[0], *made[1]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--frames", type=int, nargs="+", default=[16, 128])
  parser.add_argument("--size", type=int, default=32, help="pixels")
  parser.add_argument("--steps", type=int, default=20, help="of DPM-Solver++ (2M)")
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--paper", action="store_true", help="count the paper's FLOPs")
  parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if any(frames % TIME for frames in flags.frames):
    raise SystemExit(f"--frames={flags.frames}: give multiples of {TIME}")
  if flags.worker:
    work(flags)
  elif flags.paper:
    print(counted(flags))
  else:
    print(harness.machine(), flush=True)
    print(measured(flags))


if __name__ == "__main__":
  main()

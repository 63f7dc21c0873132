# SPDX-License-Identifier: Apache-2.0
"""What Gen-1 pays for time and for guidance, in one run.

    python -m benchmarks.gen1_step

The network is Gen-1's UNet, Stable Diffusion 1's layout at a reduced width, with random
weights, on clips of 8 frames and 16x16 latents; structure is 8 more channels.

  temporal layers  the video model over the same network with them bypassed, forward and
                   gradient
  guidance         one evaluation of the three-term formula (arXiv 2302.03011, section
                   3.4) over one call of the video model; predicted: 2 at w_t = 1, where
                   the image model is not called, else below 3
  memory           XLA's working memory of a forward pass and of a gradient, by frames

Each case is a process of its own; all take turns (harness.py; not with --alone, for
the paper's width, whose six networks do not fit into memory), so that ratios hold on a
busy machine. Beside the seconds stand the FLOPs, which do not depend on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import functools
import json
import pathlib
from typing import Any

from benchmarks import harness

CASES = (
  "image_forward", "video_forward", "image_gradient", "video_gradient", "guidance_1",
  "guidance_1.5",
)  # fmt: skip
CONTEXT = (4, 128)  # tokens of the content, their width
STRUCTURE = 8  # channels beside z: a latent of depth, and its level


def _network(channels: int) -> Any:
  from lamd_jax.systems import gen1_blocks

  settings = dict(gen1_blocks.STABLE_DIFFUSION_1)
  settings.update(channels=channels, temporal_layers=True)
  return gen1_blocks.unet(settings, 4, remat="none")


@functools.lru_cache(maxsize=1)
def _arguments(network: Any, frames: int, size: int) -> tuple[Any, ...]:
  """Shapes of the weights, and of z, t and conditions of one clip."""
  import jax
  import jax.numpy as jnp

  from lamd_jax import types
  from lamd_jax.nn import initializers

  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  concat = shape(1, frames, size, size, STRUCTURE)
  told = types.Conditions(shape(1, *CONTEXT), concat)
  given = (shape(1, frames, size, size, 4), shape(1), told)
  return initializers.shapes(network, *given)["params"], *given


def _filled(shapes: Any) -> Any:
  """Numbers that are nowhere zero: no layer shall be spared, as trained ones are not."""
  import jax
  import numpy as np

  generator = np.random.default_rng(0)
  draw = lambda x: generator.random(x.shape, np.float32) * 0.04 - 0.02
  return jax.device_put(jax.tree.map(draw, shapes))


def program(
  case: str, channels: int, frames: int, size: int
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
  """Returns the function of a case and its arguments' shapes."""
  import jax
  import jax.numpy as jnp

  from lamd_jax.diffusion import guidance

  network = _network(channels)
  arguments = _arguments(network, frames, size)
  kind, what = case.split("_")

  def denoise(mode, params, z, t, conditions):
    return network.apply({"params": params}, z, t, conditions, mode)

  if what == "forward":
    return functools.partial(denoise, kind), arguments
  if what == "gradient":
    return jax.grad(lambda *a: jnp.square(denoise(kind, *a)).mean()), arguments

  def guided(params, z, t, conditions):
    video, image = (functools.partial(denoise, m, params) for m in ("video", "image"))
    null = lambda c: c._replace(context=jnp.zeros_like(c.context))
    return guidance.three_term(video, image, null, 7.5, float(what))(z, t, conditions)

  return guided, arguments


def work(flags: argparse.Namespace) -> None:
  """The worker: one case at one length."""
  harness.use_threads(flags.threads)
  import jax

  from lamd_jax.training import flops

  case, frames = flags.worker.split(":")
  function, shapes = program(case, flags.channels, int(frames), flags.size)
  compiled = jax.jit(function).lower(*shapes).compile()
  arguments = _filled(shapes)
  memory = compiled.memory_analysis()
  held = memory.temp_size_in_bytes + memory.output_size_in_bytes
  facts = {"flops": float(flops.count(function, *shapes)), "memory": float(held)}
  harness.serve(lambda: jax.block_until_ready(compiled(*arguments)), facts)


def _command(flags: argparse.Namespace, case: str, frames: int) -> list[str]:
  sizes = [f"--{name}={vars(flags)[name]}" for name in ("channels", "size", "threads")]
  return ["-m", "benchmarks.gen1_step", f"--worker={case}:{frames}", *sizes]


def _ratios(found: dict[str, harness.Timing]) -> list[list[str]]:
  """Rows of what is compared: seconds and FLOPs, and the aim."""
  pairs = (
    ("temporal layers, forward", "video_forward", "image_forward", ""),
    ("temporal layers, gradient", "video_gradient", "image_gradient", ""),
    ("guidance at w_t = 1 over one call", "guidance_1", "video_forward", "2"),
    ("guidance at w_t = 1.5 over one call", "guidance_1.5", "video_forward", "3"),
  )
  rows = []
  for title, ours, theirs, aim in pairs:
    a, b = found[ours], found[theirs]
    rows.append([
      title, f"{a.best:.3f} / {a.median:.3f}", f"{b.best:.3f} / {b.median:.3f}",
      f"{a.best / b.best:.2f}, {a.median / b.median:.2f}",
      f"{a.facts['flops'] / b.facts['flops']:.2f}", aim,
    ])  # fmt: skip
  return rows


def _memory(flags: argparse.Namespace) -> tuple[list[list[str]], dict[str, Any]]:
  """Rows of working memory by frames; these programs run once."""
  rows, report = [], {}
  for frames in flags.frames:
    cells = []
    for case in ("video_forward", "video_gradient"):
      name = f"{case}:{frames}"
      found = harness.compete({name: _command(flags, case, frames)}, 1)[name]
      report[name] = {"memory": found.facts["memory"], "rss_gib": found.rss}
      cells += [f"{found.facts['memory'] / 2**20:.0f}", f"{found.rss:.2f}"]
    rows.append([str(frames), *cells])
  return rows, report


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--channels", type=int, default=64, help="320 is the paper's")
  parser.add_argument("--size", type=int, default=16, help="of latents")
  parser.add_argument("--clip", type=int, default=8, help="frames of the timed cases")
  parser.add_argument("--frames", type=int, nargs="+", default=[1, 8, 16, 32])
  parser.add_argument(
    "--alone", action="store_true",
    help="one case after the other, where six networks do not fit into memory",
  )  # fmt: skip
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--json", default="", help="also write the figures to this file")
  parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.worker:
    work(flags)
    return
  facts = harness.machine()
  print(facts, flush=True)
  commands = {case: _command(flags, case, flags.clip) for case in CASES}
  groups = [{case: commands[case]} for case in CASES] if flags.alone else [commands]
  found = {}
  for group in groups:
    found.update(harness.compete(group, flags.repeats))
  head = ("", "seconds: min / median", "over: min / median", "ratio: min, median",
          "FLOPs", "at most")  # fmt: skip
  print("\n" + harness.table(head, _ratios(found)), flush=True)
  rows, memory = _memory(flags)
  head = ("frames", "forward, MiB", "process, GiB", "gradient, MiB", "process, GiB")
  print("\n" + harness.table(head, rows), flush=True)
  if flags.json:
    timed = {
      name: {"min": t.best, "median": t.median, "rss_gib": t.rss, **t.facts}
      for name, t in found.items()
    }
    settings = {key: value for key, value in vars(flags).items() if key != "json"}
    whole = {"machine": facts, "settings": settings, "cases": timed, "memory": memory}
    pathlib.Path(flags.json).write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
  main()

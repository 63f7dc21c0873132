# SPDX-License-Identifier: Apache-2.0
"""Quality against steps, of a run's diffusion stage and of its distilled network.

    python -m benchmarks.few_steps --workdir=runs/lvdm_sky-demo --out=runs/few_steps

The run has the stage distill. Each chain makes the same number of clips, whose distance
to held-out real clips is that of --mode=evaluate (simple clip features, not FVD), with
the same interval; the floor are other real clips, the ceiling decoded random latents.
Cost is counted in network calls for a clip, one a step for all samplers here (two where
the teacher is guided). The clips of a chain lie in --out and are not made again, so a
run that was broken off goes on. sheet.png holds the first clips of each chain, a row
each, enlarged.
"""

from __future__ import annotations

import argparse
import pathlib

from benchmarks import harness

# One step of DPM-Solver++ (2M), or two of which the last ends clean, are those of DDIM.
CHAINS = (
  "consistency:1,2,4,8", "dpmpp_2m:4,8,20", "dpmpp_2m/log_snr:2,4,8,20",
  "ddim:1,2,4,8,20",
)  # fmt: skip
HEAD = ("clips", "steps", "distance", "part of the mean", "part of the covariance")
SHOWN, FRAMES, SCALE = 4, 2, 4  # clips of a chain and frames of a clip on the sheet


def chains(texts: list[str]) -> list[tuple[str, str, int]]:
  """Returns (sampler, spacing, steps) of each of SAMPLER[/SPACING]:STEPS,STEPS,..."""
  found = []
  for text in texts:
    name, _, steps = text.partition(":")
    sampler, _, spacing = name.partition("/")
    found += [(sampler, spacing or "trailing", int(step)) for step in steps.split(",")]
  return found


def row(name: str, steps: str, score: dict) -> tuple[str, ...]:
  """A line of the table."""
  cells = []
  for part in ("total", "mean", "covariance"):
    low, high = score["interval"][part]
    cells.append(f"{score[part]:.2f} [{low:.2f}, {high:.2f}]")
  return (name, steps, *cells)


def made(
  model, flags: argparse.Namespace, sampler: str, spacing: str, steps: int
):
  """Clips [N,T,H,W,3] uint8 of a chain; read where they were made before."""
  import numpy as np

  name = f"{sampler}-{spacing}-{steps}-{flags.clips}-seed{flags.seed}.npy"
  path = flags.out / name
  if not path.is_file():
    clips = model.generate(
      flags.clips, sampler=sampler, steps=steps, spacing=spacing, seed=flags.seed,
      batch=min(flags.batch, flags.clips),
    )  # fmt: skip
    np.save(path, np.stack([clip.frames for clip in clips]))
  return np.load(path)


def sheet(clips: dict, path: pathlib.Path) -> None:
  """First and last frames of the first clips, a chain a row."""
  import numpy as np

  from lamd_jax import media

  rows = []
  for frames in clips.values():
    places = np.linspace(0, frames.shape[1] - 1, FRAMES).round().astype(int)
    tiles = frames[:SHOWN][:, places].reshape(-1, *frames.shape[2:])
    tiles = tiles.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    tiles = np.pad(tiles, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=255)
    rows.append(np.concatenate(list(tiles), axis=1))
  media.write_png(path, np.concatenate(rows))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--out", required=True, type=pathlib.Path)
  parser.add_argument(
    "--chains", nargs="+", default=list(CHAINS), help="SAMPLER[/SPACING]:STEPS,STEPS"
  )
  parser.add_argument("--clips", type=int, default=256)
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--resamples", type=int, default=1000)
  flags = parser.parse_args()
  flags.out.mkdir(parents=True, exist_ok=True)
  import lamd_jax
  from lamd_jax.data import pipeline
  from lamd_jax.evaluation import clip_report

  print(harness.machine(), flush=True)
  model = lamd_jax.load(flags.workdir)
  data, seed = model.config.data, model.config.seed
  real = pipeline.clips(data, data.eval_split, 2 * flags.clips, seed)
  reference = real[::2]  # as --mode=evaluate does
  shown = {"real": reference}

  def score(name: str, steps: str, clips) -> tuple[str, ...]:
    found = clip_report.generation(reference, {"": clips}, flags.resamples, seed)
    line = row(name, steps, found[""])
    print(*line, flush=True)
    return line

  rows = [score("other real clips", "", real[1::2])]
  for sampler, spacing, steps in chains(flags.chains):
    name = sampler if spacing == "trailing" else f"{sampler}, {spacing}"
    shown[name, steps] = clips = made(model, flags, sampler, spacing, steps)
    rows.append(score(name, str(steps), clips))
  random = model.random_latents(flags.clips, flags.seed)
  rows.append(score("decoded random latents", "", random))
  sheet(shown, flags.out / "sheet.png")
  print(harness.table(HEAD, rows))


if __name__ == "__main__":
  main()

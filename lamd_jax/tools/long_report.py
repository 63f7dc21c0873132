# SPDX-License-Identifier: Apache-2.0
"""Does a long video get worse along the way? Scores of its segments, with and without
conditional latent perturbation and guidance (LVDM, arXiv 2211.13221, section 3.3).

  python -m lamd_jax.tools.long_report --workdir=runs/lvdm_sky_long-demo --out=report

Writes segments.csv (every window), summary.json and one plot per kind of feature. The
floor is real videos of the same length, where the data set has them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import itertools
import json
import pathlib
import sys
import time

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import api
from lamd_jax import errors
from lamd_jax import line_plot
from lamd_jax import run_folder
from lamd_jax.data import listings
from lamd_jax.data import pipeline
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.evaluation import features
from lamd_jax.evaluation import long_report
from lamd_jax.tools import paths
from lamd_jax.training import compile_cache


def _real_long(config: ConfigDict, videos: int, frames: int) -> np.ndarray | None:
  data = config.data.copy_and_resolve_references()
  with data.unlocked():
    data.update(frames=frames, sampling="first")
  try:
    return pipeline.clips(data, data.eval_split, videos, config.seed)
  except DataError:
    return None  # no video is that long


def _made(
  model: api.Model, options: argparse.Namespace, noise_level: int, guidance: float
) -> np.ndarray:
  videos = model.long_videos(
    options.videos, long=options.long, frames=options.frames, noise_level=noise_level,
    guidance=guidance, null=options.null, steps=options.steps, sampler=options.sampler,
    seed=options.seed,
  )  # fmt: skip
  return np.stack(list(videos))


@listings.listed_once()
def run(options: argparse.Namespace) -> None:
  workdir = epath.Path(options.workdir).expanduser().resolve()
  config = run_folder.read(workdir)
  if config is None:
    raise ConfigError(f"--workdir={options.workdir}: holds no run")
  least = options.window * config.data.frames
  if options.frames < least:
    raise ConfigError(
      f"--frames={options.frames}: a window has {options.window} segments of"
      f" {config.data.frames} frames; take {least} or more, or a smaller --window"
    )
  compile_cache.enable()
  model = api.from_workdir(config, workdir, "ema")
  length = config.data.frames
  real = pipeline.clips(config.data, config.data.eval_split, options.real, config.seed)
  real = features.clip_features(real)
  series = {}
  held_out = _real_long(config, options.videos, options.frames)
  if held_out is not None:
    series["real videos"] = long_report.segment_features(held_out, length)
  grid = itertools.product(options.noise_levels, options.guidance)
  for noise_level, guidance in grid:
    name = f"s={noise_level} guidance={guidance:g}"
    started = time.monotonic()
    series[name] = long_report.segment_features(
      _made(model, options, noise_level, guidance), length
    )
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
  _write(paths.path(options.out), options, series, real, length, config)


def _write(
  out: pathlib.Path, options: argparse.Namespace, series: dict[str, np.ndarray],
  real: np.ndarray, length: int, config: ConfigDict,
) -> None:  # fmt: skip
  out.mkdir(parents=True, exist_ok=True)
  rows = []
  for name, made in series.items():
    rows += long_report.score(
      name, made, real, frames=length, segments=options.window,
      resamples=options.resamples, seed=0,
    )  # fmt: skip
  (out / "segments.csv").write_text("\n".join(long_report.csv_lines(rows)) + "\n")
  for group in long_report.GROUPS:
    lines = {
      name: [(r.frame, r.distance) for r in rows if (r.series, r.group) == (name, group)]
      for name in series
    }
    title = f"{options.long}: distance to real clips, {group} features"
    plot = line_plot.svg(title, "first frame of the window", "distance", lines)
    (out / f"{group}.svg").write_text(plot)
  found = long_report.summary(series, real, resamples=options.resamples, seed=0)
  record = {
    "options": {k: v for k, v in vars(options).items() if k not in ("workdir", "out")},
    "config_hash": run_folder.config_hash(config),
    "summary": found,
  }
  (out / "summary.json").write_text(json.dumps(record, indent=2) + "\n")
  print(f"{'':<28}{'first quarter':<26}{'last quarter':<26}change")
  for name, parts in found.items():
    cells = [f"{v:.2f} [{a:.2f}, {b:.2f}]" for v, a, b in parts.values()]
    print(f"{name:<28}" + "".join(f"{cell:<26}" for cell in cells))
  print(f"segments.csv, summary.json and plots are in {out}")


def main(arguments: Sequence[str] | None = None) -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m lamd_jax.tools.long_report",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--workdir", required=True)
  add("--out", required=True)
  add("--long", default="hierarchical")
  add("--frames", type=int, default=1024)
  add("--videos", type=int, default=8, help="of each setting")
  add("--noise-levels", type=int, nargs="+", default=[0, 100], help="perturbation s")
  add("--guidance", type=float, nargs="+", default=[1.0, 1.1])
  add("--null", default="released")
  add("--sampler", default="dpmpp_2m")
  add("--steps", type=int, default=20)
  add("--seed", type=int, default=0)
  add("--real", type=int, default=256, help="short real clips to compare with")
  add("--window", type=int, default=4, help="segments of a window")
  add("--resamples", type=int, default=200)
  return errors.exit_code(lambda: run(parser.parse_args(arguments)))


if __name__ == "__main__":
  sys.exit(main())

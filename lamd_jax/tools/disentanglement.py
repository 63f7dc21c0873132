# SPDX-License-Identifier: Apache-2.0
"""Does a trained LaMD keep motion and content apart? Measured on the `cater` v1 world.

  python -m lamd_jax.tools.disentanglement --workdir=runs/lamd_cater_gen_v1-demo

Writes disentanglement.json and .md to RUN/eval, or to --out. What is measured is said in
lamd_jax/evaluation/disentanglement.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import sys
import time
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import api
from lamd_jax import errors
from lamd_jax import run_folder
from lamd_jax.data.procedural import world
from lamd_jax.errors import ConfigError
from lamd_jax.evaluation import caption_following
from lamd_jax.evaluation import cater_pairs
from lamd_jax.evaluation import disentanglement
from lamd_jax.evaluation import features
from lamd_jax.evaluation.disentanglement import Estimate
from lamd_jax.tools import paths
from lamd_jax.training import compile_cache

_BATCH = 8  # clips encoded at once


def _check(config: ConfigDict) -> None:
  data = config.data
  if config.system != "lamd":
    raise ConfigError(f"system={config.system}: has no motion map; give a run of lamd")
  if data.source != "procedural" or (data.world, data.world_mode) != ("cater", "v1"):
    raise ConfigError(
      f"data.source={data.source}, data.world={data.world}: what moves is known of the"
      " procedural world cater, mode v1, alone; give a run on it"
    )


def _maps(model: api.Model, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Motion maps [N,1,h,w,d] of clips [N,T,H,W,3] uint8, and content f_x0 [N,1,h,w,D]."""
  system = model.system
  both = jax.jit(lambda w, x: (system.motion(w, x), system.content(w, x[:, :1])[-1]))
  done = []
  for start in range(0, len(clips), _BATCH):
    part = clips[start : start + _BATCH]
    rows = np.minimum(np.arange(_BATCH), len(part) - 1)  # one program serves all
    done.append([np.asarray(x)[: len(part)] for x in both(model.weights, part[rows])])
  motion, content = zip(*done, strict=True)
  return np.concatenate(motion), np.concatenate(content)


def _transfer(model: api.Model, options: argparse.Namespace) -> dict[str, Any]:
  """Measures motion and appearance of clips with another clip's motion map."""
  data, seed, resamples = model.config.data, options.seed, options.resamples
  pairs = cater_pairs.render_pairs(options.pairs, data.frames, data.size, seed)
  order = caption_following.derangement(np.random.default_rng(seed), options.pairs)
  images = pairs.content[:, :1]
  made = model.transfer(pairs.motion, images)
  made_of = {
    "swapped z_m": made,
    "true clips": pairs.target,
    "own z_m": model.reconstruct(pairs.target),
  }
  mean = lambda values: disentanglement.mean(values, resamples, seed)
  result: dict[str, Any] = {"pairs": options.pairs, "motion": {}, "appearance": {}}
  for name, clips in made_of.items():
    moved = disentanglement.displacement(caption_following.track(clips))
    result["motion"][name] = disentanglement.motion(
      moved, pairs.motion_moved, pairs.content_moved, order, resamples, seed
    )
    result["appearance"][name] = disentanglement.appearance(
      disentanglement.cone_colours(clips), pairs.content_colour, pairs.motion_colour,
      resamples, seed,
    )  # fmt: skip
    look = disentanglement.nearer(clips, pairs.target, pairs.motion)
    first = lambda x: features.psnr(clips[:, :1], x[:, :1])
    result["appearance"][name]["nearer"] = mean(look)
    result["appearance"][name]["first_frame"] = mean(first(pairs.content))
    result["appearance"][name]["donor_first_frame"] = mean(first(pairs.motion))
  psnr = lambda a, b: mean(features.psnr(a, b))
  result["transfer_psnr"] = {
    "to the true clip of that motion": psnr(pairs.target, made),
    "to the image's own clip": psnr(pairs.content, made),
  }
  rebuilt = features.psnr(pairs.content, model.reconstruct(pairs.content))
  donors = model.transfer(pairs.content[order], images)
  result["reconstruction"] = disentanglement.reconstruction(
    rebuilt, features.psnr(pairs.content, donors), resamples, seed
  )
  return result


def _probes(model: api.Model, options: argparse.Namespace) -> dict[str, Any]:
  """Reads colour and displacement from motion maps, and from content maps."""
  data, count = model.config.data, options.probe_clips
  made = world(data.world, data.world_mode)
  samples = [made.sample("probe", i, data.frames, data.size) for i in range(count)]
  maps = _maps(model, np.stack([s.video for s in samples]))
  cone = cater_pairs.CONE
  colours = np.array([s.state["attributes"][cone, 2] for s in samples], np.int64)
  positions = np.stack([s.state["position"] for s in samples])
  moved = (positions[:, -1] - positions[:, 0])[..., :2].reshape(count, -1)
  fitted = count * 3 // 4
  result: dict[str, Any] = {"fitted": fitted, "held_out": count - fitted}
  for name, found in zip(("z_m", "f_x0"), maps, strict=True):
    x = disentanglement.summary(found)
    given = (fitted, options.resamples, options.seed)
    result[name] = {
      "colour": disentanglement.probe_classes(x, colours, *given),
      "displacement_r2": disentanglement.probe_values(x, moved, *given),
    }
  return result


def _cell(found: Estimate, digits: int = 2) -> str:
  low, high = found.interval
  return f"{found.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def markdown(result: dict[str, Any]) -> str:
  """The tables of a result."""
  lines = [
    f"Displacement of the objects that move in the donor of the motion; {result['pairs']}"
    " pairs, 95 % bootstrap intervals.",
    "",
    "| clips | against the displacement | correlation | cosine | error, units | objects"
    " tracked |",
    "|---|---|---|---|---|---|",
  ]
  said = {"donor": "of the motion's donor", "own": "of the image's own clip",
          "shuffled": "of another donor"}  # fmt: skip
  for name, found in result["motion"].items():
    for key, words in said.items():
      cells = (_cell(found[key][k]) for k in ("correlation", "cosine", "error"))
      lines.append(
        f"| {name} | {words} | {' | '.join(cells)} | {found['tracked']:.2f} of"
        f" {found['objects']} |"
      )
  lines += [
    "", "| clips | cone's pixels nearer to the image's look than to the donor's | cone"
    " named by the image's colour | by the donor's | first frame against the image, dB |"
    " against the donor's |",
    "|---|---|---|---|---|---|",
  ]  # fmt: skip
  keys = ("nearer", "content", "donor", "first_frame", "donor_first_frame")
  for name, found in result["appearance"].items():
    lines.append(f"| {name} | {' | '.join(_cell(found[k]) for k in keys)} |")
  rebuilt, probes = result["reconstruction"], result["probes"]
  lines += ["", "| rebuilt with | PSNR, dB |", "|---|---|"]
  for key, words in (("own", "its own z_m"), ("shuffled", "another clip's z_m"),
                     ("loss", "difference")):  # fmt: skip
    lines.append(f"| {words} | {_cell(rebuilt[key])} |")
  for words, found in result["transfer_psnr"].items():
    lines.append(f"| swapped z_m, {words} | {_cell(found)} |")
  lines += [
    "", f"Linear probes, fitted to {probes['fitted']} clips, scored on"
    f" {probes['held_out']}.", "",
    "| read from | cone's colour, accuracy | chance | displacement, R^2 |",
    "|---|---|---|---|",
  ]  # fmt: skip
  for name in ("z_m", "f_x0"):
    colour = probes[name]["colour"]
    lines.append(
      f"| {name} | {_cell(colour['accuracy'])} | {_cell(colour['chance'])} |"
      f" {_cell(probes[name]['displacement_r2'])} |"
    )
  return "\n".join(lines) + "\n"


def _record(found: Any) -> Any:
  """Estimates as JSON objects; null where nothing could be measured."""
  if isinstance(found, Estimate):
    return None if np.isnan(found.value) else found._asdict()
  if isinstance(found, dict):
    return {key: _record(value) for key, value in found.items()}
  return found


def run(options: argparse.Namespace) -> dict[str, Any]:
  """Measures, writes and prints; returns what disentanglement.json holds."""
  workdir = epath.Path(options.workdir).expanduser().resolve()
  config = run_folder.read(workdir)
  if config is None:
    raise ConfigError(f"--workdir={options.workdir}: holds no run")
  _check(config)
  if min(options.pairs, options.probe_clips) < 8:
    raise ConfigError(
      f"--pairs={options.pairs}, --probe-clips={options.probe_clips}: give at least 8"
    )
  compile_cache.enable()
  started = time.monotonic()
  model = api.from_workdir(config, workdir, "ema")
  result = {
    "config_hash": run_folder.config_hash(config),
    "seed": options.seed,
    **_transfer(model, options),
    "probes": _probes(model, options),
  }
  out = paths.path(options.out or workdir / "eval")
  out.mkdir(parents=True, exist_ok=True)
  record = _record(result)
  (out / "disentanglement.json").write_text(json.dumps(record, indent=2) + "\n")
  text = markdown(result)
  (out / "disentanglement.md").write_text(text)
  print(text)
  print(f"{out / 'disentanglement.json'}, {time.monotonic() - started:.0f} s")
  return record


def main(arguments: Sequence[str] | None = None) -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m lamd_jax.tools.disentanglement",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--workdir", required=True)
  add("--out", default="", help="folder; default: RUN/eval")
  add("--pairs", type=int, default=128, help="pairs of clips that swap motion")
  add("--probe-clips", type=int, default=1024, help="a quarter of them is held out")
  add("--resamples", type=int, default=1000)
  add("--seed", type=int, default=0)

  def command() -> None:
    run(parser.parse_args(arguments))

  return errors.exit_code(command)


if __name__ == "__main__":
  sys.exit(main())

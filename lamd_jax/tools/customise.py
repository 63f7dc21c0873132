# SPDX-License-Identifier: Apache-2.0
"""Makes a Gen-1 run that knows a subject, from 15 to 30 pictures of it.

  python -m lamd_jax.tools.customise --workdir=RUN --images=DIR --out=DIR --how=lora

The result is a run folder: --mode=sample --workdir=OUT and lamd_jax.load take it. Half
of each batch of pictures is the subject's, the other half the run's own data, which the
run's data.root must still hold. How: lamd_jax/systems/gen1_customise.py. Broken off,
the same command goes on. Edit with a higher structure_level than usual: the subject
brings its own shape.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
import glob
import json
import pathlib
import sys
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import adapters
from lamd_jax import errors
from lamd_jax import inputs
from lamd_jax import limits
from lamd_jax import loading
from lamd_jax import media
from lamd_jax import run_folder
from lamd_jax import types
from lamd_jax.data import frame_folder
from lamd_jax.data import listings
from lamd_jax.data import pipeline
from lamd_jax.data import transforms
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.errors import WeightsError
from lamd_jax.modes import train
from lamd_jax.systems import further_stage
from lamd_jax.systems import gen1
from lamd_jax.systems import gen1_customise
from lamd_jax.tools import derived_run
from lamd_jax.training import checkpoints
from lamd_jax.training import compile_cache
from lamd_jax.training import distributed
from lamd_jax.training import precision
from lamd_jax.training import preemption

TRAINING = "customise"  # folder of the training, below the result's
RECORD = "customise.json"


class Subject:
  """The run's own batches; of those of pictures, the first half are the subject's.

  A row of subject pictures is as long as a clip, and taken apart by the step.
  """

  def __init__(
    self,
    own: pipeline.Loader,
    stage: gen1_customise.CustomStage,
    pictures: np.ndarray,
    depth: np.ndarray | None,
    batch: int,
    seed: int,
  ):
    """Args:
    own: the run's clips.
    stage: says which steps are of pictures.
    pictures: [N,H,W,3] uint8, of the subject.
    depth: [N,H,W,1] uint8, None where clips have none.
    batch: clips a step.
    seed: of which pictures a step takes.
    """
    self._own, self._stage, self._batch, self._seed = own, stage, batch, seed
    self._pictures, self._depth = pictures, depth

  def __iter__(self) -> Iterator[types.VideoBatch]:
    while True:
      step = self._own.get_state()["next_index"] // self._batch
      yield self._mixed(next(self._own), step)

  def _mixed(self, clips: types.VideoBatch, step: int) -> types.VideoBatch:
    if self._stage.variant_at(step) != "image":
      return clips
    half, length = len(clips.video) // 2, clips.video.shape[1]
    key = np.array([self._seed, step], np.uint64)
    drawn = np.random.Generator(np.random.Philox(key=key)).integers(
      0, len(self._pictures), (half, length)
    )
    join = lambda ours, theirs: np.concatenate([ours[drawn], theirs[half:]])
    depth = None if self._depth is None else join(self._depth, clips.depth)
    return clips._replace(video=join(self._pictures, clips.video), depth=depth)

  def get_state(self) -> dict[str, Any]:
    return self._own.get_state()

  def set_state(self, state: dict[str, Any]) -> None:
    self._own.set_state(state)

  def close(self) -> None:
    self._own.close()


def _files(folder: str) -> list[pathlib.Path]:
  root = pathlib.Path(folder).expanduser()
  if not root.is_dir():
    raise DataError(f"--images={folder}: no such folder")
  found = sorted(p for p in root.iterdir() if frame_folder.is_image(p.name))
  if not found:
    raise DataError(f"--images={folder}: holds no picture; give 15 to 30 of a subject")
  return found


def _depth(path: pathlib.Path, folder: str, data: ConfigDict) -> np.ndarray:
  """Reads a picture's depth, [H,W,1] uint8, from the grey picture of the same stem."""
  for other in sorted(pathlib.Path(folder).expanduser().glob(f"{glob.escape(path.stem)}.*")):
    grey = inputs.image(other, data.size, data.resize)[0][..., 0]
    return transforms.normalise_depth(grey.astype(np.float32))[0]
  raise DataError(f"--depth={folder}: holds no picture {path.stem}.*, depth of {path}")


def read(
  options: argparse.Namespace, config: ConfigDict
) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns pictures [N,H,W,3] and their depth [N,H,W,1], uint8."""
  data, files = config.data, _files(options.images)
  pictures = [inputs.image(path, data.size, data.resize)[0][0] for path in files]
  depth = None
  if data.depth not in ("none", "estimated"):
    if not options.depth:
      raise ConfigError(
        "--depth: is missing, and this run has no network for it; name a folder with a"
        " grey picture, near is white, to each of --images"
      )
    depth = np.stack([_depth(path, options.depth, data) for path in files])
  return np.stack(pictures), depth


def _settings(options: argparse.Namespace, config: ConfigDict, name: str) -> ConfigDict:
  """The run's config with the options in the place of its stage's optimisation."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.optim[name].update(
      steps=options.steps, batch=options.batch, learning_rate=options.learning_rate,
      optimizer="adamw", schedule="constant", warmup=0, accumulate=1, ema_decay=0.0,
      clip_norm=1.0,
    )  # fmt: skip
    config.train.update(preview_every=0, latent_cache=False)
  for key, value in config.optim[name].items():
    limits.check_leaf("config", f"optim.{name}.{key}", value)
  return config


def _train(
  options: argparse.Namespace, config: ConfigDict, weights: derived_run.Weights,
  out: epath.Path, record: Mapping[str, Any],
) -> dict[str, Any] | None:  # fmt: skip
  """Trains in a folder of its own; returns the weights, None if it was broken off."""
  system = gen1.Gen1(config, precision.compute_dtype(config.train.compute))
  stage = gen1_customise.CustomStage(system, options.how, options.rank)
  pictures, depth = read(options, config)
  folder, optim = out / TRAINING, config.optim[stage.name]
  media.write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
  own = pipeline.loader(
    config.data, split=config.data.split, batch=optim.batch, seed=options.seed
  )
  result = train.train_stage(
    stage, config, folder, frozen={name: weights[name] for name in stage.needs},
    earlier=weights[stage.name],
    loader=Subject(own, stage, pictures, depth, optim.batch, options.seed),
    stop=preemption.Stop().install(), status=None,
  )  # fmt: skip
  if result.status == "preempted":
    return None
  trained = checkpoints.load_weights(folder, "raw", config.train.checkpoint_verify)
  if options.how == further_stage.LORA:
    changes = adapters.changes_of(trained["params"][further_stage.LORA], options.rank)
    base = weights[stage.name]["params"]
    adapters.write(out / adapters.NAME, config, stage.name, base, changes)
  return {**trained, "params": jax.device_get(stage.whole(trained["params"]))}


@listings.listed_once()
def customise(options: argparse.Namespace) -> int:
  """Makes the run; returns the exit code."""
  distributed.alone("tools.customise")
  run = epath.Path(options.workdir).expanduser().resolve()
  out = epath.Path(options.out).expanduser().resolve()
  stored = run_folder.read(run)
  if stored is None or stored.system != "gen1":
    raise ConfigError(f"--workdir={options.workdir}: holds no run of gen1")
  name = gen1.Gen1(stored).diffuser
  if not name or not checkpoints.finished(run / name):
    raise WeightsError(f"{run}: its stage {name or 'image'} is not trained to its end")
  if run_folder.read(out) is not None:
    raise ConfigError(f"--out={options.out}: holds a run already; name another folder")
  if options.batch % 2:
    raise ConfigError(f"--batch={options.batch}: half is the subject's; make it even")
  if options.how != "lora" and options.rank is not None:
    raise ConfigError(f"--how={options.how}: --rank is of --how=lora")
  options.rank = 4 if options.rank is None else options.rank
  if options.rank < 1:
    raise ConfigError(f"--rank={options.rank}: at least 1")
  compile_cache.enable()
  config = _settings(options, stored, name)
  record = {**vars(options), "run": str(run)}
  # Of an --out that was begun, everything but how long it goes on.
  fixed = {k: v for k, v in record.items() if k not in ("out", "steps", "workdir")}
  derived_run.check_begun(out / TRAINING / RECORD, fixed, out)
  _, weights = loading.gather(stored, run, "ema")
  if not checkpoints.finished(out / name):  # broken off after the training alone
    made = _train(options, config, weights, out, fixed)
    if made is None:
      return preemption.EXIT_CODE
    checkpoints.write_finished(out / name, made["params"], {}, made["extras"])
  derived_run.write(stored, run, out, weights, name, record, RECORD)
  print(f"a run that knows the subject is in {out}; sample it with --workdir={out}")
  return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdir", required=True, help="the run")
  parser.add_argument("--images", required=True, help="folder of its pictures")
  parser.add_argument("--depth", default="", help="folder of their depth, in grey")
  parser.add_argument("--out", required=True, help="folder of the run that is made")
  parser.add_argument("--how", choices=gen1_customise.HOW, default="lora")
  parser.add_argument("--rank", type=int, help="of lora; 4 unless told")
  parser.add_argument("--steps", type=int, default=500)
  parser.add_argument("--batch", type=int, default=4, help="clips a step, even")
  parser.add_argument("--learning_rate", type=float, default=1e-4)
  parser.add_argument("--seed", type=int, default=0)
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the tool; returns the exit code."""
  return errors.exit_code(lambda: customise(_options(argv)))


if __name__ == "__main__":
  sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Goes on from a trained model on other data: all of it, its motion, or by LoRA.

  python -m lamd_jax.tools.finetune --workdir=RUN --out=OUT --how=lora \\
    --config.data.root=DIR --config.optim.diffusion.steps=2000

RUN is a run, an export or a converted checkpoint; its averaged weights are the start.

  full      all that the stage trained
  temporal  the layers that mix frames alone: other motion, the same pictures
  lora      low-rank changes of the attention; OUT/lora.safetensors is all that is new,
            for --workdir=RUN --mode=sample --sample.lora=OUT/lora.safetensors

OUT is a run like any other, to sample and to score, with the changes merged in. Broken
off, the same command goes on. Keys of data, optim and train may be given; the others
are RUN's. A folder of other videos needs no more than --config.data.root.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import json
import pathlib
import sys
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict

from lamd_jax import adapters
from lamd_jax import command_line
from lamd_jax import errors
from lamd_jax import loading
from lamd_jax import media
from lamd_jax import own_data
from lamd_jax import run_folder
from lamd_jax import validation
from lamd_jax.data import listings
from lamd_jax.data import pipeline
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.modes import preflight
from lamd_jax.modes import train
from lamd_jax.systems import further_stage
from lamd_jax.systems.diffusion_stage import DenoiserStage
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.tools import derived_run
from lamd_jax.training import checkpoints
from lamd_jax.training import compile_cache
from lamd_jax.training import distributed
from lamd_jax.training import loop
from lamd_jax.training import precision
from lamd_jax.training import preemption
from lamd_jax.training import status as status_lib

TRAINING = "finetune"  # folder of the training, below the result's
RECORD = "finetune.json"
_CHANGEABLE = ("data", "optim", "train")
# Of these groups, what the networks were built for.
_OF_NETWORKS = (
  "data.size", "data.frames", "data.tokenizer", "data.tokens", "data.vocabulary_size",
  "data.vocabulary",
)  # fmt: skip


def _config(
  stored: ConfigDict, line: command_line.CommandLine
) -> tuple[ConfigDict, set[str]]:
  """Returns RUN's config with the overrides, and their keys."""
  typed = {key for _, key, _ in line.overrides}
  if line._replace(overrides=()) != command_line.CommandLine():
    raise ConfigError("--config, --mode, --resume, --dry_run: are of lamd_jax.main")
  for group, key, text in line.overrides:
    if group != "config" or key.split(".")[0] not in _CHANGEABLE:
      raise ConfigError(
        f"--{group}.{key}={text}: stays as it was in the run; what can change is"
        f" --config.{', '.join(_CHANGEABLE)}"
      )
  config = command_line.apply(stored.copy_and_resolve_references(), "config", line)
  if {"data.root", "data.source"} & typed == {"data.root"}:
    _read_folder(config)
  old, new = stored.data, config.data
  for key in _OF_NETWORKS:
    name = key.removeprefix("data.")
    if new[name] != old[name]:
      raise ConfigError(
        f"--config.{key}={new[name]}: the run's networks are for {old[name]!r}; leave"
        " it out"
      )
  if (new.depth == "none") != (old.depth == "none"):
    raise ConfigError(
      f"--config.data.depth={new.depth}: the run was trained with {old.depth}; clips"
      " have depth in both, or in neither"
    )
  new.root, new.depth_root = map(run_folder.absolute, (new.root, new.depth_root))
  new.fps = float(pipeline.fps(new))
  return config, typed


def _read_folder(config: ConfigDict) -> None:
  """Takes the source that fits the folder."""
  folder = own_data.look(config.data.root)
  print(f"data: {folder.name}, {len(folder.entries)} videos", flush=True)
  with config.unlocked():
    config.data.update(source=folder.source, root=str(folder.root))
    if config.data.captions == "appearance":  # of a procedural world alone
      config.data.captions = "explicit"


def _check_data(config: ConfigDict, name: str, frames: int) -> None:
  """Raises DataError if clips are too short, or lack what the networks are told."""
  data = config.data.copy_and_resolve_references()
  with data.unlocked():
    data.frames = frames
  pipeline.check(data, data.split)
  preflight.check_told(config, data, (name,))


def _check_devices(config: ConfigDict, name: str) -> None:
  """Checks the config; of the stages that are not trained no batch size matters."""
  checked = config.copy_and_resolve_references()
  with checked.unlocked():
    for stage in checked.stages:
      checked.optim[stage] = checked.optim[name]
  validation.check_config(checked.lock(), jax.device_count())


def _stage(
  system: Any, weights: Mapping[str, Any], wanted: str
) -> DenoiserStage:
  """The stage that is asked for, else the first with a denoiser."""
  known = {
    s.name: s
    for s in system.stages()
    if isinstance(s, DenoiserStage) and s.name in weights
  }
  if not known:
    raise WeightsError("--workdir: holds no denoiser that could be trained further")
  name = wanted or next(iter(known))
  if name not in known:
    raise ConfigError(f"--stage={name}: stages of this run are {', '.join(known)}")
  return known[name]


def _check_out(
  out: epath.Path, config: ConfigDict, record: Mapping[str, Any]
) -> None:
  """Raises ConfigError unless `out` is free, or was begun by the same command."""
  begun = out / TRAINING / RECORD
  if not begun.exists():
    if out.exists() and any(out.iterdir()):
      raise ConfigError(f"--out={out}: holds something else; name a new folder")
    return
  derived_run.check_begun(begun, record, out)
  stored = run_folder.read(out / TRAINING)
  if stored is not None:
    run_folder.check_same(stored, config, out)


def _results(
  stage: further_stage.FurtherStage, config: ConfigDict, out: epath.Path,
  base: Mapping[str, Any], options: argparse.Namespace,
) -> None:  # fmt: skip
  """Writes the stage as a finished one, and the file of LoRA."""
  folder, verify = out / TRAINING / stage.name, config.train.checkpoint_verify

  def groups(which: str) -> dict[str, Any]:
    trained = checkpoints.load_weights(folder, which, verify)["params"]
    if options.how != further_stage.LORA:
      return stage.whole(trained)
    changes = adapters.changes_of(trained[further_stage.LORA], options.alpha)
    if which == "ema":  # what sampling takes
      path = pathlib.Path(out / adapters.NAME)
      adapters.write(path, config, stage.name, base["params"], changes)
    # As files are laid over a model, so that both ways give the same clips.
    return adapters.merged(base["params"], changes, 1.0)

  averages = groups("ema")
  checkpoints.write_finished(
    out / stage.name, groups("raw"), averages if stage.averaged else {}, base["extras"]
  )


def _train(
  stage: further_stage.FurtherStage, config: ConfigDict, out: epath.Path,
  weights: Mapping[str, Any],
) -> loop.Result:  # fmt: skip
  """Trains in a folder of its own, or goes on there."""
  folder, stop = out / TRAINING / stage.name, preemption.Stop().install()
  frozen = {name: weights[name] for name in stage.needs}
  status = status_lib.Status(out, 1)
  status.stage(stage.name, 1, config.optim[stage.name].steps)
  try:
    result = train.train_stage(
      stage, config, folder, frozen=frozen, earlier=weights[stage.name],
      loader=train.loader_of(stage, config, frozen, out / TRAINING, stop), stop=stop,
      status=status,
    )  # fmt: skip
  except preemption.Preempted:
    result = loop.Result("preempted", 0)
  except KeyboardInterrupt:
    status.state("interrupted")
    raise
  except BaseException as error:
    status.state("failed", f"{type(error).__name__}: {error}")
    raise
  status.state(result.status)
  return result


@listings.listed_once()
def finetune(options: argparse.Namespace, line: command_line.CommandLine) -> int:
  """Makes the run; returns the exit code."""
  distributed.alone("tools.finetune")
  run = loading.locate(options.workdir)
  out = epath.Path(options.out).expanduser().resolve()
  stored = run_folder.read(run)
  if stored is None:
    raise ConfigError(f"--workdir={options.workdir}: holds no run (no config.json)")
  if options.how != further_stage.LORA and {options.rank, options.alpha} != {None}:
    raise ConfigError(f"--how={options.how}: --rank and --alpha are of --how=lora")
  options.rank = 8 if options.rank is None else options.rank
  options.alpha = float(options.rank) if options.alpha is None else options.alpha
  if options.rank < 1 or not options.alpha > 0:
    raise ConfigError(
      f"--rank={options.rank}, --alpha={options.alpha}: rank at least 1, alpha above 0"
    )
  config, typed = _config(stored, line)
  # Its files found: what is trained reads them from `run`.
  found, weights = loading.gather(config, run, "ema")
  system = SYSTEMS[found.system](found, precision.compute_dtype(found.train.compute))
  inner = _stage(system, weights, options.stage)
  stage = further_stage.FurtherStage(inner, options.how, options.rank, options.alpha)
  moving, whole = stage.check()
  _check_needs(stage, weights, run)
  _check_devices(found, stage.name)
  for key in typed:
    if key.startswith("optim.") and key.split(".")[1] != stage.name:
      raise ConfigError(f"--config.{key}: only {stage.name} is trained")
  record = {
    "how": options.how, "stage": stage.name,
    "base": adapters.base_hash(weights[stage.name]["params"]),
  }  # fmt: skip
  if options.how == further_stage.LORA:
    record |= {"rank": options.rank, "alpha": options.alpha}
  _check_out(out, config, record)
  if (out / "config.json").exists():
    print(f"{out}: finished before")
    return 0
  _check_data(found, stage.name, stage.frames)
  compile_cache.enable()
  print(
    f"{options.how}: {moving:,} numbers of {stage.name} are trained, it has {whole:,}",
    flush=True,
  )
  run_folder.write(out / TRAINING, config)
  media.write_text(out / TRAINING / RECORD, json.dumps(record, indent=2) + "\n")
  if _train(stage, found, out, weights).status == "preempted":
    return preemption.EXIT_CODE
  _results(stage, config, out, weights[stage.name], options)
  derived_run.write(
    config, run, out, weights, stage.name, {**record, "run": str(run)}, RECORD
  )
  print(f"a run like any other is in {out}; sample it with --workdir={out}")
  if options.how == further_stage.LORA:
    print(f"its changes alone: --workdir={run} --sample.lora={out / adapters.NAME}")
  return 0


def _check_needs(
  stage: further_stage.FurtherStage, weights: Mapping[str, Any], run: epath.Path
) -> None:
  if missing := [name for name in stage.needs if name not in weights]:
    raise WeightsError(f"{run}: holds no {', '.join(missing)}, which training reads")


def _options(
  argv: Sequence[str] | None,
) -> tuple[argparse.Namespace, command_line.CommandLine]:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )  # fmt: skip
  parser.add_argument("--workdir", required=True, help="a run, an export, hub:NAME")
  parser.add_argument("--out", required=True, help="folder of the run that is made")
  parser.add_argument("--how", choices=further_stage.HOW, required=True)
  parser.add_argument("--stage", default="", help="default: the first with a denoiser")
  parser.add_argument("--rank", type=int, help="of lora; 8 unless told")
  parser.add_argument(
    "--alpha", type=float, help="of lora, which counts alpha/rank; the rank unless told"
  )
  options, rest = parser.parse_known_args(argv)
  return options, command_line.parse(rest)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the tool; returns the exit code."""
  return errors.exit_code(lambda: finetune(*_options(argv)))


if __name__ == "__main__":
  sys.exit(main())

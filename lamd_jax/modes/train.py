# SPDX-License-Identifier: Apache-2.0
"""--mode=train: trains a system's stages in order, each in its own folder.

A finished stage is skipped, one broken off is resumed. After the last stage the run
is scored and its gallery written (`train.report`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import functools
import shlex
import time
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import config as config_lib
from lamd_jax import exported
from lamd_jax import limits
from lamd_jax import run_folder
from lamd_jax import sample_checks
from lamd_jax import types
from lamd_jax.data import captions
from lamd_jax.data import pipeline
from lamd_jax.errors import ConfigError
from lamd_jax.modes import cached_latents
from lamd_jax.modes import evaluate
from lamd_jax.modes import imported
from lamd_jax.modes import preflight
from lamd_jax.systems import gen1_stages
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.training import checkpoints
from lamd_jax.training import compile_cache
from lamd_jax.training import distributed
from lamd_jax.training import failures
from lamd_jax.training import latent_cache
from lamd_jax.training import loop
from lamd_jax.training import precision
from lamd_jax.training import preemption
from lamd_jax.training import sharding
from lamd_jax.training import stage as stage_lib
from lamd_jax.training import status as status_lib
from lamd_jax.training import summary
from lamd_jax.training import writers


def weights_of(
  names: Sequence[str], config: ConfigDict, workdir: epath.Path
) -> dict[str, Any]:
  """Loads weights of earlier stages and of imported networks."""
  frozen = {}
  for name in names:
    if imported.is_imported(name, config):
      frozen[name] = imported.LOAD[name](config, workdir)
    else:
      verify = config.train.checkpoint_verify
      frozen[name] = checkpoints.load_weights(workdir / name, "ema", verify)
  return frozen


def _earlier(
  stage: stage_lib.Stage, config: ConfigDict, workdir: epath.Path
) -> Any:
  """Loads the weights the stage goes on from; None for none, or once it has begun."""
  name = stage.starts_from
  if not name or checkpoints.steps(workdir / stage.name):
    return None
  return weights_of([name], config, workdir)[name]


def _video_loader(
  stage: stage_lib.Stage, config: ConfigDict, seed: int
) -> pipeline.Loader:
  return pipeline.loader(
    cached_latents.clips_of(stage, config),
    split=config.data.split,
    batch=config.optim[stage.name].batch,
    seed=seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def _preview_batch(
  stage: stage_lib.Stage, config: ConfigDict
) -> types.VideoBatch | None:
  if not config.train.preview_every:
    return None
  data, count = cached_latents.clips_of(stage, config), config.train.preview_clips
  video = pipeline.clips(data, data.eval_split, count, config.seed)
  tokenize, tokens = captions.tokenizer(data), None
  if tokenize is not None:
    texts = pipeline.captions(data, data.eval_split, count, config.seed)
    tokens = np.stack([tokenize(text) for text in texts])
  labels = pipeline.labels(data, data.eval_split, count, config.seed)
  depth = None
  if data.depth not in ("none", "estimated"):
    depth = pipeline.depths(data, data.eval_split, count, config.seed)
  index = np.arange(len(video), dtype=np.int32)
  return types.VideoBatch(video, index, labels, tokens, depth)


def _endless_pixels(
  stage: stage_lib.Stage, config: ConfigDict
) -> Iterator[types.VideoBatch]:
  """Training clips in another order than training took them."""
  loader = _video_loader(stage, config, config.seed + 1)
  try:
    yield from loader
  finally:
    loader.close()


def _cached_latents(
  stage: stage_lib.Stage,
  config: ConfigDict,
  frozen: stage_lib.Frozen,
  workdir: epath.Path,
  stop: preemption.Stop,
) -> loop.Loader:
  """Encodes the training clips once and serves draws from what was stored."""
  cache = cached_latents.plan(stage, config, frozen, workdir)
  dataset = latent_cache.build(
    stage, frozen, cache.batches, cache.count, cache.batch, cache.folder, stop
  )
  return latent_cache.LatentLoader(
    dataset,
    fingerprint=cache.folder.name,
    batch=config.optim[stage.name].batch,
    seed=config.seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def loader_of(
  stage: stage_lib.Stage,
  config: ConfigDict,
  frozen: stage_lib.Frozen,
  workdir: epath.Path,
  stop: preemption.Stop,
) -> loop.Loader:
  """The stage's batches, of pixels or from the latent cache, as the config says."""
  if config.train.latent_cache and stage.trains_on_latents:
    return _cached_latents(stage, config, frozen, workdir, stop)
  return _video_loader(stage, config, config.seed)


def train_stage(
  stage: stage_lib.Stage,
  config: ConfigDict,
  folder: epath.Path,
  *,
  frozen: stage_lib.Frozen,
  earlier: Any,
  loader: loop.Loader,
  stop: preemption.Stop,
  status: status_lib.Status | None,
) -> loop.Result:
  """Trains one stage in `folder`, or goes on; see `loop.train`. Closes the loader."""
  writer = writers.for_stage(
    config.train, folder.name, folder, steps=config.optim[stage.name].steps,
    fps=pipeline.fps(config.data), status=status,
  )  # fmt: skip
  writer.write_hparams(dict(limits.leaves(config)))
  try:
    return loop.train(
      stage,
      config=config,
      workdir=folder,
      frozen=frozen,
      earlier=earlier,
      loader=loader,
      preview_batch=_preview_batch(stage, config),
      finish_batches=lambda: _endless_pixels(stage, config),
      mesh=sharding.make_mesh(config.train.mesh),
      resume="auto",  # what --resume asks for was checked for the whole run
      stop=stop,
      writer=writer,
    )
  finally:
    loader.close()
    writer.close()


def _train_stage(
  stage: stage_lib.Stage,
  config: ConfigDict,
  workdir: epath.Path,
  stop: preemption.Stop,
  status: status_lib.Status,
) -> loop.Result:
  frozen = weights_of(stage.needs, config, workdir)
  return train_stage(
    stage, config, workdir / stage.name, frozen=frozen,
    earlier=_earlier(stage, config, workdir),
    loader=loader_of(stage, config, frozen, workdir, stop), stop=stop, status=status,
  )  # fmt: skip


def _check_resume(config: ConfigDict, workdir: epath.Path, resume: str) -> None:
  """Raises ConfigError if --resume asks for what the workdir does not hold."""
  begun = [s for s in config.stages if checkpoints.steps(workdir / s)]
  if resume == "must" and not begun:
    raise ConfigError(
      f"--resume=must: {workdir} holds no checkpoint; name the run's --workdir, or say"
      " --resume=auto"
    )
  if resume == "never" and begun:
    raise ConfigError(
      f"--resume=never: {workdir} holds a run ({', '.join(begun)}); name another"
      " --workdir, or say --resume=auto"
    )


def _check_pieces(config: ConfigDict, workdir: epath.Path) -> None:
  """Raises ConfigError if the stage that another goes on from is there, but not named."""
  if config.system != "gen1":
    return
  for name in gen1_stages.DIFFUSERS:
    later = gen1_stages.DIFFUSERS[gen1_stages.DIFFUSERS.index(name) + 1 :]
    if name not in config.stages and checkpoints.finished(workdir / name):
      if begins := [stage for stage in later if stage in config.stages]:
        raise ConfigError(
          f"--config.stages={','.join(config.stages)}: {begins[0]} goes on from {name},"
          f" which is finished in {workdir}; name it too, it is skipped"
        )


def _keep_finished(config: ConfigDict, workdir: epath.Path) -> None:
  """Settings of stages that have ended are those that they were trained with."""
  stored = run_folder.read(workdir)
  for name in config.stages:
    mark = workdir / name / checkpoints.FINISHED
    if stored is None or not mark.exists():
      continue
    ended, asked = stored.optim[name].steps, config.optim[name].steps
    if ended != asked:
      print(
        f"{name}: has ended, at {ended} steps; for {asked} remove {mark} and start again",
        flush=True,
      )
    config.optim[name].update(stored.optim[name])


def _check_same(config: ConfigDict) -> None:
  """Raises DataError where hosts differ: each would train on an order of its own."""
  if jax.process_count() == 1:
    return
  distributed.check_same("the config", run_folder.config_hash(config))
  videos = f"data.root={config.data.root}: the videos of {config.data.split}"
  found = pipeline.fingerprint(config.data, config.data.split)
  distributed.check_same(videos, found)


def run(
  config: ConfigDict, workdir: epath.Path, resume: str, evaluation: ConfigDict
) -> int:
  """Trains what is not yet trained; returns the exit code."""
  if exported.holds(workdir):
    raise ConfigError(
      f"--workdir={workdir}: is an export, which is not trained further; say"
      " --mode=sample, or name the run it was made of"
    )
  preflight.check_latent_cache(config, workdir)
  preflight.check_inputs(config, workdir)
  _check_resume(config, workdir, resume)
  compile_cache.enable()
  stop = preemption.Stop().install()
  system = SYSTEMS[config.system](config, precision.compute_dtype(config.train.compute))
  stages = [stage for stage in system.stages() if stage.name in config.stages]
  # Before hours of work: clips long enough for every stage, not for the first alone.
  for stage in stages:
    pipeline.check(cached_latents.clips_of(stage, config), config.data.split)
  preflight.check_told(config, config.data, config.stages)
  _check_same(config)
  _check_pieces(config, workdir)
  _keep_finished(config, workdir)
  config.data.fps = float(pipeline.fps(config.data))  # known without the data from now on
  run_folder.write(workdir, config)
  print(f"lamd_jax: {config.name}:{config.variant} in {workdir}", flush=True)
  status = status_lib.Status(workdir, len(stages))
  failures.tell(functools.partial(status.state, "failed"))
  try:
    if not _train_stages(stages, config, workdir, stop, status):
      status.state("preempted")
      return preemption.EXIT_CODE
    scored = config.train.report and _can_be_scored(system, config, workdir)
    if distributed.of_first(bool(scored)):
      status.state("scoring")
      with stop.interrupting():  # the same command scores again
        _report(config, workdir, evaluation)
  except preemption.Preempted:
    status.state("preempted")
    return preemption.EXIT_CODE
  except KeyboardInterrupt:
    status.state("interrupted")
    print("\nlamd_jax: interrupted; the same command goes on from the last checkpoint")
    raise
  except BaseException as error:
    status.state("failed", f"{type(error).__name__}: {error}")
    raise
  status.state("finished")
  _print_summary(config, workdir)
  return 0


def _can_be_scored(system: Any, config: ConfigDict, workdir: epath.Path) -> bool:
  """Whether all that clips are made with was trained."""
  try:
    needed = sample_checks.stages_of(config_lib.sample_defaults(), config)
  except ConfigError:  # this run trains a part that makes no clips by itself
    return False
  return all(
    checkpoints.finished(workdir / s) or imported.is_imported(s, config)
    for s in {*needed, *system.generates_with}
  )


def _report(config: ConfigDict, workdir: epath.Path, evaluation: ConfigDict) -> None:
  """Scores on the first process, on its first device."""
  if "://" in str(workdir):
    print(f"not scored: {workdir} is no folder; copy it to a disk and say"
          " --mode=evaluate", flush=True)  # fmt: skip
    return

  def score() -> int:
    try:
      evaluate.report(config, workdir, evaluation)
    except evaluate.TooFewClips as error:  # what was trained is none the worse
      print(f"not scored: {error}", flush=True)
    return 0

  distributed.by_first(score)


def _train_stages(
  stages: Sequence[stage_lib.Stage],
  config: ConfigDict,
  workdir: epath.Path,
  stop: preemption.Stop,
  status: status_lib.Status,
) -> bool:
  """Trains the stages in order; returns whether all came to their end."""
  for number, stage in enumerate(stages, 1):
    # As the first process sees it: a network's disk shows it to others later.
    if distributed.of_first(checkpoints.finished(workdir / stage.name)):
      print(f"{stage.name}: finished before, skipped", flush=True)
      continue
    started = time.monotonic()
    status.stage(stage.name, number, config.optim[stage.name].steps)
    try:
      result = _train_stage(stage, config, workdir, stop, status)
    except preemption.Preempted:
      return False
    if result.status == "preempted":
      return False
    seconds = time.monotonic() - started
    print(f"{stage.name}: {result.step} steps in {seconds:.0f} s", flush=True)
  return True


def _print_summary(config: ConfigDict, workdir: epath.Path) -> None:
  print("\n" + "\n".join(summary.lines(workdir, config.stages)))
  place = shlex.quote(f"--workdir={workdir}")  # to be pasted, blanks and all
  print(
    f"config       {workdir / 'config.json'}"
    + "".join(
      f"\n{name:<12} {workdir / name}: checkpoints, metrics.jsonl, samples"
      for name in config.stages
    )
    + f"\nsample more  python -m lamd_jax.main {place} --mode=sample",
    flush=True,
  )

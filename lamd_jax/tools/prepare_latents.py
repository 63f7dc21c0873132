# SPDX-License-Identifier: Apache-2.0
"""tools.prepare --encode: fills the latent caches that a run's next stages will read.

Parts of a cache are encoded one by one, each kept with its SHA-256 beside it in
<key>.parts/, and put together when all are there: the very files that training would
have written (see modes/cached_latents.py), which it then finds and reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import functools
import json
import pathlib
import shutil
from typing import Any, NamedTuple
import uuid

from etils import epath
import numpy as np

from lamd_jax import run_folder
from lamd_jax.data import prepared
from lamd_jax.errors import ConfigError, DataError, WeightsError
from lamd_jax.modes import cached_latents
from lamd_jax.modes import imported
from lamd_jax.modes import train
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.training import checkpoints
from lamd_jax.training import compile_cache
from lamd_jax.training import latent_cache
from lamd_jax.training import latent_fill
from lamd_jax.training import precision
from lamd_jax.training import stage as stage_lib

_PART_BATCHES = 64  # batches of a part: what is done again after a break


class Task(NamedTuple):
  """One part to be encoded. Plain values: it travels to other machines."""

  workdir: str
  root: str  # where the run's data lie, "": as it says
  stage: str
  folder: str  # of the cache; a worker that comes to another one must not write
  part: int
  parts: int


class _Opened(NamedTuple):
  cache: cached_latents.Cache
  stage: stage_lib.Stage
  frozen: stage_lib.Frozen


def _config(workdir: str, root: str) -> Any:
  config = run_folder.read(epath.Path(workdir))
  if config is None:
    raise ConfigError(f"--workdir={workdir}: holds no run")
  if root:
    config = config.copy_and_resolve_references()
    with config.unlocked():
      config.data.root = root
  return config


def _stages(workdir: str, root: str) -> list[stage_lib.Stage]:
  """Returns all stages of the run's system, whether the run asks for them or not."""
  config = _config(workdir, root)
  make = SYSTEMS[config.system]
  return make(config, precision.compute_dtype(config.train.compute)).stages()


def _reading(stages: Sequence[stage_lib.Stage]) -> list[stage_lib.Stage]:
  """Returns those that read a latent cache, one for each cache."""
  found: dict[tuple[Any, ...], stage_lib.Stage] = {}
  for stage in stages:
    if stage.trains_on_latents:
      found.setdefault((stage.cached_as, stage.encoded_by, stage.frames), stage)
  return list(found.values())


# Weights are loaded and the encoder is compiled once a worker, not once a part.
@functools.lru_cache(maxsize=1)
def _open(workdir: str, root: str, name: str) -> _Opened:
  config, folder = _config(workdir, root), epath.Path(workdir)
  stage = next(stage for stage in _stages(workdir, root) if stage.name == name)
  frozen = train.weights_of(stage.encoded_by, config, folder)
  return _Opened(cached_latents.plan(stage, config, frozen, folder), stage, frozen)


@functools.lru_cache(maxsize=1)
def _encoder(workdir: str, root: str, name: str) -> Callable[..., dict[str, np.ndarray]]:
  opened = _open(workdir, root, name)
  compile_cache.enable()
  return latent_fill.encoder(opened.stage, opened.frozen)


def _place(task: Task) -> pathlib.Path:
  name = f"{task.part:05d}-of-{task.parts:05d}.npz"
  return pathlib.Path(f"{task.folder}.parts") / name


def _report(task: Task) -> dict[str, Any] | None:
  """Returns what is known of a complete part, None of any other."""
  place = _place(task)
  try:
    done = json.loads(place.with_suffix(".json").read_text("utf-8"))
    return done if place.stat().st_size == done["bytes"] else None
  except (OSError, ValueError, KeyError, TypeError):
    return None


def write_part(task: Task) -> dict[str, Any]:
  """Encodes a part unless it is complete; returns its report."""
  if done := _report(task):
    return done
  place, opened = _place(task), _open(task.workdir, task.root, task.stage)
  if str(opened.cache.folder) != task.folder:
    raise DataError(
      f"{task.workdir}: clips or weights are not what they were when the encoding was"
      " planned; start the same command again"
    )
  cache = opened.cache
  first = task.part * _PART_BATCHES * cache.batch
  count = min(_PART_BATCHES * cache.batch, cache.count - first)
  encode, made, have = _encoder(task.workdir, task.root, task.stage), [], 0
  for batch in cache.batches(first):
    made.append(encode(batch))
    have += len(batch.index)
    if have >= count:
      break
  fields = {key: np.concatenate([x[key] for x in made])[:count] for key in made[0]}
  place.parent.mkdir(parents=True, exist_ok=True)
  partial = place.with_name(f".{place.name}.{uuid.uuid4().hex}.part")
  with partial.open("wb") as file:
    np.savez(file, **fields)
  done = {"file": place.name, "sha256": prepared.sha256(partial), "clips": count,
          "bytes": partial.stat().st_size, "corrupt": []}  # fmt: skip
  partial.replace(place)
  prepared.replace(place.with_suffix(".json"), json.dumps(done) + "\n")
  return done


def _rows(tasks: Sequence[Task]) -> Iterator[dict[str, np.ndarray]]:
  """Yields the parts in order. Raises DataError for one that is not as it was written."""
  for task in tasks:
    done, place = _report(task), _place(task)
    if done is None or prepared.sha256(place) != done["sha256"]:
      place.unlink(missing_ok=True)
      raise DataError(f"{place} is damaged; start the same command again")
    with np.load(place) as fields:
      yield dict(fields)


def run(
  workdir: pathlib.Path,
  out: pathlib.Path | None,
  names: Sequence[str],
  engine: Callable[[Callable[[Any], Any], Sequence[Any]], None],
) -> None:
  """Fills every latent cache of a run that can be filled by now.

  Args:
    workdir: the run.
    out: where its prepared clips lie, if not where its config says.
    names: of the stages that are to be trained; () those that the run asks for.
    engine: (function, tasks): who does it.

  Raises:
    InputError: no run, nothing that is trained on latents, or no trained autoencoder.
  """
  config = _config(str(workdir), "")
  root = str(out) if out and config.data.source == "array_record" else ""
  if not config.train.latent_cache:
    raise ConfigError(
      f"--workdir={workdir}: trains without a latent cache; start it with"
      " --config.train.latent_cache=true"
    )
  every, wanted, waiting = _stages(str(workdir), root), tuple(names or config.stages), []
  known = [stage.name for stage in every]
  if unknown := [name for name in wanted if name not in known]:
    raise ConfigError(f"--stages={unknown[0]}: the run's system has {', '.join(known)}")
  stages = _reading([stage for stage in every if stage.name in wanted])
  for stage in stages:
    missing = [
      name
      for name in stage.encoded_by
      if not (checkpoints.finished(workdir / name) or imported.is_imported(name, config))
    ]
    if missing:
      waiting.append(f"stage {stage.name} waits for {', '.join(missing)}")
      print(waiting[-1], flush=True)
      continue
    _fill(str(workdir), root, stage.name, engine)
  if len(waiting) == len(stages):
    reason = "; ".join(waiting) or (
      f"{', '.join(wanted)}: not trained on latents; name others by --stages"
    )
    raise WeightsError(f"--workdir={workdir}: nothing to encode: {reason}")


def _fill(workdir: str, root: str, name: str, engine: Callable[..., None]) -> None:
  cache = _open(workdir, root, name).cache
  if latent_cache.load(cache.folder) is not None:
    print(f"{name}: {cache.count} clips are in {cache.folder}", flush=True)
    return
  parts = -(-cache.count // (_PART_BATCHES * cache.batch))
  every = [
    Task(workdir, root, name, str(cache.folder), part, parts) for part in range(parts)
  ]
  todo = [task for task in every if _report(task) is None]
  print(
    f"{name}: {cache.count} clips in {parts} parts, {parts - len(todo)} of them complete",
    flush=True,
  )
  if todo:
    engine(write_part, todo)
  latent_fill.assemble(_rows(every), cache.count, pathlib.Path(cache.folder))
  shutil.rmtree(f"{cache.folder}.parts")
  print(f"{name}: {cache.count} clips are in {cache.folder}", flush=True)

# SPDX-License-Identifier: Apache-2.0
"""Cuts videos into clips ahead of training, and encodes latents, on one machine or many.

  python -m lamd_jax.tools.prepare --root=DIR --out=OUT --frames=16 --size=128 --stride=2
  python -m lamd_jax.tools.prepare --root=DIR --out=OUT --config=configs/lvdm_sky.py
  python -m lamd_jax.tools.prepare --encode --workdir=RUN [--stages=diffusion]

The first two write ArrayRecord shards to OUT: train with --config.data.source=array_record
--config.data.root=OUT --config.data.stride=1. The clips are those of training on DIR with
data.sampling=tile, pixel by pixel and in its order. Any key of the data group is a flag.

--encode fills the latent cache of a run whose autoencoder is trained, as its next stage
would do by itself. What is cached is what the stage keeps of a clip (latents, labels,
caption tokens, first frames, embeddings); features of text are computed as it trains.

--runner=DirectRunner|DataflowRunner|FlinkRunner|SparkRunner does the same by Apache Beam
(pip install "lamd_jax[beam]"); further flags are Beam's. All workers must see DIR, OUT
and RUN under the same names. Without it, processes of this machine do it. Broken off,
the same command goes on; the bytes are the same however often, and whoever did it.

Exit code 3: more bad videos than --max_bad_fraction; they are named in OUT/corrupt.jsonl.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
import difflib
import functools
import multiprocessing
import os
import pathlib
import shlex
import sys
import time
from typing import Any

from ml_collections import ConfigDict

from lamd_jax import command_line
from lamd_jax import config as config_lib
from lamd_jax import errors
from lamd_jax import limits
from lamd_jax.data import layouts
from lamd_jax.data import prepared
from lamd_jax.data import prepared_folder
from lamd_jax.data.sources import files
from lamd_jax.errors import ConfigError, InputError

_PROGRESS = 5.0  # seconds between two lines

# (function, tasks) -> None; every task's result lies in files
Engine = Callable[[Callable[[Any], Any], Sequence[Any]], None]


def by_processes(
  function: Callable[[Any], Any], todo: Sequence[Any], workers: int
) -> None:
  """Does the tasks on this machine; in this process if there is one worker."""
  if workers == 1 or len(todo) == 1:
    _watch((function(task) for task in todo), len(todo))
    return
  # Not by fork: the decoders' threads would not survive it.
  context = multiprocessing.get_context("spawn")
  pool = futures.ProcessPoolExecutor(min(workers, len(todo)), mp_context=context)
  try:
    made = [pool.submit(function, task) for task in todo]
    _watch((future.result() for future in futures.as_completed(made)), len(todo))
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


def _watch(results: Iterable[Any], count: int) -> None:
  last = time.monotonic()
  for number, _ in enumerate(results, 1):
    if time.monotonic() - last > _PROGRESS or number == count:
      last = time.monotonic()
      print(f"prepare: {number} of {count} done", file=sys.stderr, flush=True)


def _by_beam(runner: str, flags: Sequence[str]) -> Engine:
  try:
    from lamd_jax.tools import prepare_beam  # an extra
  except ImportError as error:
    raise ConfigError(
      f'--runner={runner}: needs Apache Beam ({error}): pip install "lamd_jax[beam]", or'
      " leave --runner out for processes of this machine"
    ) from error
  return functools.partial(prepare_beam.run, flags=(f"--runner={runner}", *flags))


def settings(options: argparse.Namespace) -> ConfigDict:
  """Returns the data group that clips are cut by. Raises InputError."""
  given = {key: text for key, text in vars(options).items() if key in _data_keys()}
  given = {key: text for key, text in given.items() if text is not None}
  if options.workdir:
    from lamd_jax import run_folder  # imports JAX, which workers here do without

    stored = run_folder.read(pathlib.Path(options.workdir).expanduser())
    if stored is None:
      raise ConfigError(f"--workdir={options.workdir}: holds no run")
    config = stored.copy_and_resolve_references().unlock()
  else:
    config = config_lib.defaults()
    if options.config:
      config = command_line.load_config(options.config).unlock()
  if config.data.sampling not in prepared.FIXED:
    config.data.sampling = prepared.FIXED[0]
  config.data.depth = "none"
  # A run that reads prepared clips does not say what they are prepared from.
  chosen = options.workdir or options.config
  if "source" not in given and (not chosen or config.data.source == "array_record"):
    root = files.check_root(given["root"] if "root" in given else "")
    layout = layouts.recognise(root)
    if layout is None or not layout.source:
      raise ConfigError(
        f"--root={root}: no known layout; see python -m lamd_jax.tools.doctor {root}, or"
        " say --source=..."
      )
    given.update(source=layout.source, root=str(root / layout.root))
  overrides = tuple(("config", f"data.{key}", text) for key, text in given.items())
  line = command_line.CommandLine(overrides=overrides)
  data = command_line.apply(config, "config", line).data
  for key, value in data.items():
    limits.check_leaf("config", f"data.{key}", value)
  return data


def cut(
  data: ConfigDict, splits: Sequence[str], out: pathlib.Path, clips_a_shard: int,
  engine: Engine,
) -> None:  # fmt: skip
  """Cuts the clips of `splits` to `out`.

  Args:
    data: see `settings`.
    splits: as `data.split`.
    out: a folder that is new, or holds a part of this very work.
    clips_a_shard: at most; 0 as many as make 256 MiB of pixels.
    engine: who does it.

  Raises:
    InputError: bad videos, or a folder that holds something else.
  """
  started = time.monotonic()
  a_shard = clips_a_shard or prepared.shard_clips(data.frames, data.size)
  plans = [prepared.plan(data, split, a_shard) for split in splits]
  prepared_folder.begin(data, plans, out)
  prepared_folder.check_fraction(data, plans, out)  # before hours of work
  todo = prepared.tasks(data, plans, out)
  every = sum(p.shards for p in plans)
  for p in plans:
    print(f"{p.split}: {p.clips} clips of {p.videos} videos in {p.shards} shards")
  print(f"{every - len(todo)} of {every} shards are complete", flush=True)
  if todo:
    engine(prepared.write_shard, todo)
  prepared_folder.finish(data, plans, out)
  bad = len((out / prepared_folder.CORRUPT).read_text("utf-8").splitlines())
  print(f"{bad} bad, named in {out / prepared_folder.CORRUPT}")
  print(f"complete in {time.monotonic() - started:.0f} s")
  # Quoted for the shell: folders may have spaces in their names.
  place = shlex.quote(f"--config.data.root={out}")
  flags = " ".join(prepared_folder.flags(out))
  print(f"train   --config.data.source=array_record {place} {flags}")


@functools.cache
def _data_keys() -> tuple[str, ...]:
  return tuple(config_lib.defaults().data)


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """Returns the options, and the flags that are Beam's. Raises ConfigError."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )  # fmt: skip
  parser.add_argument("--out", default="", help="folder of the shards")
  parser.add_argument("--splits", default="train,test")
  parser.add_argument("--shard_clips", type=int, default=0, help="0: 256 MiB of pixels")
  parser.add_argument("--config", default="", help="whose data settings are taken")
  parser.add_argument("--encode", action="store_true", help="fill RUN's latent cache")
  parser.add_argument("--workdir", default="", help="RUN; its data settings are taken")
  parser.add_argument("--stages", default="", help="that read the cache; RUN's if not")
  parser.add_argument("--runner", default="", help="of Apache Beam")
  parser.add_argument("--workers", type=int, default=0, help="processes; 0: one a core")
  for key in _data_keys():
    parser.add_argument(f"--{key}", help=argparse.SUPPRESS)
  options, rest = parser.parse_known_args(arguments)
  if rest and not options.runner:
    known = [f"--{name}" for name in vars(options)]
    close = difflib.get_close_matches(rest[0].partition("=")[0], known, 1, 0.8)
    hint = f"did you mean {close[0]}?" if close else "flags of Beam need --runner"
    raise ConfigError(f"{rest[0]}: no such flag; {hint}")
  if options.encode and not options.workdir:
    raise ConfigError("--encode: needs --workdir=RUN, whose autoencoder encodes")
  if not options.encode and not (options.root and options.out):
    raise ConfigError("--root=DIR --out=OUT: where the videos are, where clips go")
  if options.root and not options.out:
    raise ConfigError("--out: is missing; name the folder of the clips")
  for name in ("root", "out", "workdir"):
    if "://" in (getattr(options, name) or ""):
      raise ConfigError(
        f"--{name}={getattr(options, name)}: is read and written as a local folder:"
        " mount the bucket (gcsfuse, say) on all workers, and name where"
      )
  if min(options.shard_clips, options.workers) < 0:
    raise ConfigError("--shard_clips, --workers: 0 or more")
  return options, rest


def run(arguments: Sequence[str]) -> None:
  """Does what the flags say. Raises InputError."""
  options, rest = _parse(arguments)
  engine: Engine = functools.partial(
    by_processes, workers=options.workers or os.cpu_count() or 1
  )
  if options.runner:
    engine = _by_beam(options.runner, rest)
  out = pathlib.Path(options.out).expanduser().resolve() if options.out else None
  if options.root:
    splits = [split for split in options.splits.split(",") if split]
    cut(settings(options), splits, out, options.shard_clips, engine)
  if options.encode:
    from lamd_jax.tools import prepare_latents  # imports JAX

    # One process here: it has all the devices and all the cores already.
    alone: Engine = functools.partial(by_processes, workers=1)
    prepare_latents.run(
      pathlib.Path(options.workdir).expanduser().resolve(), out,
      [name for name in options.stages.split(",") if name],
      engine if options.runner else alone,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
  """Returns the exit code."""
  given = sys.argv[1:] if arguments is None else arguments
  return errors.exit_code(lambda: run(given))


if __name__ == "__main__":
  sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The command: flags to a config, a config to one mode.

  python -m lamd_jax.main --config=configs/lvdm_sky.py:demo

Exit codes: 0 done, 1 a run that failed, 2 a config or flag that cannot be run, 3 data, 4 weights, 75 saved
after a preemption signal (a launcher starts the same command again).
"""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from typing import NamedTuple

from absl import flags
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from lamd_jax import ahead
from lamd_jax import command_line
from lamd_jax import config as config_lib
from lamd_jax import errors
from lamd_jax import eval_checks
from lamd_jax import own_data
from lamd_jax import run_folder
from lamd_jax import sample_checks
from lamd_jax import validation
from lamd_jax.data import listings
from lamd_jax.errors import ConfigError
from lamd_jax.training import distributed
from lamd_jax.training import failures
from lamd_jax.training import host_memory

HELP = """usage: python -m lamd_jax.main [flags]

  train     --config=configs/lvdm_sky.py:demo      minutes on a CPU
  own data  --config=configs/own_videos.py --config.data.root=DIR
  sample    --workdir=runs/lvdm_sky-demo --mode=sample --sample.n=16
  score     --workdir=runs/lvdm_sky-demo --mode=evaluate
  look      --config=FILE --dry_run         shapes, memory; runs nothing

  --config=FILE[:VARIANT]  demo, gpu or paper; see configs/. If none is named:
                           paper, which is large (demo in files without it)
  --config.KEY=VALUE       changes one key of the config
  --workdir=DIR            the run's folder; default runs/CONFIG-VARIANT
  --mode=MODE              {modes}
  --resume=HOW             auto (the default: the same command goes on), must,
                           never
  --sample.KEY=VALUE       n, text, image, steps, seed, ...

Long video, image to video, editing, all keys: --helpfull
A look at your videos:  python -m lamd_jax.tools.doctor DIR
Exit codes: 0 done, 1 failed, 2 config, 3 data, 4 weights, 75 saved: run again
"""

USAGE = """usage: python -m lamd_jax.main [flags]

  train    --config=configs/lvdm_sky.py:demo          minutes on a CPU, no download
           --config=configs/lvdm_sky.py --config.data.root=DIR
           --config.model.perceptual.weights=FILE             the paper
  own data --config=configs/own_videos.py --config.data.root=DIR
  sample   --workdir=runs/lvdm_sky-demo --mode=sample --sample.n=16
  long     --workdir=runs/lvdm_sky_long-demo --mode=sample
           --sample.long=hierarchical --sample.frames=1024
  animate  --workdir=runs/lamd_cater_gen_v1-demo --mode=sample
           --sample.image=FILE --sample.text="the cone is sliding to (2, -1)."
           or --sample.motion_from=VIDEO
  edit     --workdir=RUN --mode=sample --sample.video=IN.mp4
           --sample.text="a red cone" --sample.depth=DEPTH.mp4
  evaluate --workdir=runs/lvdm_sky-demo --mode=evaluate
  look     --config=configs/lvdm_sky.py --dry_run     shapes, parameters, memory
  compile  --config=configs/lvdm_sky.py --mode=compile --compile.topology=v5e:4x4
           --config.optim.autoencoder.accumulate=1

flags
  --config=FILE[:VARIANT]   variant: paper (default; demo in files without it), demo, gpu
  --config.KEY=VALUE        changes one key of the config
  --workdir=DIR             the run's folder; default runs/CONFIG-VARIANT
  --mode=MODE               train (default), sample, evaluate, compile
  --resume=HOW              auto (default), must, never
  --dry_run                 says what would be run, computes nothing
  --sample.KEY=VALUE        {sample}
  --eval.KEY=VALUE          {evaluation}
  --compile.KEY=VALUE       {compilation}

All keys and their defaults: lamd_jax/config.py. Data layouts: python -m
lamd_jax.tools.doctor DIR.
"""


def usage() -> str:
  indent = " " * 28
  wrap = lambda keys: textwrap.fill(
    " ".join(keys), 120, initial_indent=indent, subsequent_indent=indent
  ).strip()
  return USAGE.format(
    sample=wrap(config_lib.sample_defaults()),
    evaluation=wrap(config_lib.eval_defaults()),
    compilation=wrap(config_lib.compile_defaults()),
  )


class Request(NamedTuple):
  """A command line, resolved and checked."""

  config: ConfigDict
  workdir: epath.Path
  sample: ConfigDict
  evaluation: ConfigDict
  compilation: ConfigDict


def _workdir(
  line: command_line.CommandLine, config: ConfigDict | None
) -> epath.Path:
  if line.workdir:
    # Orbax takes absolute paths alone; a bucket's address is one already.
    path = epath.Path(line.workdir)
    return path if "://" in line.workdir else path.expanduser().resolve()
  if config is None:
    raise ConfigError("name a --config to train or a --workdir that holds a run")
  name = f"runs/{config.name}-{config.variant}"
  if config.data.choose:  # each folder of videos has a run of its own
    roots = [text for _, key, text in line.overrides if key == "data.root"]
    name += "".join(f"-{epath.Path(run_folder.absolute(x)).name}" for x in roots[-1:])
  return epath.Path(name).resolve()


def resolve(line: command_line.CommandLine) -> Request:
  """Loads and checks the config.

  A run that exists rules: without --config its stored config is taken, and a --config
  that describes another experiment is an error.
  """
  import jax  # Late: a wrong flag should not wait for a device to start.

  given = command_line.load_config(line.config) if line.config else None
  workdir = _workdir(line, given)
  stored = run_folder.read(workdir)
  config = given if given is not None else stored
  if config is None:
    finished = line.mode in ("sample", "evaluate")
    wanted = "the folder of a finished run" if finished else "a --config"
    raise ConfigError(f"--workdir={workdir}: holds no run; name {wanted}")
  config = command_line.apply(config.copy_and_resolve_references(), "config", line)
  if config.data.choose:
    distributed.initialize()  # a host that reads all videos first would be missed
    typed = {key for group, key, _ in line.overrides if group == "config"}
    print("\n".join(own_data.settle(config, stored, typed)), flush=True)
  config.data.root, config.data.depth_root = map(
    run_folder.absolute, (config.data.root, config.data.depth_root)
  )
  typed = {(group, key): text for group, key, text in line.overrides}
  sample, evaluation = (
    command_line.apply(defaults(typed.get((group, "sampler"), "")), group, line)
    for group, defaults in (
      ("sample", config_lib.sample_defaults), ("eval", config_lib.eval_defaults)
    )
  )  # fmt: skip
  if stored is not None:
    run_folder.check_same(stored, config, workdir)
  distributed.initialize()  # Before the first question about devices.
  compilation = command_line.apply(config_lib.compile_defaults(), "compile", line)
  if line.mode == "compile":
    count = len(ahead.devices(compilation.topology))
  else:
    count = jax.device_count()
  validation.check_config(config, count)
  sample_checks.check_sample(sample, config)
  eval_checks.check_eval(evaluation, config)
  if line.mode == "train" and evaluation.protocol:
    raise ConfigError(
      f"--eval.protocol={evaluation.protocol}: a training ends with simple scores; say"
      " it with --mode=evaluate"
    )
  return Request(config, workdir, sample, evaluation, compilation)


def run(argv: list[str]) -> int:
  """Runs one command line; returns the exit code."""
  if "--helpfull" in argv[1:]:
    print(usage())
    return 0
  if any(arg in ("--help", "-h", "-help") for arg in argv[1:]):
    print(HELP.format(modes=", ".join(command_line.MODES)), end="")
    return 0
  return errors.exit_code(lambda: _run(argv[1:]))


@listings.listed_once()
def _run(arguments: list[str]) -> int:
  line = command_line.parse(arguments)
  config, workdir, sample_flags, eval_flags, compile_flags = resolve(line)
  if not line.workdir:
    print(f"lamd_jax: no --workdir given, using {workdir}", flush=True)
  # Late: these import everything, and flag errors should be fast.
  from lamd_jax.modes import compile as compile_mode
  from lamd_jax.modes import dry_run
  from lamd_jax.modes import evaluate
  from lamd_jax.modes import sample
  from lamd_jax.modes import train

  if line.dry_run:
    return dry_run.run(config, workdir)
  if line.mode != "train" and distributed.connected():
    # JAX catches it there; but for long videos, which listen, there is nothing to save.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
  if line.mode == "train":
    return train.run(config, workdir, line.resume, eval_flags)
  if line.mode == "compile":
    return compile_mode.run(config, sample_flags, compile_flags)
  if line.mode == "sample":
    return distributed.by_first(lambda: sample.run(config, workdir, sample_flags))
  return evaluate.run(config, workdir, eval_flags)


def main() -> None:
  host_memory.keep()
  logging.use_absl_handler()
  flags.FLAGS.mark_as_parsed()  # or absl begins its log with a warning about it
  logging.set_verbosity(os.environ.get("LAMD_LOG", "warning"))
  sys.exit(failures.ended(lambda: run(sys.argv)))


if __name__ == "__main__":
  main()

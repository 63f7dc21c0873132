# SPDX-License-Identifier: Apache-2.0
"""The command: flags to a config, a config to one mode.

  python -m lamd_jax.main --config=configs/lvdm_sky.py:demo

Exit codes: 0 done, 2 a config or flag that cannot be run, 3 data, 4 weights, 75 saved
after a preemption signal (a launcher starts the same command again).
"""

from __future__ import annotations

import os
import pathlib
import sys

from absl import flags
from absl import logging
from etils import epath
from ml_collections import ConfigDict
from ml_collections import config_flags

from lamd_jax import config as config_lib
from lamd_jax import run_folder
from lamd_jax import validation
from lamd_jax.errors import ConfigError
from lamd_jax.errors import InputError

USAGE = """usage: python -m lamd_jax.main [flags]

  train    --config=configs/lvdm_sky.py:demo          minutes on a CPU, no download
           --config=configs/lvdm_sky.py --config.data.root=DIR         the paper
  own data --config=configs/lvdm_sky.py:demo --config.data.source=folder
           --config.data.root=DIR --workdir=runs/mine
  sample   --workdir=runs/lvdm_sky-demo --mode=sample --sample.n=16
  evaluate --workdir=runs/lvdm_sky-demo --mode=evaluate
  look     --config=configs/lvdm_sky.py --dry_run     shapes, parameters, memory

flags
  --config=FILE[:VARIANT]   variant: paper (default), demo, gpu
  --config.KEY=VALUE        changes one key of the config
  --workdir=DIR             the run's folder; default runs/CONFIG-VARIANT
  --mode=MODE               train (default), sample, evaluate
  --resume=HOW              auto (default), must, never
  --dry_run                 says what would be run, computes nothing
  --sample.KEY=VALUE        {sample}
  --eval.KEY=VALUE          {evaluation}

All keys and their defaults: lamd_jax/config.py. Data layouts: python -m
lamd_jax.tools.doctor DIR.
"""

MODES = ("train", "sample", "evaluate")


def usage() -> str:
  return USAGE.format(
    sample=" ".join(config_lib.sample_defaults()),
    evaluation=" ".join(config_lib.eval_defaults()),
  )


def _define(values: flags.FlagValues) -> None:
  config_flags.DEFINE_config_file(
    "config", None, "Config file, FILE[:VARIANT].", lock_config=True, flag_values=values
  )
  for name, defaults in (
    ("sample", config_lib.sample_defaults()),
    ("eval", config_lib.eval_defaults()),
  ):
    config_flags.DEFINE_config_dict(name, defaults, "", flag_values=values)
  flags.DEFINE_string("workdir", None, "The run's folder.", flag_values=values)
  flags.DEFINE_enum("mode", "train", MODES, "What to do.", flag_values=values)
  flags.DEFINE_enum(
    "resume", "auto", ["auto", "must", "never"], "", flag_values=values
  )
  flags.DEFINE_bool("dry_run", False, "Compute nothing.", flag_values=values)


def parse(argv: list[str]) -> flags.FlagValues:
  """Parses flags. Raises ConfigError with one line for anything that is wrong."""
  values = flags.FlagValues()
  _define(values)
  try:
    rest = values(argv)
  except InputError:
    raise
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    raise ConfigError(" ".join(str(error).split())) from error
  except Exception as error:  # a config file is a program and may raise anything
    name = type(error).__name__
    raise ConfigError(f"--config: the file raised {name}: {error}") from error
  if len(rest) > 1:
    raise ConfigError(f"{rest[1]}: not a flag; see --help")
  return values


def _workdir(values: flags.FlagValues) -> epath.Path:
  if values.workdir:
    # Orbax takes absolute paths alone; a bucket's address is one already.
    path = epath.Path(values.workdir)
    return path if "://" in values.workdir else path.expanduser().resolve()
  if values.config is None:
    raise ConfigError("name a --config to train or a --workdir that holds a run")
  default = pathlib.Path("runs") / f"{values.config.name}-{values.config.variant}"
  print(f"lamd_jax: no --workdir given, using {default}", flush=True)
  return epath.Path(default).resolve()


def resolve(values: flags.FlagValues) -> tuple[ConfigDict, epath.Path]:
  """Returns the run's config, checked, and its workdir.

  A run that exists rules: without --config its stored config is taken, and a --config
  that describes another experiment is an error.
  """
  import jax  # Late: a wrong flag should not wait for a device to start.

  workdir = _workdir(values)
  stored = run_folder.read(workdir)
  config = values.config
  if config is None:
    if stored is None:
      raise ConfigError(f"--workdir={workdir}: holds no run; name a --config")
    config = stored
  elif stored is not None:
    run_folder.check_same(stored, config, workdir)
  validation.check_config(config, jax.device_count())
  validation.check_sample(values.sample, config)
  validation.check_eval(values.eval, config)
  return config, workdir


def run(argv: list[str]) -> int:
  """Runs one command line; returns the exit code."""
  if any(arg in ("--help", "-h", "-help", "--helpfull") for arg in argv[1:]):
    print(usage())
    return 0
  try:
    values = parse(argv)
    config, workdir = resolve(values)
    # Late: these import everything, and flag errors should be fast.
    from lamd_jax.modes import dry_run
    from lamd_jax.modes import evaluate
    from lamd_jax.modes import sample
    from lamd_jax.modes import train

    if values.dry_run:
      return dry_run.run(config)
    if values.mode == "train":
      return train.run(config, workdir, values.resume, values.eval)
    if values.mode == "sample":
      return sample.run(config, workdir, values.sample)
    return evaluate.run(config, workdir, values.eval)
  except InputError as error:
    print(f"lamd_jax: {error}", file=sys.stderr, flush=True)
    return error.exit_code
  except KeyboardInterrupt:
    return 130


def main() -> None:
  logging.use_absl_handler()
  logging.set_verbosity(os.environ.get("LAMD_LOG", "warning"))
  sys.exit(run(sys.argv))


if __name__ == "__main__":
  main()

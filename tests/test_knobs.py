# SPDX-License-Identifier: Apache-2.0
"""What Python hands to `generate` is checked before anything is computed."""

import numpy as np
import pytest

from lamd_jax import command_line
from lamd_jax import knobs
from lamd_jax.errors import ConfigError

CONFIG = "configs/lvdm_sky.py:demo"
TRAINED = dict.fromkeys(("autoencoder", "diffusion", "prediction", "interpolation"))


def _settings(given, spec=CONFIG, **changes):
  config = command_line.load_config(spec).copy_and_resolve_references()
  with config.unlocked():
    config.update(changes)
  return knobs.settings(config, TRAINED, given)


def test_numbers_of_numpy_are_numbers():
  given = {"n": np.int64(2), "steps": np.int32(7), "eta": np.float32(0.5)}
  found = _settings({**given, "sampler": "ddim"})
  assert (found.n, found.steps, found.eta) == (2, 7, 0.5)
  assert type(found.n) is int and type(found.eta) is float


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"steps": "20"}, "steps='20': is of type str, int is due"),
    ({"frames": 16.0}, "frames=16.0: is of type float, int is due"),
    ({"sampler": ["ddim"]}, "is of type list, str is due"),
    ({"step": 20}, "step: no such knob"),
    ({"weights": "raw"}, "weights: is of lamd_jax.load"),
    ({"out": "x"}, r"out: is of --mode=sample; .*clip.save"),
    ({"guidance": float("nan")}, "guidance=nan: must lie between"),
  ],
)
def test_wrong_knobs_are_one_line(given, message):
  with pytest.raises(ConfigError, match=message) as error:
    _settings(given)
  assert "\n" not in str(error.value)


def test_one_value_or_several():
  several = lambda given: knobs.several("label", given, int | np.integer, "a class")
  assert several(3) == several([3]) == several(np.array([3])) == several(np.int32(3)) == [3]
  for bad in ([], None, "3", [3, "4"], {3: 4}, 3.5):
    with pytest.raises(ConfigError, match="give a class, or a list of at least one"):
      several(bad)


def test_a_run_of_conditional_stages_alone_says_how_long_its_clips_are():
  spec = "configs/lvdm_sky_long.py:demo"  # interpolation has 5 latents of 4 frames
  assert _settings({"frames": 20}, spec).frames == 20
  with pytest.raises(ConfigError, match="interpolation makes 20 frames at most"):
    _settings({"frames": 24}, spec)
  stages = ("autoencoder", "diffusion")
  assert _settings({"frames": 24}, spec, stages=stages).frames == 24

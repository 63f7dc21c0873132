# SPDX-License-Identifier: Apache-2.0
"""Steps are told in order and cost nothing unasked; clips can have their own seeds."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from lamd_jax import rng
from lamd_jax import types
from lamd_jax import watching
from lamd_jax.errors import ConfigError
from lamd_jax.systems import sampling


@pytest.fixture(scope="module")
def model():
  return tiny.model(tiny.config(train__mesh="one"))


def _frames(clips):
  return np.stack([clip.frames for clip in clips])


def test_seeds_of_clips_give_the_first_clip_of_each(model):
  alone = [model.generate(1, seed=s, steps=2, batch=2)[0].frames for s in (7, 9)]
  together = _frames(model.generate(seed=[7, 9], steps=2, batch=2))
  np.testing.assert_array_equal(together, alone)
  assert np.abs(together[0].astype(int) - together[1]).max() > 0
  turns = _frames(model.generate(3, seed=(7, 9), steps=2, batch=2))
  np.testing.assert_array_equal(turns, together[[0, 1, 0]])


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun"])
def test_callbacks_see_every_step_of_every_batch_and_change_nothing(model, sampler):
  heard = []
  knobs = dict(seed=3, steps=4, batch=2, sampler=sampler)
  tell = lambda step, steps, states: heard.append((step, steps, states))
  watched = _frames(model.generate(3, callback=tell, **knobs))
  np.testing.assert_array_equal(watched, _frames(model.generate(3, **knobs)))
  assert [step for step, _, _ in heard] == [0, 1, 2, 3, 0, 1, 2, 3]
  assert {steps for _, steps, _ in heard} == {4}
  assert [states.unit for _, _, states in heard] == [0] * 4 + [1] * 4  # batches
  # The first state is pure noise: that of the named stream, for clips 0 and 1.
  start = rng.Streams(rng.root(3), 0).normal(
    "start", np.arange(2), heard[0][2].shape[1:]
  )
  np.testing.assert_array_equal(heard[0][2], start)
  assert np.abs(heard[3][2] - heard[0][2]).max() > 0.1


def test_an_unwatched_program_has_no_callback(model):
  system = model.system
  settings = sampling.SamplerSettings("dpmpp_2m", 2, 0.0, "log_snr", 1.0, 1.0)
  streams = rng.Streams(rng.root(0), 0)
  trace = lambda chosen: str(jax.make_jaxpr(
    lambda w: system.sample_latents(
      w, streams, np.arange(1), types.Prompt(), chosen, 0
    )
  )(model.weights))  # fmt: skip
  assert "callback" not in trace(settings)
  watched = dataclasses.replace(settings, watch=watching.Listener())
  assert "callback" in trace(watched)


def test_a_callback_ends_the_call_by_raising(model):
  def stop(step, steps, states):
    if step == 1:
      raise KeyboardInterrupt("enough")

  with pytest.raises(KeyboardInterrupt, match="enough"):
    model.generate(2, steps=4, batch=2, callback=stop)
  model.generate(2, steps=4, batch=2, callback=lambda *_: None)  # and goes on


def test_the_bar_fills_and_ends_its_line(model, capsys):
  model.generate(3, seed=3, steps=4, batch=2, progress=True)
  out = capsys.readouterr().out
  lines = [line.rstrip() for line in out.split("\r")[1:]]
  assert len(lines) == 8 + 2 and out.endswith("\n")
  assert lines[0] == "[####....................] 0/3 clips, step 1/4"  # 2/4 of a clip
  assert lines[5].startswith("[##################......] 2/3 clips, step 1/4")
  assert lines[-1].startswith("[########################] 3/3 clips, ")


def test_progress_counts_clips(model):
  heard = []
  model.generate(
    3, seed=3, steps=4, batch=2, progress=lambda *at: heard.append(at)
  )  # fmt: skip
  assert heard == [(2, 3), (3, 3)]


@pytest.mark.parametrize("seed", [[], ["a"], "7", [2**31], [-1], [True], 0.5])
def test_bad_seeds_are_one_line(seed):
  with pytest.raises(ConfigError, match="seed") as caught:
    watching.split_seeds(2, {"seed": seed})
  assert "\n" not in str(caught.value)


def test_one_seed_may_be_an_array_without_axes():
  assert watching.split_seeds(None, {"seed": np.array(3)}) == (None, {"seed": 3}, ())


def test_a_strip_is_not_what_generate_makes(model):
  with pytest.raises(ConfigError, match="strip=3: is of denoising_strip"):
    model.generate(strip=3)


def test_long_videos_take_seeds_in_turn():
  assert watching.own_seeds(1, (), 2) == [(1, 0), (1, 1)]
  assert watching.own_seeds(4, (4, 5), 3) == [(4, 0), (5, 0), (4, 0)]

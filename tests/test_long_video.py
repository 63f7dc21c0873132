"""Long videos: exact length, one program, seams, resume bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import api
from lamd_jax import long_video
from lamd_jax.errors import ConfigError
from lamd_jax.systems import lvdm
from lamd_jax.systems import lvdm_long
from lamd_jax.systems import pixels as pixels_lib

import tiny


@pytest.fixture(scope="module")
def model():
  """Untrained networks with filled output layers: 3 latents a clip, 2 frames each."""
  config = tiny.config(
    stages=("autoencoder", "diffusion", "prediction", "interpolation"),
    prediction__sparse=2, prediction__latents=4, interpolation__latents=3,
    interpolation__p_prediction=0.3, interpolation__p_interpolation=0.5,
  )  # fmt: skip
  system = lvdm.LVDM(config)
  weights = {}
  noise = np.random.RandomState(0)
  fill = lambda x: (x + 0.05 * noise.standard_normal(x.shape)).astype(np.float32)
  for stage in system.stages():
    params, extras = stage.init(0)
    weights[stage.name] = {"params": jax.tree.map(fill, params), "extras": extras}
  return api.Model(config, weights)


def plan(model, long, frames, **knobs):
  return model.long_video(
    long=long, frames=frames, steps=2, noise_level=10, spacing="trailing", **knobs
  )


@pytest.mark.parametrize("long", ["autoregressive", "hierarchical", "sliding"])
@pytest.mark.parametrize("frames", [1, 7, 12, 13, 31])
def test_exactly_the_frames_asked_for(model, long, frames):
  made = np.concatenate(list(api.stream(plan(model, long, frames))))
  assert made.shape == (frames, 16, 16, 3) and made.dtype == np.uint8


@pytest.mark.parametrize("long", ["autoregressive", "hierarchical"])
def test_longer_videos_begin_alike_and_compile_nothing_new(model, long):
  short = np.concatenate(list(api.stream(plan(model, long, 24))))
  programs = model._long(plan(model, long, 24)._videos._programs.settings)
  before = programs.generate._cache_size(), programs.decode._cache_size()
  whole = np.concatenate(list(api.stream(plan(model, long, 60))))
  assert (programs.generate._cache_size(), programs.decode._cache_size()) == before
  assert before == (1, 1)
  # All but the last unit, whose end is not blended with a next one.
  np.testing.assert_array_equal(whole[:12], short[:12])


def test_a_callback_knows_the_unit_of_its_chains(model, monkeypatch):
  """A stand-in for the chains asks as they would; the slow test has the true ones."""
  heard = []
  tell = lambda step, steps, states: heard.append((states.unit, step, steps))
  video = plan(model, "hierarchical", 31, callback=tell)

  def chains(k, carry):
    for position in (9.0, 4.0, 9.0, 4.0):  # keyframes, then gaps
      video._videos._programs.settings.sampler.watch(position, np.zeros((1, 3, 4, 4, 2)))
    return np.zeros((1, 6, 4, 4, 2), np.float32), {}

  monkeypatch.setattr(video._videos, "_latents", chains)
  decoded = (np.zeros((1, 12, 16, 16, 3), np.uint8), np.zeros((1, 2, 16, 16, 3)))
  monkeypatch.setattr(video._videos._programs, "decode", lambda *_: decoded)
  list(api.stream(video))
  expected = [(k, step, 2) for k in range(video.units) for step in (0, 1, 0, 1)]
  assert heard == expected and video.units > 1
  video.unit(0, {})
  assert len(heard) == len(expected) + 4


@pytest.mark.slow
@pytest.mark.parametrize(
  "long, chains", [("autoregressive", 1), ("hierarchical", 2), ("sliding", 1)]
)
def test_callbacks_hear_the_chains_of_every_unit(model, long, chains):
  heard = []
  tell = lambda step, steps, states: heard.append((states.unit, step, steps))
  watched = np.concatenate(list(api.stream(plan(model, long, 31, callback=tell))))
  video = plan(model, long, 31)
  np.testing.assert_array_equal(watched, np.concatenate(list(api.stream(video))))
  # All of a sliding video is one chain, run by its first unit.
  units = 1 if long == "sliding" else video.units
  expected = [(k, step, 2) for k in range(units) for _ in range(chains) for step in (0, 1)]
  assert heard == expected and video.units > 1


@pytest.mark.slow
def test_several_videos_are_told_apart(model):
  heard = set()
  model.generate(
    2, long="autoregressive", frames=12, steps=2, noise_level=10, spacing="trailing",
    callback=lambda step, steps, states: heard.add((states.video, states[0].unit)),
  )  # fmt: skip
  units = plan(model, "autoregressive", 12).units
  assert heard == {(video, unit) for video in (0, 1) for unit in range(units)}


@pytest.mark.parametrize("long", ["autoregressive", "hierarchical", "sliding"])
def test_a_unit_is_a_function_of_its_carry(model, long):
  video = plan(model, long, 40)
  frames, carries, carry = [], [], {}
  for k in range(video.units):
    carries.append(carry)
    made, carry = video.unit(k, carry)
    frames.append(made)
  again = plan(model, long, 40)
  for k in reversed(range(video.units)):
    np.testing.assert_array_equal(again.unit(k, carries[k])[0], frames[k])
  assert all(a.dtype == np.float32 for a in carry.values())


def test_keyframes_and_gaps_are_in_place(model, monkeypatch):
  """Prediction counts 0,1,2,...; interpolation adds a half: the order shows."""

  def conditional_clip(stage, weights, streams, index, mask, known, *rest, **options):
    if stage == "interpolation":
      middle = (known[:, 0] + known[:, -1])[:, None] / 2
      return np.concatenate([known[:, :1], middle, known[:, -1:]], axis=1)
    steps = np.arange(4, dtype=np.float32)[None, :, None, None, None]
    start = known[:, :1] if float(mask.max()) else np.zeros_like(known[:, :1])
    return start + steps * np.ones_like(known)

  monkeypatch.setattr(model.system, "conditional_clip", conditional_clip)
  settings = plan(model, "hierarchical", 8)._videos._programs.settings
  known, values = np.zeros((2, 1, 4, 4, 2), np.float32), []
  known[1] = 40
  for k in range(3):
    latents, known = lvdm_long.hierarchical(
      model.system, {}, jax.random.split(jax.random.key(0)), np.full(2, k > 0), known,
      settings,
    )
    values.append(np.asarray(latents)[..., 0, 0, 0])
  first, second = np.concatenate(values, axis=1).tolist()
  assert first == [i / 2 for i in range(18)]
  # Of nothing known before, both begin at 0.
  assert second == first


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_units_join_to_the_decoding_of_the_whole(model, monkeypatch, overlap):
  """With a decoder that looks at one latent at a time, units must leave no trace."""

  def each_alone(weights, z):
    pixels = jnp.tanh(z.mean(-1, keepdims=True)).repeat(4, 2).repeat(4, 3).repeat(3, 4)
    return pixels.repeat(2, axis=1)

  monkeypatch.setattr(model.system, "decode_float", each_alone)
  latents = np.random.RandomState(3).randn(9, 4, 4, 2).astype(np.float32)
  tail = np.zeros((2 * overlap, 16, 16, 3), np.float32)
  context, made = latents[:overlap], []
  for k in range(0, 9, 3):
    unit = latents[k : k + 3]
    frames, tail = lvdm_long.decode_unit(
      model.system, {}, context[None], unit[None], tail[None]
    )
    tail, context = tail[0], unit[len(unit) - overlap :]
    made.append(np.asarray(frames)[0, 0 if k else 2 * overlap :])
  whole = np.asarray(pixels_lib.to_uint8(each_alone({}, latents[None])[0]))
  np.testing.assert_array_equal(np.concatenate(made), whole[: 18 - 2 * overlap])


def test_sliding_averages_windows(model):
  """A denoiser that answers the same everywhere is not changed by averaging."""
  settings = model.long_video(
    long="sliding", frames=12, steps=2, spacing="trailing"
  )._videos._programs.settings.sampler
  z = lvdm_long.sliding(
    model.system, model.weights, jax.random.key(0)[None], 6, settings
  )
  assert z.shape == (1, 6, 4, 4, 2) and np.isfinite(z).all()


@pytest.mark.parametrize(
  "knobs, words",
  [
    (dict(long="hierarchical", noise_level=250), "levels below 250"),
    (dict(long="sliding", guidance=2.0), "no condition"),
    (dict(long="autoregressive", overlap=3), "take less"),
    (dict(long="none"), "choose autoregressive"),
  ],
)
def test_impossible_knobs_are_one_line(model, knobs, words):
  with pytest.raises(ConfigError, match=words) as caught:
    model.long_video(frames=8, **knobs)
  assert "\n" not in str(caught.value)


def test_videos_of_a_seed_differ_and_repeat(model):
  first = lambda number, seed: plan(
    model, "autoregressive", 4, seed=seed
  ) if number is None else model.long_video(
    number, long="autoregressive", frames=4, steps=2, noise_level=10, seed=seed,
    spacing="trailing",
  )  # fmt: skip
  frames = lambda video: np.concatenate(list(api.stream(video)))
  a, b, c = frames(first(0, 0)), frames(first(1, 0)), frames(first(0, 1))
  assert not np.array_equal(a, b) and not np.array_equal(a, c)
  np.testing.assert_array_equal(a, frames(first(None, 0)))
  assert isinstance(first(0, 0), long_video.LongVideo)


@pytest.mark.parametrize("long", ["autoregressive", "hierarchical", "sliding"])
def test_devices_make_a_video_each(model, long):
  """Nine on eight devices; chains round otherwise there, and a step of a uint8 shows."""
  knobs = dict(
    long=long, frames=13, steps=2, noise_level=10, spacing="trailing", seed=3
  )
  made = list(model.long_videos(9, **knobs))
  alone = lambda k: np.concatenate(list(api.stream(model.long_video(k, **knobs))))
  assert len(made) == 9
  for k in (0, 5, 8):
    difference = np.abs(made[k].astype(int) - alone(k))
    assert made[k].shape == (13, 16, 16, 3) and difference.max() <= 1
  assert np.abs(made[0].astype(int) - made[8]).max() > 10

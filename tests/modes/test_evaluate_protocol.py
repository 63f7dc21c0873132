# SPDX-License-Identifier: Apache-2.0
"""--eval.protocol: which clips are asked for and written; refusals before any work.

The model is a stand-in: what it makes is known, so the scores' inputs can be checked.
"""

import json
import types

import numpy as np
import pytest

from lamd_jax import config as config_lib
from lamd_jax.data import pipeline
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.modes import evaluate_protocol
import tiny

CONFIG = tiny.config(data__frames=16)


def _evaluation(**changes):
  group = config_lib.eval_defaults()
  group.update({"clips": 8, "bootstrap": 10, "protocol": "random_small_16f", **changes})
  return group


class Model:
  """Makes copies of the first real clip it knows; remembers what it was asked."""

  def __init__(self, config=CONFIG):
    self.config, self.fps, self.asked = config, 8.0, []
    self.system = types.SimpleNamespace(animates_images=False)

  def generate(self, n, **knobs):
    self.asked.append((n, knobs))
    draw = np.random.default_rng(knobs["seed"])
    shape = (knobs["frames"], 16, 16, 3)
    clip = lambda: draw.integers(0, 255, shape).astype(np.uint8)
    return [types.SimpleNamespace(frames=clip()) for _ in range(n)]

  def reconstruct(self, clips):
    return np.clip(clips.astype(int) + 2, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
  "changes, said",
  [
    ({"protocol": "fvd"}, "--protocol=fvd: not known"),
    ({"protocol": "lvdm"}, "takes 256x256 pixels, this run has 16"),
    ({"protocol": "jedi"}, "features come from a file"),
    ({"protocol": "pairs"}, "are for reconstruction"),
    ({"protocol": "warp_block8", "task": "reconstruction"}, "has no such score"),
    ({"changes": "reals=many"}, "of type int"),
    ({"task": "long", "frames": 16}, "the task long takes 32 frames or more"),
    ({"task": "long", "frames": 32}, "--eval.long=hierarchical: this run trains no"),
    ({"protocol": "cater_precision_mage"}, "a tracker that knows the world"),
    ({"protocol": "styleganv_2048_128f_sub8", "task": "reconstruction",
      "changes": "pixels=0"}, "strides over made frames"),
  ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused_at_once(changes, said):
  with pytest.raises(ConfigError, match=said) as caught:
    evaluate_protocol.check(_evaluation(**changes), CONFIG)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "changes, said",
  [
    ({"protocol": "lvdm", "changes": "pixels=0"}, "tools.convert i3d"),
    ({"protocol": "clip_b32"}, "weights_clip_image=.*convert clip-image"),
    ({"protocol": "pairs_lpips", "task": "reconstruction"}, "convert lpips"),
  ],
)
def test_missing_weights_are_seen_before_clips_are_made(tmp_path, changes, said):
  model = Model()
  with pytest.raises(WeightsError, match=said):
    evaluate_protocol.report(model, CONFIG, tmp_path, _evaluation(**changes))
  assert not model.asked and not list(tmp_path.iterdir())


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_generation_is_scored_as_tools_score_does(tmp_path, monkeypatch):
  monkeypatch.setattr(evaluate_protocol, "_BLOCK", 6)
  model = Model()
  evaluation = _evaluation(changes="fakes=10", bootstrap=10)
  found = evaluate_protocol.report(model, CONFIG, tmp_path, evaluation)
  # Two blocks, each with a seed of its own.
  assert [(n, k["seed"], k["frames"]) for n, k in model.asked] == [(6, 0, 16), (4, 1, 16)]
  assert found["scores"]["fakes"][0]["fakes"] == 10
  assert found["protocol"]["name"] == "random_small_16f+fakes=10"
  assert found["reals_from"]["split"] == CONFIG.data.eval_split
  name = "random_small_16f-generation"
  kept = json.loads((tmp_path / "eval" / f"{name}.json").read_text())
  assert kept["scores"]["fakes"][0]["value"] == found["scores"]["fakes"][0]["value"]
  fakes = sorted((tmp_path / "eval" / name / "fakes").iterdir())
  assert [len(np.load(file)["arr_0"]) for file in fakes] == [6, 4]


def test_reconstruction_pairs_each_clip_with_its_own(tmp_path):
  evaluation = _evaluation(protocol="pairs", task="reconstruction")
  found = evaluate_protocol.report(Model(), CONFIG, tmp_path, evaluation)
  row = {r["title"]: r["value"] for r in found["scores"]["fakes"]}
  # All pixels are off by 2 levels: 10 log10(255^2 / 4), but for a few at the limit.
  assert row["PSNR (frames' mean, dB)"] == pytest.approx(42.11, abs=0.2)


def test_strides_are_taken_from_whole_stretches():
  protocol = evaluate_protocol.check(
    _evaluation(changes="stride=3,frames=9"), CONFIG
  )
  reals = evaluate_protocol._reals(CONFIG, protocol, 4, "test")
  assert reals.clips.shape == (4, 25, 16, 16, 3)
  direct = CONFIG.data.copy_and_resolve_references()
  with direct.unlocked():
    direct.update(frames=25, stride=1, sampling="random")
  np.testing.assert_array_equal(reals.clips, pipeline.clips(direct, "test", 4, 0))
  assert reals.texts == [] and reals.record["trained_stride"] == 1


def test_a_floor_of_the_same_videos_is_called_so():
  scores = {"floor: other real videos": 1, "fakes": 2}
  found = {"scores": dict(scores), "growth": dict(scores)}
  reals = evaluate_protocol.Reals(np.zeros((9, 1)), [], None, {"videos": 8})
  evaluate_protocol._name_floor(found, reals)
  assert list(found["scores"]) == ["floor: other draws of the same videos", "fakes"]
  reals = reals._replace(record={"videos": 9})
  found = {"scores": dict(scores), "growth": dict(scores)}
  evaluate_protocol._name_floor(found, reals)
  assert found["scores"] == scores


def test_segments_are_written_with_their_protocol(tmp_path):
  protocol = evaluate_protocol.check(_evaluation(), CONFIG)
  record = {"title": "a, b", "value": 2.0, "interval_95": (1.0, 3.0), "fakes": 8}
  evaluate_protocol._write_segments(tmp_path, protocol, [[record]] * 3)
  lines = (tmp_path / "segments.csv").read_text().splitlines()
  expected = f'16,"a, b",2.0,1.0,3.0,random_small_16f,{protocol.hash()},8'
  assert len(lines) == 4 and lines[2] == expected
  assert protocol.hash() in (tmp_path / "segments.svg").read_text()


def test_long_videos_are_scored_by_segment(tmp_path, monkeypatch):
  class Long(Model):
    def long_video(self, number, **knobs):
      """Real clips first; noise from frame 16 on; 8 frames that make no segment."""
      noise = np.random.default_rng(number).integers(0, 255, (24, 16, 16, 3))
      self.asked.append((number, knobs["long"], knobs["frames"]))
      return np.concatenate([real[number], noise.astype(np.uint8)])

  data = CONFIG.data.copy_and_resolve_references()
  with data.unlocked():
    data.sampling = "random"
  real = pipeline.clips(data, data.eval_split, 8, 5)
  monkeypatch.setattr(evaluate_protocol.api, "stream", lambda video: iter([video]))
  model = Long()
  evaluation = _evaluation(task="long", long="sliding", frames=40)
  found = evaluate_protocol.report(model, CONFIG, tmp_path, evaluation)
  assert model.asked[3] == (3, "sliding", 40) and len(model.asked) == 8
  value = {name: records[0]["value"] for name, records in found["scores"].items()}
  first, second, floor, still, shuffled = value.values()
  assert list(value)[3:] == ["baseline: first frame repeated", "baseline: frames shuffled"]
  assert min(still, shuffled) > floor
  assert list(value)[:2] == ["segment 0, frames 0 to 15", "segment 1, frames 16 to 31"]
  assert second > 5 * first and second > 5 * floor > 0
  folder = tmp_path / "eval" / "random_small_16f-long"
  assert len((folder / "segments.csv").read_text().splitlines()) == 1 + 2 * 2


@pytest.mark.slow
def test_captioned_clips_of_the_world_are_described_by_the_tracker(tmp_path):
  config = tiny.text_config(data__frames=8, data__size=64)

  class Knowing(Model):
    def generate(self, n, **knobs):
      """The true clips, as a perfect model would make them of their captions."""
      self.asked.append(knobs["text"])
      data = config.data.copy_and_resolve_references()
      with data.unlocked():
        data.sampling = "first"
      clips = pipeline.clips(data, data.eval_split, n, config.seed)
      return [types.SimpleNamespace(frames=clip) for clip in clips]

  model = Knowing(config)
  evaluation = _evaluation(protocol="cater_precision_mage", changes="frames=8")
  found = evaluate_protocol.report(model, config, tmp_path, evaluation)
  first = lambda name: found["scores"][name][0]["value"]
  assert first("fakes") == first("ceiling: real clips, tracked") > 0.8
  assert first("floor: captions of other clips") < first("fakes") - 0.2
  captions = (tmp_path / "eval" / "cater_precision_mage-generation" / "captions.txt")
  assert captions.read_text().splitlines() == model.asked[0]

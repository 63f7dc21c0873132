# SPDX-License-Identifier: Apache-2.0
"""--eval.protocol: which clips are asked for and written; refusals before any work.

The model is a stand-in: what it makes is known, so the scores' inputs can be checked.
"""

import hashlib
import json
import types

import numpy as np
import pytest

from lamd_jax import config as config_lib
from lamd_jax.data import pipeline
from lamd_jax.data import tokenizers
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.evaluation import caption_files
from lamd_jax.interchange import clip_image as image_weights
from lamd_jax.interchange import clip_text as text_weights
from lamd_jax.interchange import i3d as i3d_weights
from lamd_jax.interchange import safetensors_file
from lamd_jax.modes import evaluate_protocol
from lamd_jax.modes import protocol_clips
from lamd_jax.networks import clip_image
from lamd_jax.networks import clip_text
from lamd_jax.networks import i3d
from lamd_jax.nn import initializers
import processes
import tiny
import toy_protocol
from toy_protocol import CONFIG
from toy_protocol import Model


@pytest.mark.parametrize(
  "changes, said",
  [
    ({"protocol": "fvd"}, "--eval.protocol=fvd: not known"),
    ({"protocol": "lvdm"}, "takes 256x256 pixels, this run has 16"),
    ({"protocol": "jedi"}, "features come from a file"),
    ({"protocol": "pairs"}, "are for reconstruction"),
    ({"protocol": "warp_block8", "task": "reconstruction"}, "has no such score"),
    ({"changes": "reals=many"}, "of type int"),
    ({"protocol": "cinn_bair"}, "go on from a true first frame, which lvdm is not"),
    ({"task": "long", "frames": 16}, "the task long takes 32 frames or more"),
    ({"task": "long", "frames": 32}, "--eval.long=hierarchical: this run trains no"),
    ({"protocol": "cater_precision_mage"}, "a tracker that knows the world"),
    ({"protocol": "styleganv_2048_128f_sub8", "task": "reconstruction",
      "changes": "pixels=0"}, "strides over made frames"),
  ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused_at_once(changes, said):
  with pytest.raises(ConfigError, match=said) as caught:
    evaluate_protocol.check(toy_protocol.evaluation(**changes), CONFIG)
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
    evaluate_protocol.report(model, CONFIG, tmp_path, toy_protocol.evaluation(**changes))
  assert not model.asked and not list(tmp_path.iterdir())


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_generation_is_scored_as_tools_score_does(tmp_path, monkeypatch):
  monkeypatch.setattr(evaluate_protocol, "_BLOCK", 6)
  model = Model()
  evaluation = toy_protocol.evaluation(changes="fakes=10", bootstrap=10)
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


def test_two_processes_make_a_share_each(tmp_path, monkeypatch):
  """Of four files, three of three clips; the scores are those of one process."""
  started = processes.start(toy_protocol, 2, tmp_path / "two", "none")
  codes, outputs = processes.finish(started)
  assert codes == [0, 0] and all("made 2 files" in text for text in outputs), outputs
  monkeypatch.setattr(evaluate_protocol, "_BLOCK", toy_protocol.BLOCK)
  evaluation = toy_protocol.evaluation(changes=f"fakes={toy_protocol.CLIPS}")
  evaluate_protocol.report(Model(), CONFIG, tmp_path / "one", evaluation)
  one, two = (tmp_path / run / "eval" for run in ("one", "two"))
  files = [path.relative_to(one) for path in one.glob("*/*/*.npz")]
  assert len(files) == 1 + 4
  assert all((one / path).read_bytes() == (two / path).read_bytes() for path in files)
  found = [
    json.loads((folder / "random_small_16f-generation.json").read_text())
    for folder in (one, two)
  ]
  one, two = (record["scores"]["fakes"][0]["value"] for record in found)
  assert two == pytest.approx(one, rel=1e-4)  # features were computed on 8 devices, and 1


def test_where_one_process_fails_the_other_leaves_with_it(tmp_path):
  started = processes.start(toy_protocol, 2, tmp_path, "fail")
  codes, (first, second) = processes.finish(started)
  assert codes == [2, 3]
  assert "process 1 failed, and says why" in first and "the disk is gone" in second


def test_an_edit_has_the_words_of_the_clip_whose_structure_it_has(tmp_path, monkeypatch):
  monkeypatch.setattr(evaluate_protocol, "_BLOCK", 4)
  config = tiny.gen1_config(data__frames=16)
  model = Model(config)
  evaluation = toy_protocol.evaluation(
    changes="fakes=10", structure_level=1, temporal_guidance=1.5, bootstrap=0
  )
  found = evaluate_protocol.report(model, config, tmp_path, evaluation)
  ((count, knobs),) = model.asked  # `generate` begins with held-out clip 0 each time
  assert count == 10 and found["scores"]["fakes"][0]["fakes"] == 10
  data = config.data
  assert knobs["text"] == pipeline.captions(data, data.eval_split, 10, config.seed)
  assert (knobs["structure_level"], knobs["temporal_guidance"]) == (1, 1.5)


def test_reconstruction_pairs_each_clip_with_its_own(tmp_path):
  evaluation = toy_protocol.evaluation(protocol="pairs", task="reconstruction")
  found = evaluate_protocol.report(Model(), CONFIG, tmp_path, evaluation)
  row = {r["title"]: r["value"] for r in found["scores"]["fakes"]}
  # All pixels are off by 2 levels: 10 log10(255^2 / 4), but for a few at the limit.
  assert row["PSNR (frames' mean, dB)"] == pytest.approx(42.11, abs=0.2)


@pytest.mark.parametrize(
  ("name", "first"), [("cinn_bair", True), ("bair_100", True), ("tf2018", False)]
)
def test_clips_of_bair_begin_with_the_true_frame(name, first):
  model = Model(config_lib.defaults())
  model.system.animates_images = True
  clips = np.zeros((2, 16, 16, 16, 3), np.uint8)
  # The model knows no classes, though the data have some.
  source = types.SimpleNamespace(names=["a", "b"], read=lambda i, *_: clips[i, :1])
  reals = evaluate_protocol.Reals(source, [], np.array([3, 4]), {})
  protocol = evaluate_protocol.protocol_lib.find(name)
  model.generate = lambda n, **knobs: (
    model.asked.append(knobs) or [types.SimpleNamespace(frames=clips[0])] * n
  )
  evaluate_protocol._made(
    model, toy_protocol.evaluation(), protocol, reals, 3, 0, range(3)
  )
  (asked,) = model.asked
  assert asked["replace_first_frame"] is first and asked["label"] == -1


def test_first_frames_are_those_of_the_clips_that_are_scored():
  source = types.SimpleNamespace(names=list("abcdef"))
  reals = evaluate_protocol.Reals(source, [], None, {})
  find = evaluate_protocol.protocol_lib.find
  scored = find("bair_100").changed({"reals": 3})
  assert reals.turn(scored, 7) == [0, 1, 2, 0, 1, 2, 0]
  assert reals.turn(find("random_small_16f"), 7) == [0, 1, 2, 3, 4, 5, 0]


@pytest.mark.parametrize(
  ("changes", "count"),
  [("reals=4", 8), ("reals=12", 6), ("reals=12,sampling=random_clips", 24)],
)
def test_a_video_gives_one_clip_where_the_protocol_says_so(monkeypatch, changes, count):
  monkeypatch.setattr(protocol_clips.pipeline, "check", lambda *_: 6)
  monkeypatch.setattr(protocol_clips, "take", lambda *arguments: arguments[2])
  protocol = evaluate_protocol.check(toy_protocol.evaluation(changes=changes), CONFIG)
  # Twice as many as are scored against, where there are others for the floor.
  assert protocol_clips.to_score_against(CONFIG, protocol, 8, True, None) == count


def test_neighbours_are_sought_of_clips_that_were_told_others(tmp_path):
  """A training clip that goes on from its own first frame would be its own neighbour."""
  evaluation = toy_protocol.evaluation(protocol="nearest_training")
  protocol = evaluate_protocol.check(evaluation, CONFIG)
  reals = protocol_clips.to_score_against(CONFIG, protocol, 2, False, tmp_path / "reals")
  told = protocol_clips.to_tell(CONFIG, protocol, 2, reals, tmp_path / "told")
  assert (reals.record["split"], told.record["split"]) == ("train", "test")
  expected = protocol_clips.take(CONFIG, protocol, 2, "test", tmp_path / "test")
  for i in range(2):
    first = told.clips.read(i, 0, 1, 1)
    np.testing.assert_array_equal(first, expected.clips.read(i, 0, 1, 1))


def test_captions_keep_their_lines(tmp_path):
  texts = ["a cat\r\nand a dog", "", "two\u2028lines\x85here", "\x0cfour "]
  evaluate_protocol._write_captions(tmp_path / "c.txt", texts)
  found = caption_files.read(tmp_path / "c.txt")
  assert found.texts == ["a cat and a dog", "", "two lines here", "four"]
  # Nor are lines of others cut where Unicode says so.
  (tmp_path / "d.txt").write_text("a dog\u2028runs\r\n\na cow\n")
  assert caption_files.read(tmp_path / "d.txt").texts == ["a dog runs", "", "a cow"]


def test_strides_are_taken_from_whole_stretches(tmp_path, monkeypatch):
  monkeypatch.setattr(protocol_clips, "BLOCK", 3)  # clips in more than one file
  protocol = evaluate_protocol.check(
    toy_protocol.evaluation(changes="stride=3,frames=9"), CONFIG
  )
  reals = protocol_clips.take(CONFIG, protocol, 4, "test", tmp_path)
  found = np.stack([reals.clips.read(i, 0, 25, 1) for i in range(4)])
  assert len(reals.clips.names) == 4 and len(list(tmp_path.iterdir())) == 2
  direct = CONFIG.data.copy_and_resolve_references()
  with direct.unlocked():
    direct.update(frames=25, stride=1, sampling="random")
  np.testing.assert_array_equal(found, pipeline.clips(direct, "test", 4, 0))
  assert reals.texts == [] and reals.record["trained_stride"] == 1


def test_a_floor_of_the_same_videos_is_called_so():
  scores = {"floor: other real videos": 1, "fakes": 2}
  found = {"scores": dict(scores), "growth": dict(scores)}
  source = types.SimpleNamespace(names=["clip"] * 9)
  reals = evaluate_protocol.Reals(source, [], None, {"videos": 8})
  evaluate_protocol._name_floor(found, reals)
  assert list(found["scores"]) == ["floor: other draws of the same videos", "fakes"]
  reals = reals._replace(record={"videos": 9})
  found = {"scores": dict(scores), "growth": dict(scores)}
  evaluate_protocol._name_floor(found, reals)
  assert found["scores"] == scores


def test_segments_are_written_with_their_protocol(tmp_path):
  protocol = evaluate_protocol.check(toy_protocol.evaluation(), CONFIG)
  record = {"title": "a, b", "value": 2.0, "interval_95": (1.0, 3.0), "fakes": 8}
  evaluate_protocol._write_segments(tmp_path, protocol, [[record]] * 3)
  lines = (tmp_path / "segments.csv").read_text().splitlines()
  expected = f'16,"a, b",2.0,1.0,3.0,random_small_16f,{protocol.hash()},8'
  assert len(lines) == 4 and lines[2] == expected
  assert protocol.hash() in (tmp_path / "segments.svg").read_text()


def test_long_videos_are_scored_by_segment(tmp_path, monkeypatch):
  class Long(Model):
    def long_videos(self, n, **knobs):
      """Real clips first; noise from frame 16 on; 8 frames that make no segment."""
      self.asked.append((n, knobs["long"], knobs["frames"]))
      for number in range(n):
        noise = np.random.default_rng(number).integers(0, 255, (24, 16, 16, 3))
        yield np.concatenate([real[number], noise.astype(np.uint8)])

  data = CONFIG.data.copy_and_resolve_references()
  with data.unlocked():
    data.sampling = "random"
  real = pipeline.clips(data, data.eval_split, 8, 5)
  model = Long()
  evaluation = toy_protocol.evaluation(task="long", long="sliding", frames=40)
  found = evaluate_protocol.report(model, CONFIG, tmp_path, evaluation)
  assert model.asked == [(8, "sliding", 40)]
  value = {name: records[0]["value"] for name, records in found["scores"].items()}
  first, second, floor, still, shuffled = value.values()
  assert list(value)[3:] == ["baseline: first frame repeated", "baseline: frames shuffled"]
  assert min(still, shuffled) > floor
  assert list(value)[:2] == ["segment 0, frames 0 to 15", "segment 1, frames 16 to 31"]
  assert second > 5 * first and second > 5 * floor > 0
  folder = tmp_path / "eval" / "random_small_16f-long"
  assert len((folder / "segments.csv").read_text().splitlines()) == 1 + 2 * 2


def test_given_weights_reach_a_report_named_fvd(tmp_path, monkeypatch):
  """A narrow I3D in the published layout; tests/test_main_evaluate.py has the full one."""
  tiny_i3d = i3d.I3D(1e-3, 5, 16, 1)
  monkeypatch.setattr(i3d, "SIZE", 32)
  monkeypatch.setattr(i3d, "I3D", lambda epsilon: tiny_i3d.clone(epsilon=epsilon))
  clip = np.zeros((1, 9, 32, 32, 3), np.float32)
  params = initializers.initialize(tiny_i3d, 0, clip)["params"]
  weights = tmp_path / "i3d.safetensors"
  safetensors_file.write(weights, i3d_weights.to_state(params), {})
  config = tiny.config(data__frames=9)
  evaluation = toy_protocol.evaluation(
    protocol="lvdm", weights_i3d=str(weights), bootstrap=2,
    changes="pixels=0,frames=9,reals=8,fakes=8,multiple=1",
  )  # fmt: skip
  found = evaluate_protocol.report(Model(config), config, tmp_path, evaluation)
  titles = [record["title"] for record in found["scores"]["fakes"]]
  assert titles == ["FVD", "KVD"] and len(found["scores"]) == 4
  digest = hashlib.sha256(weights.read_bytes()).hexdigest()
  assert found["weights"] == digest
  page = (tmp_path / "eval" / "lvdm-generation.html").read_text()
  assert found["protocol_hash"] in page and "FVD" in page


def test_clipsim_of_a_runs_captions_reaches_a_report(tmp_path, monkeypatch):
  image = clip_image.ClipImage(8, 1, 2, 4, 6, size=8)
  text = clip_text.ClipText(16, 8, 1, 2, 5, projection=6)
  monkeypatch.setitem(clip_image.NETWORKS, "b32", image)
  monkeypatch.setitem(clip_text.NETWORKS, "b32", text)
  monkeypatch.setattr(tokenizers, "Clip", Letters)
  draw = lambda network, x: initializers.initialize(network, 0, x)["params"]
  files = {name: tmp_path / f"{name}.safetensors" for name in ("image", "text")}
  picture, tokens = np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 5), np.int32)
  state = image_weights.to_state(draw(image, picture))
  safetensors_file.write(files["image"], state, {})
  safetensors_file.write(files["text"], text_weights.to_state(draw(text, tokens)), {})
  config = tiny.text_config(data__frames=16)
  evaluation = toy_protocol.evaluation(
    protocol="clip_b32", weights_clip_image=str(files["image"]),
    weights_clip_text=str(files["text"]), vocabulary="merges.txt",
  )  # fmt: skip
  model = Model(config)
  found = evaluate_protocol.report(model, config, tmp_path, evaluation)
  assert len(model.asked[0][1]["text"]) == 8
  names = {record["title"].partition(" (")[0] for record in found["scores"]["fakes"]}
  assert names == {
    "frame consistency", "background consistency", "CLIPSIM, prompt consistency"
  }  # fmt: skip
  assert set(found["scores"]) == {
    "fakes", "floor: captions of other clips", "baseline: first frame repeated",
    "real clips",
  }  # fmt: skip
  kept = json.loads((tmp_path / "eval" / "clip_b32-generation.json").read_text())
  assert kept["scores"] == json.loads(json.dumps(found["scores"]))


class Letters:
  """Stands in for CLIP's tokenizer, whose merges are not at hand."""

  def __init__(self, vocabulary, length):
    assert vocabulary == "merges.txt" and length == 5

  def __call__(self, text):
    return np.array([14, *(ord(c) % 14 for c in text[-3:].ljust(3)), 15], np.int32)


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
  evaluation = toy_protocol.evaluation(
    protocol="cater_precision_mage", changes="frames=8"
  )
  found = evaluate_protocol.report(model, config, tmp_path, evaluation)
  first = lambda name: found["scores"][name][0]["value"]
  assert first("fakes") == first("ceiling: real clips, tracked") > 0.8
  assert first("floor: captions of other clips") < first("fakes") - 0.2
  captions = (tmp_path / "eval" / "cater_precision_mage-generation" / "captions.txt")
  assert captions.read_text().splitlines() == model.asked[0]

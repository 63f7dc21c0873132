# SPDX-License-Identifier: Apache-2.0
"""tools.score under the protocols that score clip by clip, on small clips."""

import json

import jax
import numpy as np
import pytest

import clip_files
from lamd_jax.data.procedural.cater import Cater
from lamd_jax.evaluation import clip_frames
from lamd_jax.evaluation import clip_scores
from lamd_jax.evaluation import fvmd
from lamd_jax.evaluation import image_quality
from lamd_jax.evaluation import motion
from lamd_jax.evaluation import protocol as protocol_lib
from lamd_jax.interchange import clip_image as image_weights
from lamd_jax.interchange import clip_text as text_weights
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import clip_image
from lamd_jax.networks import clip_text
from lamd_jax.nn import initializers
from lamd_jax.tools import score
from lamd_jax.tools import score_clipwise
from lamd_jax.tools import score_pairs

IMAGE = clip_image.ClipImage(8, 1, 2, 4, 6, size=8)
TEXT = clip_text.ClipText(10, 8, 1, 2, 5, projection=6)
SLIDE = "the cone is sliding to (2, -1)."


class Tokenizer:
  """Stands in for CLIP's, whose merges are not at hand: letters to ids."""

  def __init__(self, vocabulary, length):
    assert vocabulary == "merges.txt" and length == 5

  def __call__(self, text):
    return np.array([8, *(ord(c) % 8 for c in text[:3].ljust(3)), 9], np.int32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("clipwise")
  np.savez(root / "fake.npz", clip_files.waves(4, size=16))
  np.savez(root / "real.npz", clip_files.waves(6, size=16, seed=1))
  (root / "texts.txt").write_text("red\nsun\nsky\nbox\n")
  picture = np.zeros((1, 8, 8, 3), np.float32)
  image = initializers.initialize(IMAGE, 0, picture)["params"]
  text = initializers.initialize(TEXT, 1, np.zeros((1, 5), np.int32))["params"]
  write = safetensors_file.write
  write(root / "image.safetensors", image_weights.to_state(image), {})
  write(root / "text.safetensors", text_weights.to_state(text), {})
  return root


def _call(folder, protocol, **changes):
  options = {
    "protocol": protocol, "resamples": 20, "out": folder / "out.json", "cache": "off",
  } | changes  # fmt: skip
  flags = [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
  (folder / "out.json").unlink(missing_ok=True)
  return score.main(flags)


def _report(folder, protocol, **changes):
  assert _call(folder, protocol, **changes) == 0
  report = json.loads((folder / "out.json").read_text())
  assert (folder / "out.html").read_text().count(report["protocol_hash"])
  hashes = {r["protocol_hash"] for rows in report["scores"].values() for r in rows}
  assert hashes == {report["protocol_hash"]}
  table = {
    name: {r["title"]: r["value"] for r in rows} for name, rows in report["scores"].items()
  }
  return report, table


def _refused(capsys, code, expected, message):
  said = capsys.readouterr().err.splitlines()
  lines = [line for line in said if not line.startswith("[score")]
  assert code == expected and len(lines) == 1 and message in lines[0], lines


@pytest.fixture
def tiny_clip(monkeypatch):
  monkeypatch.setitem(clip_image.NETWORKS, "b32", IMAGE)
  monkeypatch.setitem(clip_text.NETWORKS, "b32", TEXT)
  monkeypatch.setattr(score_clipwise.tokenizers, "Clip", Tokenizer)


def _with_clip(folder, **changes):
  return {
    "fake": folder / "fake.npz", "weights": folder / "image.safetensors",
    "text_weights": folder / "text.safetensors", "vocabulary": "merges.txt",
    "captions": folder / "texts.txt", "cache": folder / "cache", **changes,
  }  # fmt: skip


def test_clip_scores_are_those_of_the_networks(folder, tiny_clip, capsys, monkeypatch):
  real = folder / "real.npz"
  report, table = _report(folder, "clip_b32", **_with_clip(folder, real=real))
  params = image_weights.load(folder / "image.safetensors", IMAGE)
  clips = np.load(folder / "fake.npz")["arr_0"]
  frames = clip_frames.Extractor(IMAGE, params)(clips)
  text = {"params": text_weights.load(folder / "text.safetensors", TEXT)}
  tokens = np.stack([Tokenizer("merges.txt", 5)(t) for t in ("red", "sun", "sky", "box")])
  with jax.default_matmul_precision("highest"):
    hidden = lambda p: TEXT.apply(p, tokens, TEXT.apply(p, tokens), method=TEXT.pooled)
    pooled = jax.jit(hidden)(text)
  sim, same = "CLIPSIM, prompt consistency (CLIP ViT-B/32)", "frame consistency"
  same = f"{same} (CLIP ViT-B/32)"
  expected = clip_scores.clipsim(np.asarray(pooled), frames).mean()
  assert table["fakes"][sim] == pytest.approx(expected, abs=1e-5)
  expected = clip_scores.frame_consistency(frames).mean()
  assert table["fakes"][same] == pytest.approx(expected, abs=1e-6) and expected < 0.9999
  assert table["baseline: first frame repeated"][same] == pytest.approx(1)
  assert table["floor: captions of other clips"][sim] != table["fakes"][sim]
  # A still clip is perfectly consistent, so motion stands beside.
  assert report["fake"]["motion"]["difference"] > 0 and same in table["real clips"]
  said = capsys.readouterr().out
  assert "mean |frame difference|" in said and report["protocol_hash"] in said
  monkeypatch.setattr(clip_frames.Extractor, "__call__", lambda self, clips: 1 / 0)
  again, cached = _report(folder, "clip_b32", **_with_clip(folder, real=real))
  assert cached == table and again["real"] == report["real"]
  assert "scores from the cache" in capsys.readouterr().out


def test_consistency_needs_no_captions(folder, tiny_clip):
  given = {k: v for k, v in _with_clip(folder).items() if k in ("fake", "weights")}
  _, table = _report(folder, "clip_b32", **given)
  assert set(table) == {"fakes", "baseline: first frame repeated"}


@pytest.mark.parametrize(
  "changes, code, message",
  [
    ({"captions": ""}, 2, "--captions, --text-weights and --vocabulary together"),
    ({"captions": "gone.txt"}, 3, "gone.txt is no file of captions"),
    ({"weights": ""}, 4, "convert clip-image"),
    ({"text_weights": "gone.safetensors"}, 4, "lamd_jax.tools.convert clip"),
    ({"fake": "gone"}, 3, "is no folder and no npz file"),
  ],
)
def test_wrong_calls_of_clip(folder, tiny_clip, capsys, changes, code, message):
  found = _call(folder, "clip_b32", **_with_clip(folder, **changes))
  _refused(capsys, found, code, message)
  assert not (folder / "out.json").exists()


def test_pairs_with_lpips(folder, monkeypatch, capsys):
  # The network has tests of its own; here a stand-in shows which pairs it is given.
  class Far:
    def __init__(self, params, batch):
      del params, batch

    def __call__(self, pairs):
      return np.array([np.abs(a.astype(float) - b).mean() for a, b in pairs])

  monkeypatch.setattr(image_quality, "Lpips", Far)
  monkeypatch.setattr(score_pairs.perceptual_weights, "load", lambda path: {})
  real = np.load(folder / "real.npz")["arr_0"]
  copies = np.clip(real[:4].astype(int) + 3, 0, 255).astype(np.uint8)
  np.savez(folder / "copies.npz", copies)
  given = {"real": folder / "real.npz", "fake": folder / "copies.npz"}
  weights = folder / "image.safetensors"  # any file
  _, table = _report(folder, "pairs_lpips", weights=weights, **given)
  row = table["fakes"]
  assert row["LPIPS (VGG16, 0.1)"] == pytest.approx(np.abs(copies - real[:4].astype(int)).mean())
  assert row["PSNR (frames' mean, dB)"] == pytest.approx(
    image_quality.psnr(real[:4], copies).clips.mean()
  )
  assert table["baseline: first frame repeated"]["LPIPS (VGG16, 0.1)"] > 3
  psnr = {name: row["PSNR (frames' mean, dB)"] for name, row in table.items()}
  assert psnr["floor: another real clip"] < psnr["baseline: first frame repeated"]
  # Coloured waves of 16 pixels suffer from an mp4's coarser colours.
  assert psnr["yardstick: originals through an mp4 of ours"] > 18
  # A second call reads the cache: the network is not asked.
  again = {"weights": weights, "cache": folder / "cache", **given}
  _report(folder, "pairs_lpips", **again)
  monkeypatch.setattr(Far, "__call__", lambda self, pairs: 1 / 0)
  report, cached = _report(folder, "pairs_lpips", **again)
  assert cached == table and report["fake"]["motion"]["difference"] > 0
  _refused(capsys, _call(folder, "pairs_lpips", **given), 4, "LPIPS needs weights")
  # Equal clips have no PSNR; the other scores stand.
  _, table = _report(folder, "pairs", real=folder / "real.npz", fake=folder / "real.npz")
  assert "PSNR (frames' mean, dB)" not in table["fakes"]
  assert table["fakes"]["SSIM (Gaussian 11x11)"] == pytest.approx(1)


def test_captions_of_a_captioner(folder):
  true = {"1.mp4": SLIDE, "2.mp4": "the snitch is rotating."}
  (folder / "true.json").write_text(json.dumps(true))
  made = [{"image_id": "2.avi", "caption": "the snitch is rotating"},
          {"image_id": "1.avi", "caption": "the cone is sliding to (3, -1)"}]  # fmt: skip
  (folder / "made.json").write_text(json.dumps(made))
  given = {"captions": folder / "true.json", "fake": folder / "made.json"}
  _, table = _report(folder, "cater_precision_mage", **given)
  # The slide has its action but not its place: 1 of 2; the turn has 1 of 1.
  assert table["fakes"] == {
    "action precision (mage)": 0.75, "referring-expression precision (mage)": 1.0,
  }  # fmt: skip
  assert table["floor: captions of other clips"]["action precision (mage)"] == 0
  # "The cone is sliding" of both clips: right of one; the snitch does not slide.
  usual = table["baseline: one true caption for all clips"]
  assert usual["action precision (mage)"] == 0.5


def test_captions_of_the_procedural_world_are_tracked(folder):
  samples = [Cater("v1").sample("test", i, 8, 64) for i in range(4)]
  np.savez(folder / "cater.npz", np.stack([s.video for s in samples]))
  (folder / "cater.txt").write_text("\n".join(s.caption for s in samples) + "\n")
  given = {"captions": folder / "cater.txt", "fake": folder / "cater.npz"}
  _, table = _report(folder, "cater_precision_strict", set="frames=8", **given)
  # True clips do what their captions say.
  assert table["fakes"]["action precision (strict)"] > 0.8
  floor = table["floor: captions of other clips"]
  assert floor["action precision (strict)"] < table["fakes"]["action precision (strict)"]


def test_warp_error_and_training_neighbours(folder):
  given = {"real": folder / "real.npz", "fake": folder / "fake.npz"}
  _, table = _report(folder, "warp_block8", **given)
  title = "warp error (block matching), grey levels"
  clips = np.load(folder / "fake.npz")["arr_0"]
  found = [motion.warp_error(c, motion.block_matching(c)) for c in clips]
  assert table["fakes"][title] == pytest.approx(np.mean(found))
  assert table["baseline: frames shuffled"][title] > table["fakes"][title]
  still = np.repeat(clips[:1, :1], 16, 1)[0]
  error = motion.warp_error(still, motion.block_matching(still))
  assert table["baseline: first frame repeated"][title] == error == 0
  # A clip learnt by heart has distance 0. At twice the size waves are long enough for an
  # mp4, which holds colours at half of it.
  for seed, side in enumerate(("fake", "real")):
    given[side] = folder / f"{side}32.npz"
    np.savez(given[side], clip_files.waves(4 + 2 * seed, seed=seed))
  _, table = _report(folder, "nearest_training", **given)
  title = "distance to the nearest training clip, grey levels"
  assert table["fakes"][title] > 1 < table["floor: training clips to the others"][title]
  copies = table["copies: training clips through an mp4 of ours"][title]
  assert 0 < copies < 0.5 * table["floor: training clips to the others"][title]
  assert table["baseline: the mean of the training clips"][title] > 0
  given["fake"] = given["real"]
  _, table = _report(folder, "nearest_training", **given)
  assert table["fakes"][title] == 0


@pytest.mark.parametrize("released", [True, False])
def test_fvmd_of_tracks(folder, released):
  draw = np.random.default_rng(0)
  tracks = [128 + draw.normal(0, s, (4, 16, 20, 20, 2)).cumsum(1) for s in (1, 3)]
  for name, track in zip(("a", "b"), tracks):
    np.savez(folder / f"{name}.npz", track)
  name = "fvmd_release" if released else "fvmd_true"
  given = {"real": folder / "a.npz", "fake": folder / "b.npz", "resamples": 0}
  _, table = _report(folder, name, **given)
  assert table["fakes"][name] == pytest.approx(fvmd.distance(*tracks, released), rel=1e-6)
  halves = tracks[0][:2], tracks[0][2:]
  floor = "floor: disjoint halves, so at half the number"
  assert table[floor][name] == pytest.approx(fvmd.distance(*halves, released), rel=1e-6)
  still = next(row[name] for row_name, row in table.items() if "stand still" in row_name)
  assert still > table[floor][name] and len(table) == 4


def test_bad_tracks_are_one_line(folder, capsys):
  np.savez(folder / "flat.npz", np.zeros((4, 16, 20, 2)))
  given = {"real": folder / "flat.npz", "fake": folder / "flat.npz"}
  _refused(capsys, _call(folder, "fvmd_true", **given), 3, "tracks are (4, 16, 20, 2)")


def test_captions_without_use_are_refused(folder, capsys):
  given = {"fake": folder / "fake.npz", "real": folder / "real.npz", "captions": "x.txt"}
  _refused(capsys, _call(folder, "random_small_16f", **given), 2, "takes no captions")
  given = {"fake": folder / "fake.npz", "weights": "x.safetensors"}
  _refused(capsys, _call(folder, "warp_block8", **given), 2, "needs none")


def test_every_clipwise_preset_has_its_part():
  extractors = {p.extractor for p in protocol_lib.PRESETS.values()}
  assert set(score_clipwise.PARTS) <= extractors

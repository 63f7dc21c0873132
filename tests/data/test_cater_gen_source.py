# SPDX-License-Identifier: Apache-2.0
"""CATER-GEN v1 and v2 on a tiny tree of the published layout."""

import json
import pathlib

import numpy as np
import pytest

from lamd_jax import config as config_lib
from lamd_jax import validation
from lamd_jax.data import pipeline
from lamd_jax.data.sources import cater_gen, registry
from lamd_jax.errors import ConfigError, DataError
from lamd_jax.tools import doctor

CAPTIONS = {
  "explicit": [" the cone is picked up and containing the snitch.", "",
               " the snitch is rotating.", " the cone is sliding to (-1, 3)."],
  "ambiguous": [" the cone is picked up and containing the snitch.", "",
                " the snitch is rotating.",
                " the cone is sliding to the second quadrant."],
}  # fmt: skip


def _list(root, split, captions, rows):
  table = {str(i): {"video": v, "caption": c} for i, (v, c) in enumerate(rows)}
  (root / f"{split}_{captions}.json").write_text(json.dumps(table))


@pytest.fixture
def tree(tmp_path, make):
  """Three videos to train on and one to test on, beside scenes and the pickled cache."""
  root = tmp_path / "data"
  names = [f"videos/CATER_new_{i:06d}.avi" for i in range(4)]
  for i, name in enumerate(names):
    make.video(root / name, 30 + i, fps=24, height=32)
  (root / "scenes").mkdir()
  (root / "scenes" / "CATER_new_000000.json").write_text('{"objects": []}')
  (root / "good_videos.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
  for kind, texts in CAPTIONS.items():
    _list(root, "train", kind, zip(names[:3], texts[:3], strict=True))
    _list(root, "test", kind, zip(names[3:], texts[3:], strict=True))
  return root


@pytest.mark.parametrize("kind", CAPTIONS)
def test_clips_and_captions(tree, make, data_config, kind):
  data_config.update(source="cater_gen", captions=kind, frames=5, sampling="linspace")
  read = pipeline.clips(data_config, "train", 9, 0)
  assert [make.numbers(clip).tolist() for clip in read] == [
    np.floor(np.linspace(0, n - 1, 5)).astype(int).tolist() for n in (30, 31, 32)
  ]
  assert pipeline.captions(data_config, "train", 9, 0) == CAPTIONS[kind][:3]
  assert pipeline.captions(data_config, "test", 9, 0) == CAPTIONS[kind][3:]
  assert registry.OPEN["cater_gen"](data_config, "all").fps == 24


def test_captions_reach_the_batch_as_tokens_and_the_fingerprint(tree, data_config):
  data_config.update(source="cater_gen", tokenizer="words", tokens=12)
  with pipeline.loader(data_config, split="train", batch=3, seed=0) as loader:
    assert next(loader).tokens.shape == (3, 12)
  seen = pipeline.fingerprint(data_config, "test")
  data_config.captions = "ambiguous"
  assert pipeline.fingerprint(data_config, "test") != seen


def test_mage10_takes_the_first_frames_of_a_drawn_speed(tree, make, data_config):
  data_config.update(source="cater_gen", frames=10, sampling="mage10")
  steps = set()
  with pipeline.loader(data_config, split="test", batch=1, seed=0) as loader:
    for _ in range(8):
      numbers = make.numbers(next(loader).video[0])
      assert numbers[0] == 0 and (np.diff(numbers) >= 0).all()
      steps.add(int(numbers[1]))
  # 33 frames at intervals from 3 to 6, spread so that the last is reached.
  assert steps <= {3, 4, 5, 6} and len(steps) > 1


def _cut_off(path):
  """Ends an AVI inside its frames, as a renderer that was stopped does."""
  data = path.read_bytes()
  path.write_bytes(data[: data.index(b"idx1") - 40])


def test_videos_that_are_not_rendered_are_named(tree, data_config):
  first, second, *_ = sorted((tree / "videos").iterdir())
  pathlib.Path(f"{first}.lock").touch()
  _cut_off(second)
  (tree / "videos" / "CATER_new_000002.avi").unlink()
  notes = " ".join(cater_gen.scan(tree).notes)
  assert "1 videos of the lists are not there" in notes
  assert "2 videos were not rendered to their end" in notes and first.name in notes
  data_config.source = "cater_gen"
  with pytest.raises(DataError, match="no split 'train'"):
    pipeline.check(data_config, "train")


def test_a_damaged_video_is_named_and_counted(tree, data_config):
  path = tree / "videos" / "CATER_new_000001.avi"
  data = bytearray(path.read_bytes())
  data[12:400] = bytes(388)  # its headers; the index stays
  path.write_bytes(b"RIFX" + bytes(data[4:]))
  data_config.source = "cater_gen"
  with pytest.raises(DataError, match="1 of 3 cannot be read .*000001.avi"):
    pipeline.check(data_config, "train")
  data_config.max_bad_fraction = 0.4
  assert pipeline.check(data_config, "train") == 2


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ('{"0": {"video": "../x.avi", "caption": ""}}', "entry '0'.*does not lie below"),
    ('{"0": {"video": "/etc/passwd", "caption": ""}}', "does not lie below"),
    ('{"7": {"video": "videos/x.avi"}}', "entry '7': needs a video and a caption"),
    ('{"0": {"video": 5, "caption": ""}}', "both text"),
    ("[]", "is no list"),
    ("{", "cannot be read"),
    ("[" * 100_000, "cannot be read"),
    (json.dumps({"0": {"video": "v.avi", "caption": "x" * 3000}}), "3000 characters"),
  ],
)
def test_lists_are_not_trusted(tree, data_config, text, words):
  (tree / "train_explicit.json").write_text(text)
  data_config.source = "cater_gen"
  with pytest.raises(DataError, match=words) as error:
    pipeline.check(data_config, "test")
  assert "\n" not in str(error.value)


def test_missing_captions_are_named(tree, data_config):
  for split in ("train", "test"):
    (tree / f"{split}_ambiguous.json").unlink()
  data_config.update(source="cater_gen", captions="ambiguous")
  with pytest.raises(DataError, match="no train_ambiguous.json.*data.captions=ambig"):
    pipeline.check(data_config, "train")


def test_doctor_and_flip(tree, capsys):
  assert doctor.main([str(tree)]) == 0
  out = capsys.readouterr().out
  assert "layout  CATER-GEN" in out and "train 3, test 1" in out
  assert "--config.data.source=cater_gen" in out
  (tree / "test_explicit.json").unlink()
  assert doctor.main([str(tree)]) == 0
  assert "problem test_explicit.json is missing" in capsys.readouterr().out
  config = config_lib.defaults()
  config.data.update(source="cater_gen", flip=True)
  with pytest.raises(ConfigError, match="data.flip=True: captions hold coordinates"):
    validation._check_world(config)

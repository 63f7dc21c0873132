# SPDX-License-Identifier: Apache-2.0
"""BAIR on tiny trees: the published TFRecords, cINN's images, and TFDS."""

import os
import pathlib
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from lamd_jax.data import layouts, pipeline, tfrecord
from lamd_jax.data.sources import bair, registry
from lamd_jax.errors import DataError
from lamd_jax.tools import doctor

STEPS = 30


def _varint(n):
  out = bytearray()
  while n > 127:
    out.append(n & 127 | 128)
    n >>= 7
  return bytes([*out, n])


def _field(number, payload):
  return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _example(level, steps=STEPS):
  """A record of the release: frame t of aux1 is level + t, of main 255 less that."""
  entries = b""
  for t in range(steps):
    frame = np.full((64, 64, 3), level + t, np.uint8)
    floats = np.zeros(4, "<f4").tobytes()
    for key, feature in (
      (f"{t}/image_main/encoded", _field(1, _field(1, (255 - frame).tobytes()))),
      (f"{t}/image_aux1/encoded", _field(1, _field(1, frame.tobytes()))),
      (f"{t}/endeffector_pos", _field(2, _field(1, floats[:12]))),
      (f"{t}/action", _field(2, _field(1, floats))),
    ):
      entries += _field(1, _field(1, key.encode()) + _field(2, feature))
  return _field(1, entries)


def _write(path, examples):
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "wb") as file:
    for data in examples:
      length = struct.pack("<Q", len(data))
      for part in (length, data):
        file.write(part + struct.pack("<I", tfrecord.masked(part)))


@pytest.fixture
def release(tmp_path):
  """Three training clips in two files and one test clip, whose file name repeats."""
  root = tmp_path / "data"
  base = root / "softmotion30_44k"
  _write(base / "train" / "traj_0_to_255.tfrecords", [_example(0), _example(50)])
  _write(base / "train" / "traj_256_to_511.tfrecords", [_example(100)])
  _write(base / "test" / "traj_0_to_255.tfrecords", [_example(150)])
  return root


def test_release_gives_clips_of_both_cameras(release, data_config):
  data_config.update(source="bair", frames=16, size=64, sampling="first")
  read = pipeline.clips(data_config, "train", 9, 0)
  assert read.shape == (3, 16, 64, 64, 3)
  level = np.arange(16) + np.array([[0], [50], [100]])
  assert np.array_equal(read[..., 0, 0, 0], level)
  assert pipeline.clips(data_config, "test", 9, 0)[0, -1, 5, 5].tolist() == [165] * 3
  aux1 = pipeline.fingerprint(data_config, "train")
  data_config.camera = "main"
  read = pipeline.clips(data_config, "train", 9, 0)
  assert np.array_equal(read[..., 9, 9, 1], 255 - level)
  assert pipeline.fingerprint(data_config, "train") != aux1


def test_training_clips_start_anywhere_inside_their_record(release, data_config):
  data_config.update(source="bair", frames=17, size=64)
  starts = set()
  with pipeline.loader(data_config, split="train", batch=3, seed=0) as loader:
    for _ in range(60):
      level = next(loader).video[:, :, 0, 0, 0].astype(int)
      assert (np.diff(level, axis=1) == 1).all()
      start = level[:, 0] % 50
      assert start.max() <= STEPS - 17
      starts |= set(start.tolist())
  assert {0, STEPS - 17} <= starts


def test_names_are_folder_file_and_place(release, data_config):
  data_config.source = "bair"
  videos = registry.OPEN["bair"](data_config, "all")
  assert [videos.name(v) for v in range(4)] == [
    "softmotion30_44k/test/traj_0_to_255.tfrecords#0",
    "softmotion30_44k/train/traj_0_to_255.tfrecords#0",
    "softmotion30_44k/train/traj_0_to_255.tfrecords#1",
    "softmotion30_44k/train/traj_256_to_511.tfrecords#0",
  ]
  assert videos.n_frames.tolist() == [STEPS] * 4
  assert any("holds 1 clips, the published one 256" in n for n in bair.scan(release).notes)


@pytest.mark.parametrize(
  ("damage", "words"),
  [
    (lambda data: data[:-5], "record 1 is cut off"),
    (lambda data: data[:400_000] + b"!" + data[400_001:], "record 0: .*checksum"),
  ],
)
def test_a_damaged_file_is_named_and_counted(release, data_config, damage, words):
  path = release / "softmotion30_44k" / "train" / "traj_0_to_255.tfrecords"
  path.write_bytes(damage(path.read_bytes()))
  data_config.update(source="bair", size=64)
  with pytest.raises(DataError, match=f"of . cannot be read .*traj_0_to_255.*{words}"):
    pipeline.check(data_config, "train")
  data_config.max_bad_fraction = 0.7
  assert pipeline.check(data_config, "train") == 1


def test_records_of_another_shape_are_refused(tmp_path, data_config):
  root = tmp_path / "data"
  _write(root / "train" / "traj_0_to_255.tfrecords", [_example(0, steps=29)])
  _write(root / "test" / "traj_0_to_255.tfrecords", [_example(0, steps=31)])
  data_config.source = "bair"
  for split, words in (("train", "has no 29/image_aux1"), ("test", "more than 30 steps")):
    with pytest.raises(DataError, match=words):
      pipeline.check(data_config, split)


def test_folders_of_images(tmp_path, make, data_config, caplog):
  root = tmp_path / "data"
  for folder, count in (("train", 3), ("eval", 1), ("test", 2)):
    for k in range(count):
      make.frames(root / "bair" / folder / "traj_0_to_255" / str(k), 12, stem="")
  (root / "bair" / "train" / "endeffector_positions.csv").write_text("0,0,0\n")
  data_config.source = "bair"
  splits = [item.split for item in bair.scan(root).items]
  assert [splits.count(name) for name in ("train", "val", "test")] == [3, 1, 2]
  data_config.sampling = "first"
  read = pipeline.clips(data_config, "train", 9, 0)
  assert read.shape[0] == 3 and make.numbers(read[0]).tolist() == [0, 1, 2, 3]
  # The same pictures in both splits: the extractor was run on the wrong folder.
  assert "2 files or folders of the test split are in train too" in caplog.text


def test_doctor_names_the_flags(release, capsys):
  assert doctor.main([str(release)]) == 0
  out = capsys.readouterr().out
  assert "BAIR robot pushing, TFRecords" in out and "4: " in out
  assert "--config.data.source=bair" in out and "frames  30 to 30" in out
  os.truncate(release / "softmotion30_44k" / "test" / "traj_0_to_255.tfrecords", 7)
  assert doctor.main([str(release)]) == 0
  out = capsys.readouterr().out
  assert out.count("problem ") == 1 and "record 0 is cut off" in out
  assert layouts.recognise(release).source == "bair"


_PROGRAM = """
import io
import sys
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds
from lamd_jax import config as config_lib
from lamd_jax.data import pipeline

def png(level):  # TFDS itself encodes arrays by TensorFlow
  file = io.BytesIO()
  Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(file, "png")
  file.seek(0)
  return file

# The features of TFDS's own builder, which needs TensorFlow to read the release.
class BairRobotPushingSmall(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version("2.0.0")

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.Sequence({
      "image_main": tfds.features.Image(shape=(64, 64, 3)),
      "image_aux1": tfds.features.Image(shape=(64, 64, 3)),
      "action": tfds.features.Tensor(shape=(4,), dtype=np.float32),
      "endeffector_pos": tfds.features.Tensor(shape=(3,), dtype=np.float32),
    }, length=30))

  def _split_generators(self, manager):
    return {"train": self._examples(3), "test": self._examples(1)}

  def _generate_examples(self):
    pass

  def _examples(self, count):
    for i in range(count):
      yield i, [{
        "image_main": png(200), "image_aux1": png(40 * i + t),
        "action": np.zeros(4, np.float32), "endeffector_pos": np.zeros(3, np.float32),
      } for t in range(30)]

BairRobotPushingSmall(
  data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
config = config_lib.defaults().data
config.update(source="tfds", name="bair_robot_pushing_small", root=sys.argv[1],
              frames=4, stride=2, size=64, num_threads=0, sampling="first")
read = pipeline.clips(config, "train", 9, 0)
assert sorted(read[:, :, 0, 0, 0].tolist()) == [
  [0, 2, 4, 6], [40, 42, 44, 46], [80, 82, 84, 86]], read[:, :, 0, 0, 0]
aux1 = pipeline.fingerprint(config, "train")
config.camera = "main"
assert (pipeline.clips(config, "test", 1, 0) == 200).all()
assert pipeline.fingerprint(config, "train") != aux1
assert "tensorflow" not in sys.modules
print("fine")
"""


def test_tfds_gives_the_chosen_camera(tmp_path):
  program = pathlib.Path(tmp_path) / "program.py"
  program.write_text(textwrap.dedent(_PROGRAM))
  done = subprocess.run(
    [sys.executable, str(program), str(tmp_path / "tfds")], capture_output=True, text=True
  )
  assert done.returncode == 0 and "fine" in done.stdout, done.stderr[-3000:]

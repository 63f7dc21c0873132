# SPDX-License-Identifier: Apache-2.0
"""A TFDS data set built and read without TensorFlow, in a process of its own."""

import subprocess
import sys
import textwrap

_PROGRAM = """
import sys
import numpy as np
import tensorflow_datasets as tfds
from lamd_jax import config as config_lib
from lamd_jax.data import pipeline
from lamd_jax.errors import DataError

data_dir = sys.argv[1]

class TinyClips(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
      "frames": tfds.features.Tensor(shape=(None, 20, 20, 3), dtype=np.uint8),
      "label": tfds.features.ClassLabel(num_classes=3),
    }))

  def _split_generators(self, manager):
    return {"train": self._examples(6), "test": self._examples(2)}

  def _generate_examples(self):
    pass

  def _examples(self, count):
    for i in range(count):
      frames = np.full((5 + i, 20, 20, 3), i, np.uint8)
      frames[:, :, :, 1] = np.arange(5 + i)[:, None, None]
      yield i, {"frames": frames, "label": i % 3}

TinyClips(data_dir=data_dir, file_format="array_record").download_and_prepare()

config = config_lib.defaults().data
config.update(source="tfds", name="tiny_clips", root=data_dir, frames=3, stride=2,
              size=20, num_threads=0)
with pipeline.loader(config, split="train", batch=6, seed=0) as loader:
  batch = next(loader)
videos = batch.video[:, 0, 0, 0, 0]
assert sorted(videos.tolist()) == list(range(6)), videos
assert (batch.label == videos % 3).all()
steps = np.diff(batch.video[:, :, 0, 0, 1].astype(int), axis=1)
assert (steps == 2).all(), steps
assert pipeline.check(config, "test") == 2
for name, split, words in (
  ("tiny_clips", "nosuch", "nosuch"), ("no_such_set", "train", "no_such_set"),
):
  config.name = name
  try:
    pipeline.check(config, split)
  except DataError as error:
    assert words in str(error) and "\\n" not in str(error), error
  else:
    raise AssertionError("no error")
assert "tensorflow" not in sys.modules
print("fine")
"""


def test_tfds_without_tensorflow(tmp_path):
  program = tmp_path / "program.py"
  program.write_text(textwrap.dedent(_PROGRAM))
  done = subprocess.run(
    [sys.executable, str(program), str(tmp_path / "tfds")], capture_output=True, text=True
  )
  assert done.returncode == 0 and "fine" in done.stdout, done.stderr[-3000:]

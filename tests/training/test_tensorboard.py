# SPDX-License-Identifier: Apache-2.0
"""What tensorboard's own reader finds in our event files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.backend.event_processing import event_file_loader

from lamd_jax import media
from lamd_jax.training import tensorboard


def _read(folder):
  reader = event_accumulator.EventAccumulator(str(folder))
  reader.Reload()
  return reader


@pytest.mark.parametrize(
  "data, crc",
  [  # RFC 3720, B.4; the last is the check value of CRC-32C
    (bytes(32), 0x8A9136AA),
    (bytes([255] * 32), 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (b"123456789", 0xE3069283),
  ],
)
def test_crc32c(data, crc):
  assert tensorboard.crc32c(data) == crc


def test_scalars_come_back(tmp_path):
  file = tensorboard.EventFile(tmp_path)
  file.scalars(3, {"loss/a": 1.5, "b": float("nan")})
  file.scalars(300_000_000_000, {"loss/a": -0.25})
  file.close()
  reader = _read(tmp_path)
  found = [(e.step, e.value) for e in reader.Scalars("loss/a")]
  assert found == [(3, 1.5), (300_000_000_000, -0.25)]
  assert np.isnan(reader.Scalars("b")[0].value)
  assert reader.file_version == 2.0


def test_an_animation_comes_back_frame_by_frame(tmp_path):
  frames = np.zeros((5, 8, 12, 3), np.uint8)
  for i in range(5):
    frames[i, :, i] = 255
  gif = media.encode_gif(frames, fps=4)
  file = tensorboard.EventFile(tmp_path)
  file.image(7, "clip", gif, 8, 12)
  file.close()
  event = _read(tmp_path).Images("clip")[0]
  assert (event.step, event.height, event.width) == (7, 8, 12)
  assert event.encoded_image_string == gif
  with Image.open(io.BytesIO(event.encoded_image_string)) as picture:
    assert picture.n_frames == 5


def test_text_comes_back(tmp_path):
  file = tensorboard.EventFile(tmp_path)
  file.text(0, "hparams", "| seed | 0 |")
  file.close()
  reader = _read(tmp_path)
  assert reader.Tensors("hparams")[0].tensor_proto.string_val == [b"| seed | 0 |"]
  assert reader.SummaryMetadata("hparams").plugin_data.plugin_name == "text"


def test_a_resumed_run_replaces_later_steps(tmp_path):
  first = tensorboard.EventFile(tmp_path)
  for step in (1, 2, 3):
    first.scalars(step, {"loss": float(step)})
  first.close()
  second = tensorboard.EventFile(tmp_path)
  second.restart(1)
  second.scalars(2, {"loss": 20.0})
  second.close()
  found = [(e.step, e.value) for e in _read(tmp_path).Scalars("loss")]
  assert found == [(1, 1.0), (2, 20.0)]


def test_a_flipped_byte_is_noticed_by_the_reader(tmp_path):
  file = tensorboard.EventFile(tmp_path)
  file.scalars(1, {"loss": 1.0})
  file.close()
  (path,) = tmp_path.iterdir()
  load = lambda: list(event_file_loader.EventFileLoader(str(path)).Load())
  assert len(load()) == 2
  data = bytearray(path.read_bytes())
  data[-6] ^= 1  # inside the last message
  path.write_bytes(bytes(data))
  assert len(load()) == 1

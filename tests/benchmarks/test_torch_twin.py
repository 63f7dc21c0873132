# SPDX-License-Identifier: Apache-2.0
"""The torch twin computes what the reference implementation computed.

Expected numbers: `tests/fixtures/lvdm`, made with the reference code on small networks.
Without this a benchmark ratio would compare two different functions.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import torch_twin

pytestmark = pytest.mark.slow


def _error(actual, expected: np.ndarray) -> float:
  actual = actual.detach().numpy() if hasattr(actual, "detach") else np.asarray(actual)
  return float(np.abs(actual - expected).max() / max(1.0, np.abs(expected).max()))


def _load(fixtures: pathlib.Path, name: str) -> dict[str, np.ndarray]:
  return dict(np.load(fixtures / "lvdm" / f"{name}.npz"))


def _check_weights(module, data: dict[str, np.ndarray]) -> None:
  """The twin has exactly the published keys and shapes, filled alike."""
  state = {k: v.numpy() for k, v in module.state_dict().items()}
  keys = [str(k) for k in data["keys"]]
  assert set(state) == set(keys)
  assert [list(state[k].shape) for k in keys] == json.loads(str(data["shapes"]))
  sums = np.array([state[k].astype(np.float64).sum() for k in keys])
  np.testing.assert_allclose(sums, data["w_sum"], rtol=1e-6, atol=1e-6)


def _check_gradients(module, data: dict[str, np.ndarray]) -> None:
  grads = {k: p.grad for k, p in module.named_parameters()}
  for key, expected in zip(data["grad_keys"], data["grad_l2"]):
    # Aliases of the published autoencoder name the same tensor without ".conv".
    name = str(key)
    if name not in grads:
      stem, leaf = name.rsplit(".", 1)
      names = (f"{stem}.conv.{leaf}", f"{stem}.convt.{leaf}")
      name = next(n for n in names if n in grads)
    norm = grads[name].double().norm().item()
    assert abs(norm - expected) <= 1e-4 * max(1.0, expected), key


def test_unet(fixtures: pathlib.Path):
  data = _load(fixtures, "lvdm_unet_short_tiny")
  cases = json.loads((fixtures / "lvdm" / "cases.json").read_text())
  case = cases["lvdm_unet_short_tiny"]
  unet = torch_twin.fill(
    torch_twin.UNet(
      case["in_channels"],
      case["channels"],
      tuple(case["channel_mult"]),
      case["res_blocks"],
      tuple(case["attention_downsample"]),
      case["heads"],
      case["temporal_length"],
    )
  )
  _check_weights(unet, data)
  y = unet(torch.from_numpy(data["x"]), torch.from_numpy(data["t"]))
  assert _error(y, data["y"]) <= 1e-4
  loss = (y - torch.from_numpy(data["target"])).abs().mean()
  assert _error(loss, data["l1_loss"]) <= 1e-4
  loss.backward()
  _check_gradients(unet, data)


def test_video_autoencoder(fixtures: pathlib.Path):
  data = _load(fixtures, "lvdm_ae_tiny")
  model = torch_twin.fill(torch_twin.VideoAutoencoder(16, (4, 8, 8), 4))
  _check_weights(model, data)
  x = torch.from_numpy(data["x"])
  mean, log_variance = model.encode(x)
  assert _error(mean, data["mean"]) <= 1e-4
  assert _error(log_variance, data["logvar"]) <= 1e-4
  recon = model.decode(torch.from_numpy(data["z"]))
  assert _error(recon, data["recon"]) <= 1e-4


def test_full_size_parameter_counts():
  # 548,904,580 and 19,446,759: counted in the reference implementation.
  with torch.device("meta"):
    unet = torch_twin.UNet(4, 256, (1, 2, 3, 4), 3, (2, 4, 8), 4, 4)
    autoencoder = torch_twin.VideoAutoencoder(32, (4, 8, 8), 4)
  count = lambda m: sum(p.numel() for p in m.parameters())
  assert count(unet) == 548_904_580
  assert count(autoencoder) == 19_446_759

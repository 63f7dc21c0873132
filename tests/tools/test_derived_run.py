# SPDX-License-Identifier: Apache-2.0
"""A run made of an export: the networks of others become files that runs find."""

from etils import epath
import jax
import numpy as np
import tiny

from lamd_jax import exported
from lamd_jax import loading
from lamd_jax import run_folder
from lamd_jax.interchange import clip_text
from lamd_jax.systems import lvdm
from lamd_jax.tools import derived_run
from lamd_jax.training import checkpoints


def _config():
  """Text-to-video of the published kind: CLIP's tower, and an autoencoder of others."""
  config = tiny.config(
    stages=("diffusion", "distill"), data__tokenizer="clip", data__tokens=8,
    data__vocabulary="merges.txt", model__first_stage="image",
    model__text__encoder="clip", model__text__width=8, model__text__layers=1,
    model__text__heads=2, model__text__weights="tower.safetensors",
    model__denoiser__transformer=True, model__denoiser__scale_shift_norm=False,
    model__autoencoder_weights="vae.safetensors",
  ).copy_and_resolve_references()  # fmt: skip
  config.model.image_autoencoder.update(
    channels=4, channel_mult=(1, 2), res_blocks=1, latent_channels=2, groups=4
  )
  return config.lock()


def test_it_samples_without_the_files_that_the_export_was_made_from(tmp_path):
  config, draw = _config(), np.random.default_rng(0)
  numbers = lambda tree: jax.tree.map(
    lambda x: draw.standard_normal(x.shape).astype(np.float32), tree
  )
  system = lvdm.LVDM(config)
  autoencoder, diffusion = system.stages()[:2]
  generator = {"generator": numbers(autoencoder.init(None)[0]["generator"])}
  scalars = {"latent_shift": np.float32(0.25), "latent_scale": np.float32(2)}
  weights = {
    "autoencoder": {"params": generator, "extras": scalars},
    "diffusion": {"params": numbers(diffusion.init(None)[0]), "extras": {}},
    "clip_text": {"params": numbers(clip_text.shapes(system.text.network))},
    # Of the weights before: not of those that are new.
    "distill": {"params": numbers(system.stages()[-1].init(None)[0]), "extras": {}},
  }
  run, out = epath.Path(tmp_path) / "run", epath.Path(tmp_path) / "out"
  run.mkdir()
  (run / exported.FACTS).write_text("{}")
  (run / "merges.txt").write_text("a b")
  elsewhere = tmp_path / "lpips.safetensors"
  elsewhere.write_bytes(b"")  # named by an absolute path: stays where it is
  config.model.perceptual.weights = str(elsewhere)
  made = weights["diffusion"]
  checkpoints.write_finished(out / "diffusion", made["params"], {}, made["extras"])
  derived_run.write(config, run, out, weights, "diffusion", {"how": "x"}, "how.json")

  stored = run_folder.read(out)
  assert stored.model.perceptual.weights == str(elsewhere)
  assert stored.stages == ("diffusion",) and not stored.model.autoencoder_weights
  found, loaded = loading.gather(stored, out, "ema")
  del weights["distill"]
  assert found.data.vocabulary == str(out / "merges.txt")
  old, new = (
    {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}
    for tree in (weights, loaded)
  )
  assert old.keys() == new.keys()
  for name, value in old.items():
    assert np.asarray(new[name]).tobytes() == np.asarray(value).tobytes(), name

# SPDX-License-Identifier: Apache-2.0
"""Text-to-video through the command, with the small text encoder and with CLIP's."""

import json
import pathlib

import numpy as np
import pytest

import lamd_jax
from lamd_jax import main
from lamd_jax.data import tokenizers
from lamd_jax.errors import ConfigError
from lamd_jax.interchange import clip_text
from lamd_jax.interchange import safetensors_file
from lamd_jax.systems import text as text_lib

import tiny

TESTS = pathlib.Path(__file__).parent
CONFIG = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("tiny", {str(TESTS / "tiny.py")!r})
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

def get_config(variant="demo"):
  return tiny.text_config(train__latent_cache=True, optim__autoencoder__steps=2,
                          optim__diffusion__steps=5)
"""
SAMPLE = ("--mode=sample", "--sample.steps=2", "--sample.n=2")


def _main(*arguments):
  return main.run(["main", *map(str, arguments)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("text")
  (folder / "config.py").write_text(CONFIG)
  workdir = folder / "work"
  assert _main(f"--config={folder / 'config.py'}", f"--workdir={workdir}") == 0
  return workdir


def test_the_text_encoder_is_trained(run):
  model = lamd_jax.load(run, weights="raw")
  stage = model.system.stages()[1]
  start = stage.init(0)[0]["text_encoder"]["tokens"]
  trained = model.weights["diffusion"]["params"]["text_encoder"]["tokens"]
  moved = np.abs(np.asarray(trained) - start).max(axis=1) > 0
  # Behind three layers that begin at zero, hence five steps. Words of the captions
  # were moved, ids that no caption has were not.
  assert moved.any() and not moved.all()


def test_captions_and_guidance_change_samples(run):
  model = lamd_jax.load(run)
  make = lambda text, guidance: model.generate(
    2, text=text, guidance=guidance, steps=2
  )  # fmt: skip
  plain = [make("the cone is rotating.", g)[0].frames for g in (1.0, 1.0, 8.0)]
  np.testing.assert_array_equal(plain[0], plain[1])
  assert not np.array_equal(plain[0], plain[2])
  a, b = make(["the cone is rotating.", "the snitch is sliding to (2, 1)."], 8.0)
  np.testing.assert_array_equal(a.frames, plain[2])
  assert not np.array_equal(b.frames, make("the cone is rotating.", 8.0)[1].frames)


def test_each_prompt_has_a_clip_and_a_lost_end_is_told(run, capsys):
  model = lamd_jax.load(run)
  prompts = ["the cone is rotating.", "the snitch is rotating. " + 20 * "very "]
  clips = model.generate(text=prompts, steps=2)
  said = capsys.readouterr().out
  assert "the first 22 of its 25 tokens" in said and said.count("\n") == 1
  expected = model.generate(2, text=prompts, steps=2)
  frames = lambda made: np.stack([clip.frames for clip in made])
  np.testing.assert_array_equal(frames(clips), frames(expected))
  with pytest.raises(ConfigError, match="n=1: text holds 2; say n=2"):
    model.generate(1, text=prompts, steps=2)


def test_prompts_from_a_file(run, tmp_path, capsys):
  prompts = tmp_path / "prompts.txt"
  prompts.write_text("the cone is rotating.\n\nthe snitch is rotating.\n")
  out = tmp_path / "out"
  assert _main(f"--workdir={run}", *SAMPLE, f"--sample.text={prompts}",
               f"--sample.out={out}") == 0  # fmt: skip
  made = np.load(out / "samples.npz")["arr_0"]
  expected = lamd_jax.load(run).generate(
    2, text=["the cone is rotating.", "the snitch is rotating."], steps=2
  )
  np.testing.assert_array_equal(made, np.stack([c.frames for c in expected]))
  record = json.loads((out / "samples.json").read_text())
  assert record["texts"] == ["the cone is rotating.", "the snitch is rotating."]
  assert _main(f"--workdir={run}", *SAMPLE, "--sample.text=absent.txt") == 2
  prompts.write_text("a\nb\nc\n")
  assert _main(f"--workdir={run}", *SAMPLE, f"--sample.text={prompts}") == 2
  assert "holds 3 prompts; say --sample.n=3" in capsys.readouterr().err


def test_empty_captions_are_those_of_the_tokenizers():
  config = tiny.text_config()
  words = tokenizers.Words(config.data.tokens, config.data.vocabulary_size)
  np.testing.assert_array_equal(text_lib.Text(config, None, "").empty, words.null())
  config = tiny.text_config(
    data__tokenizer="clip", model__text__encoder="clip", data__tokens=77
  )
  # CLIPTokenizer of openai/clip-vit-large-patch14 pads with the end token.
  expected = [49_406, *[49_407] * 76]
  np.testing.assert_array_equal(text_lib.Text(config, None, "").empty, expected)


def test_clip_weights_are_read_from_the_workdir_or_missed(tmp_path, capsys):
  """Absent weights and vocabulary: exit code 4, both named, nothing compiled."""
  (tmp_path / "config.py").write_text(
    CONFIG.replace("steps=5", "steps=5, data__tokenizer='clip',"
                   " model__text__encoder='clip', data__tokens=77")
  )  # fmt: skip
  code = _main(f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'w'}")
  error = capsys.readouterr().err
  assert code == 4 and "model.text.weights" in error and "data.vocabulary" in error


def test_imported_text_tower_is_found_beside_the_run(tmp_path):
  from lamd_jax.modes import imported
  from lamd_jax.nn import initializers
  import jax
  import jax.numpy as jnp

  config = tiny.text_config(
    data__tokenizer="clip", model__text__encoder="clip", data__tokens=77,
    model__text__weights="clip_text.safetensors",
  )  # fmt: skip
  network = text_lib.Text(config, jnp.float32, "").network
  tokens = jax.ShapeDtypeStruct((1, 77), jnp.int32)
  params = initializers.initialize(network, 0, tokens)["params"]
  state = clip_text.to_state(params)
  safetensors_file.write(tmp_path / "clip_text.safetensors", state, {})
  loaded = imported.LOAD["clip_text"](config, tmp_path)["params"]
  jax.tree.map(np.testing.assert_array_equal, params, loaded)

# SPDX-License-Identifier: Apache-2.0
"""A folder of videos is enough: what is chosen for it fits, is said, and stays chosen."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from lamd_jax import command_line
from lamd_jax import config as config_lib
from lamd_jax import main
from lamd_jax import media
from lamd_jax import own_data
from lamd_jax import run_folder
from lamd_jax import validation
from lamd_jax.data import pipeline
from lamd_jax.data.records import Entry
from lamd_jax.data.sources import folder as folder_source
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.modes import evaluate
from lamd_jax.tools import doctor

OWN = str(pathlib.Path(__file__).resolve().parents[1] / "configs" / "own_videos.py")


def _entries(count=200, n_frames=100, fps=25.0, height=240, width=320, caption=""):
  return [
    Entry(f"{i}", f"{i}.mp4", "video", "", -1, caption, n_frames, fps, height, width)
    for i in range(count)
  ]


def _folder(entries, bad=0):
  return own_data.Folder(pathlib.Path("/x"), "folder", "videos", entries, bad, [])


def _choose(entries, *typed, variant="demo", **overrides):
  config = command_line.load_config(f"{OWN}:{variant}")
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
  choice = own_data.choose(_folder(entries), config, typed)
  config.update_from_flattened_dict(choice.values)
  validation.check_config(config, devices=1)  # whatever is chosen can be run
  return config, "\n".join(choice.lines)


def test_two_seconds_of_long_videos():
  config, said = _choose(_entries())
  assert (config.data.size, config.data.frames, config.data.stride) == (32, 16, 3)
  assert not config.data.pad_last and config.model.denoiser.temporal_length == 4
  assert "every third of the file: 1.9 s at 25 frames a second; 200 of 200" in said
  assert "median short side is 240 pixels" in said and "captions none" in said


@pytest.mark.parametrize(
  "n_frames, fps, frames, stride, pad",
  [
    (31, 25.0, 16, 2, False),  # 15 x 2 + 1 = 31 frames are just there
    (30, 25.0, 16, 1, False),
    (15, 25.0, 8, 2, False),
    (6, 25.0, 4, 1, False),
    (3, 25.0, 4, 1, True),
    (100, 8.0, 16, 1, False),
    (400, 100.0, 16, 12, False),
  ],
)
def test_short_videos_give_shorter_clips(n_frames, fps, frames, stride, pad):
  config, _ = _choose(_entries(n_frames=n_frames, fps=fps))
  data = config.data
  assert (data.frames, data.stride, data.pad_last) == (frames, stride, pad)


def test_a_few_short_videos_do_not_rule():
  few = _entries(count=19) + _entries(count=2, n_frames=5)
  assert _choose(few)[0].data.frames == 16  # 19 of 21 are above nine tenths
  many = _entries(count=17) + _entries(count=4, n_frames=5)
  assert _choose(many)[0].data.frames == 4


def test_sizes_need_no_enlarging():
  assert _choose(_entries(height=24))[0].data.size == 16
  assert _choose(_entries(), variant="gpu")[0].data.size == 128
  config, said = _choose(_entries(height=100), variant="gpu")
  assert config.data.size == 64 and "no enlarging" in said


def test_captions_make_it_text_to_video():
  config, said = _choose(_entries(caption="a dog"))
  assert config.model.text.encoder == "small" and config.data.tokenizer == "words"
  assert "captions 200 of 200" in said
  some = _entries(count=50, caption="a dog") + _entries(count=50)
  config, said = _choose(some)
  assert config.model.text.encoder == "none" and "too few to learn from" in said


def test_small_folders_are_cut_into_more_windows():
  assert _choose(_entries(count=1))[0].train.latent_windows == 64
  assert _choose(_entries(count=100))[0].train.latent_windows == 6
  assert _choose(_entries(count=1000))[0].train.latent_windows == 1


def test_no_batch_is_larger_than_the_folder():
  splits = ["train"] * 7 + ["test"] * 3
  ten = [e._replace(split=s) for e, s in zip(_entries(count=10), splits)]
  config, said = _choose(ten, variant="gpu")
  assert config.optim.autoencoder.batch == 7 and "batch 7" in said
  assert _choose(_entries(count=1))[0].optim.autoencoder.batch == 1
  assert _choose(_entries(count=3))[0].optim.autoencoder.batch == 2
  assert "batch" not in _choose(_entries())[1]


def test_too_few_held_out_videos_are_not_scored():
  splits = ["train"] * 184 + ["test"] * 16
  enough = [e._replace(split=s) for e, s in zip(_entries(), splits)]
  assert _choose(enough)[0].train.report
  config, said = _choose(enough[:-1])
  assert not config.train.report and "15 of the videos held out, 16 are needed" in said


def test_scoring_too_few_clips_is_one_line(videos):
  class Model:
    system = None

  config = command_line.load_config(f"{OWN}:demo")
  config.data.update(root=str(videos), frames=4, size=16)
  with pytest.raises(DataError, match="scores need at least 16") as caught:
    evaluate._clips(Model(), config, config_lib.eval_defaults())
  assert "\n" not in str(caught.value)


def test_what_is_typed_stays():
  config, said = _choose(
    _entries(), "data.size", "data.frames", data__size=64, data__frames=8
  )
  assert (config.data.size, config.data.frames) == (64, 8)
  assert config.data.stride == 6  # two seconds of eight frames
  assert config.model.denoiser.temporal_length == 2
  assert "as typed: data.frames, data.size" in said


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  """Three captioned videos of 40 frames, 24x32, one folder deeper; a broken one."""
  root = tmp_path_factory.mktemp("own data #1")
  for i in range(3):
    clip = np.random.default_rng(i).integers(0, 256, (40, 24, 32, 3), np.uint8)
    media.write_mp4(root / "holiday" / f"{i}.mp4", clip, 24.0)
  (root / "holiday" / "broken.mp4").write_bytes(b"no video")
  (root / "holiday" / "0.txt").write_text("a red\n dog ")
  (root / "holiday" / "1.json").write_text(json.dumps({"caption": "a cat"}))
  (root / "captions.json").write_text(json.dumps({"holiday/2.mp4": "a <b>bird"}))
  return root


def test_captions_beside_videos_and_in_a_list(videos):
  listing = folder_source.scan(videos)
  found = {item.path: item.caption for item in listing.items}
  assert found == {
    "holiday/0.mp4": "a red dog", "holiday/1.mp4": "a cat",
    "holiday/2.mp4": "a <b>bird", "holiday/broken.mp4": "",
  }  # fmt: skip
  assert listing.notes == [
    "1 captions from captions.json", "1 captions from json", "1 captions from txt"
  ]


def test_caption_files_that_cannot_be_read_are_named(tmp_path):
  for name in ("a", "b", "c"):
    (tmp_path / f"{name}.mp4").write_bytes(b"x")
  (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
  (tmp_path / "b.json").write_text('{"other": 1}')
  (tmp_path / "captions.json").write_text('["no map"]')
  (tmp_path / "c.txt").write_text("good")
  listing = folder_source.scan(tmp_path)
  assert [item.caption for item in listing.items] == ["", "", "good"]
  assert "3 caption files cannot be read: captions.json, a.txt, b.json" in listing.notes


def _resolve(videos, workdir, *more):
  return main.resolve(command_line.parse([
    f"--config={OWN}", f"--config.data.root={videos}", f"--workdir={workdir}", *more
  ]))  # fmt: skip


def test_one_command_and_no_config_file(videos, tmp_path, capsys):
  config = _resolve(videos, tmp_path / "run").config
  out = capsys.readouterr().out
  assert "own data folder of video files, 3 videos, 1 more cannot be read" in out
  assert "captions 3 of 3" in out
  # 40 frames at 24 a second: 15 x 2 + 1 fit, 15 x 3 + 1 do not.
  assert (config.data.size, config.data.frames, config.data.stride) == (16, 16, 2)
  assert not config.data.choose
  clips = pipeline.clips(config.data, "train", 2, 0)
  assert clips.shape == (2, 16, 16, 16, 3)


def test_each_folder_has_a_run_of_its_own(videos, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  line = command_line.parse([f"--config={OWN}", f"--config.data.root={videos}"])
  request = main.resolve(line)
  assert request.workdir.name == f"own_videos-demo-{videos.name}"
  # Named by where one stands, it is the same folder from anywhere.
  monkeypatch.chdir(videos)
  arguments = [f"--config={OWN}", "--config.data.root=."]
  here = main.resolve(command_line.parse(arguments))
  assert here.workdir.name == f"own_videos-demo-{videos.name}"
  assert here.config.data.root == str(videos)
  monkeypatch.chdir(tmp_path)
  # Another folder of this name does not go on with that run; a moved one does.
  run_folder.write(request.workdir, request.config)
  other = tmp_path / "elsewhere" / videos.name
  shutil.copytree(videos, other)
  line = command_line.parse([f"--config={OWN}", f"--config.data.root={other}"])
  with pytest.raises(ConfigError, match="still there; name another --workdir"):
    main.resolve(line)
  moved = request.config.copy_and_resolve_references()
  moved.data.root = str(tmp_path / "gone")
  run_folder.write(request.workdir, moved)
  assert main.resolve(line).config.data.root == str(other)


def test_a_run_keeps_its_choice_when_videos_come(videos, tmp_path, capsys):
  first = _resolve(videos, tmp_path / "run")
  run_folder.write(first.workdir, first.config)
  media.write_mp4(videos / "new.mp4", np.zeros((200, 64, 64, 3), np.uint8), 24.0)
  try:
    again = _resolve(videos, tmp_path / "run")
  finally:
    (videos / "new.mp4").unlink()
  assert again.config.to_dict() == first.config.to_dict()
  assert "as chosen when this run was begun" in capsys.readouterr().out


@pytest.mark.parametrize("root, words", [
  ("", "say --config.data.root=DIR"), ("/nowhere", "no such folder"),
])  # fmt: skip
def test_without_videos_it_is_one_line_and_exit_3(tmp_path, capsys, root, words):
  arguments = ["main", f"--config={OWN}", f"--config.data.root={root}", "--dry_run"]
  assert main.run([*arguments, f"--workdir={tmp_path / 'run'}"]) == 3
  assert words in capsys.readouterr().err
  arguments[2] = f"--config.data.root={tmp_path}"
  assert main.run([*arguments, f"--workdir={tmp_path / 'run'}"]) == 3
  error = capsys.readouterr().err
  assert "no video and no folder of pictures" in error and error.count("\n") == 1


def test_the_doctor_advises_in_words(videos, capsys):
  assert doctor.main([str(videos)]) == 0
  out = capsys.readouterr().out
  assert "advice  3 videos are few" in out and "without 25 % of it" in out
  assert "configs/own_videos.py '--config.data.root=" in out
  speeds = _folder(_entries(count=150, fps=8.0) + _entries(count=150, fps=30.0))
  config = command_line.load_config(f"{OWN}:demo")
  said = "\n".join(own_data.advice(speeds, config))
  assert "from 8 to 30 frames a second" in said and "put a caption beside" in said
  assert "are few" not in said


def test_a_bucket_has_no_other_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert run_folder.absolute("gs://bucket/tfds") == "gs://bucket/tfds"
  assert run_folder.absolute("a/../b") == str(tmp_path / "b")
  assert run_folder.absolute("") == ""

# SPDX-License-Identifier: Apache-2.0
"""Gen-1 through the command: edits of any length, masks, starts, subjects, refusals."""

import contextlib
import io
import json
import os
import signal

import av
from etils import epath
import jax
import numpy as np
from PIL import Image
import pytest
import tiny

import lamd_jax
from lamd_jax import config as config_lib
from lamd_jax import editing
from lamd_jax import main
from lamd_jax import media
from lamd_jax import run_folder
from lamd_jax import sample_checks
from lamd_jax import validation
from lamd_jax.data import pipeline
from lamd_jax.errors import ConfigError
from lamd_jax.modes import edit
from lamd_jax.systems import gen1
from lamd_jax.systems import gen1_customise
from lamd_jax.systems import gen1_edit
from lamd_jax.systems import sampling
from lamd_jax.tools import customise
from lamd_jax.training import checkpoints

# Three stages are what an edit needs least; pictures say the content then.
STAGES = ("autoencoder", "content", "structure_levels")
HEIGHT, WIDTH, FRAMES = 20, 38, 7  # edited at 16x32, in windows of 4
SAMPLE = ("--mode=sample", "--sample.steps=2", "--sample.structure_level=1")


def _main(*arguments):
  return main.run(["main", *map(str, arguments)])


def _shaken(tree, generator):
  """Parameters that nothing is zero of, so that all of the network takes part."""
  return jax.tree.map(
    lambda x: x + 0.1 * generator.standard_normal(x.shape).astype(np.float32), tree
  )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run whose stages were drawn and not trained, which is enough here."""
  workdir = epath.Path(tmp_path_factory.mktemp("gen1"))
  config = tiny.gen1_config(stages=STAGES, train__mesh="one", data__num_videos=8)
  generator = np.random.default_rng(0)
  for stage in gen1.Gen1(config).stages():
    if stage.name in STAGES:
      params, extras = stage.init(0)
      params = {group: _shaken(tree, generator) for group, tree in params.items()}
      checkpoints.write_finished(workdir / stage.name, params, {}, extras)
  run_folder.write(workdir, config)
  return workdir


@pytest.fixture(scope="module")
def model(run):
  return lamd_jax.load(run)


def _clip(count=FRAMES):
  """A bright square that moves to the right over a dim ramp."""
  video = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8)
  video[:] = (40 + 2 * np.arange(WIDTH))[None, None, :, None]
  for t in range(count):
    video[t, 6:14, 4 + 3 * t : 12 + 3 * t] = (220, 80, 30)
  return video


def _with_sound(path, frames):
  """An mp4 at 12.5 frames a second with a tone."""
  with av.open(str(path), "w") as container:
    video = container.add_stream("libx264", rate=media.rate(12.5))
    video.height, video.width = frames.shape[1:3]
    video.pix_fmt = "yuv420p"
    video.options = {"crf": "4"}
    sound = container.add_stream("aac", rate=16_000, layout="mono")
    for frame in frames:
      container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(video.encode())
    tone = np.sin(np.arange(8192) / 9)[None].astype(np.float32)
    audio = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
    audio.sample_rate, audio.pts = 16_000, 0
    for packet in [*sound.encode(audio), *sound.encode()]:
      container.mux(packet)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  """A folder with a video, its depth, a mask and a picture."""
  folder = tmp_path_factory.mktemp("inputs")
  clip = _clip()
  _with_sound(folder / "in.mp4", clip)
  grey = np.where(clip.max(-1, keepdims=True) > 150, 200, 60).astype(np.uint8)
  media.write_mp4(folder / "depth.mp4", np.repeat(grey, 3, -1), 12.5)
  mask = np.zeros((HEIGHT, WIDTH), np.uint8)
  mask[:, : WIDTH // 2] = 255
  Image.fromarray(mask).save(folder / "mask.png")
  rng = np.random.default_rng(0)
  Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / "look.png")
  return folder


def _knobs(inputs, **more):
  return dict(image=inputs / "look.png", depth=inputs / "depth.mp4", steps=2,
              structure_level=1, **more)  # fmt: skip


def _edit(run, inputs, out):
  return _main(
    f"--workdir={run}", *SAMPLE, f"--sample.video={inputs / 'in.mp4'}",
    f"--sample.depth={inputs / 'depth.mp4'}", f"--sample.image={inputs / 'look.png'}",
    f"--sample.out={out}",
  )  # fmt: skip


@pytest.fixture(scope="module")
def edited(run, inputs, tmp_path_factory):
  """The folder of an edit, and what was said of it."""
  out, said = tmp_path_factory.mktemp("edited") / "out", io.StringIO()
  with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    assert _edit(run, inputs, out) == 0
  return out, said.getvalue()


def test_an_edited_video_keeps_size_times_and_sound(edited, model, inputs):
  out, said = edited
  assert "38x20 is edited at 32x16" in said and "7/7 frames" in said
  assert {path.name for path in out.iterdir()} == {
    "edited.mp4", "side_by_side.mp4", "index.html", "samples.json", "journal.json",
    "segments", "latents",
  }  # fmt: skip
  with av.open(str(out / "edited.mp4")) as made:
    assert made.streams.video[0].average_rate == media.rate(12.5)
    assert made.streams.audio[0].codec_context.name == "aac"
  video, _ = media.read_video(out / "edited.mp4")
  same = model.edit(inputs / "in.mp4", **_knobs(inputs))
  assert video.shape == same.frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
  # H.264, whose colours are coarser, lies between.
  bright = lambda frames: frames.mean(-1).ravel()
  assert np.corrcoef(bright(video), bright(same.frames))[0, 1] > 0.9
  beside, _ = media.read_video(out / "side_by_side.mp4")
  assert beside.shape == (FRAMES, HEIGHT, 3 * WIDTH, 3)
  depth = beside[:, :, WIDTH : 2 * WIDTH]
  assert depth[3, 10, 17].min() > 200 and depth[3, 2, 30].max() < 40  # square, ground
  page = (out / "index.html").read_text()
  assert "side_by_side.mp4" in page and "input, depth, output" in page
  record = json.loads((out / "samples.json").read_text())
  assert record["sample"]["structure_level"] == 1
  begun = json.loads((out / "journal.json").read_text())["settings"]
  assert set(begun["weights_of"]) == set(STAGES)


def _hashes(folder):
  units = json.loads((folder / "journal.json").read_text())["units"]
  return [(unit["frames"], unit["frames_sha256"]) for unit in units]


def test_a_broken_off_edit_continues_to_the_same_frames(
  run, model, edited, inputs, tmp_path, capsys, monkeypatch
):
  whole, broken = edited[0], tmp_path / "broken"
  sample = config_lib.sample_defaults()
  sample.update(
    steps=2, structure_level=1, out=str(broken), image=str(inputs / "look.png"),
    video=str(inputs / "in.mp4"), depth=str(inputs / "depth.mp4"),
  )  # fmt: skip

  def again():
    return edit.run(model, model.config, run, sample, [""])
  unit, made = editing.Edit.unit, []

  def breaks(self, k, carry):
    made.append(k)
    if made == [0, 1]:
      os.kill(os.getpid(), signal.SIGTERM)  # the window is finished
    if made == [0, 1, 2]:
      raise OSError("the machine went away")  # this one is lost
    return unit(self, k, carry)

  monkeypatch.setattr(editing.Edit, "unit", breaks)
  before = signal.getsignal(signal.SIGTERM)
  assert again() == 75
  assert not (broken / "edited.mp4").exists()
  with pytest.raises(OSError, match="went away"):
    again()
  assert len(_hashes(broken)) == 2
  assert again() == 0
  signal.signal(signal.SIGTERM, before)
  assert made == [0, 1, 2, 2] and "continues after frame 3 of 7" in capsys.readouterr().out
  assert _hashes(broken) == _hashes(whole) and len(_hashes(whole)) == 3
  ours, theirs = (media.read_video(f / "edited.mp4")[0] for f in (broken, whole))
  assert ours.shape == theirs.shape and abs(ours.astype(int) - theirs).mean() < 2
  # What is finished stays, other settings go elsewhere.
  assert again() == 0 and made == [0, 1, 2, 2]
  assert "7 frames, finished before" in capsys.readouterr().out
  sample.seed = 1
  with pytest.raises(ConfigError, match="seed=1: the stream in"):
    again()


def test_windows_tell_the_callback_their_number(model, inputs, monkeypatch):
  """A stand-in for the chain asks as it would; the slow test below has the true one."""
  heard = []
  tell = lambda step, steps, states: heard.append((states.unit, step, steps, states[0]))
  planned = model.plan_edit(_clip(), callback=tell, **_knobs(inputs))

  def chain(weights, root, embedding, window, settings):
    for position in (9.0, 4.0, 4.0):  # Heun asks twice
      settings.sampler.watch(position, window.number)
    return window.known

  monkeypatch.setattr(model._edits, "edit", chain)
  carry = {}
  for k in range(planned.units):
    _, carry = planned.unit(k, carry)
  starts = (0, 2, 3)
  expected = [(k, step, 2) for k in range(3) for step in (0, 1)]
  assert [row[:3] for row in heard] == expected
  assert [row[3][0] for row in heard] == [start for start in starts for _ in (0, 1)]


@pytest.mark.slow
def test_callbacks_hear_every_window_and_change_nothing(model, inputs):
  heard = []
  tell = lambda step, steps, states: heard.append((states.unit, step, steps))
  watched = model.edit(_clip(), callback=tell, **_knobs(inputs)).frames
  np.testing.assert_array_equal(watched, model.edit(_clip(), **_knobs(inputs)).frames)
  assert heard == [(unit, step, 2) for unit in range(3) for step in range(2)]

  def stop(step, steps, states):
    if states.unit == 1:
      raise KeyboardInterrupt("enough")

  planned = model.plan_edit(_clip(), callback=stop, **_knobs(inputs))
  with pytest.raises(KeyboardInterrupt, match="enough"):
    list(planned.edited(lambda *_: None))


def test_an_edit_that_starts_from_the_input_tells_of_the_steps_it_has(model):
  chain = gen1_edit.EditSettings(
    sampling.SamplerSettings("ddim", 10, 0.0, "trailing", 1.0, 1.0), "input", 0.35
  )
  places = gen1_edit.grid(model.system, chain)
  top = 0.35 * (model.system.process.schedule.steps - 1)
  assert places[0] == top and len(places) - 1 < 10 and places[-1] == -1


def test_windows_go_on_from_each_other(model, inputs):
  """The first window of a long video is the short video; the next one is held to it."""
  knobs = _knobs(inputs) | {"depth": np.ones((FRAMES, 4, 4))}
  long = model.edit(_clip(), **knobs).frames
  short = model.edit(_clip()[:4], **knobs | {"depth": np.ones((4, 4, 4))}).frames
  np.testing.assert_array_equal(long[:2], short[:2])  # before the first seam
  # Frames 4 to 6 alone begin from nothing: those of the long video know what was.
  alone = model.edit(_clip()[3:], **knobs | {"depth": np.ones((4, 4, 4))}).frames
  assert abs(long[4:].astype(int) - alone[1:]).max() > 0
  # What is held lies near what it is held to, far from another draw of the same frame.
  apart = lambda a, b: abs(a.astype(int) - b).mean()
  other = model.edit(_clip()[:4], **knobs | {"depth": np.ones((4, 4, 4)), "seed": 1})
  assert apart(long[2:4], short[2:4]) < 0.5 * apart(other.frames[2:4], short[2:4])


def test_outside_the_mask_nothing_changes(model, inputs):
  clip, half = _clip(), WIDTH // 2
  made = model.edit(clip, mask=inputs / "mask.png", **_knobs(inputs)).frames
  np.testing.assert_array_equal(made[:, :, half:], clip[:, :, half:])
  assert abs(made[:, :, :half].astype(int) - clip[:, :, :half]).mean() > 1
  # An array masks as its file does; a mask of nothing returns the video.
  array = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
  nothing = model.edit(clip, mask=array, **_knobs(inputs)).frames
  np.testing.assert_array_equal(nothing, clip)
  array[:, :, :half] = True
  again = model.edit(clip, mask=array, **_knobs(inputs)).frames
  np.testing.assert_array_equal(again, made)


@pytest.mark.parametrize(
  "start", ["input", pytest.param("inverted", marks=pytest.mark.slow)]
)
def test_a_weaker_start_stays_nearer_to_the_input(model, inputs, start):
  clip = _clip(4)
  knobs = _knobs(inputs) | {"depth": np.ones((4, 4, 4)), "start": start}
  there_and_back = model.reconstruct(
    np.asarray([[Image.fromarray(f).resize((32, 16)) for f in clip]], np.uint8)
  )[0]
  far = []
  for strength in (0.02, 1.0):
    made = model.edit(clip, **knobs, strength=strength).frames
    small = np.stack([Image.fromarray(f).resize((32, 16)) for f in made])
    far.append(abs(small.astype(int) - there_and_back).mean())
  assert far[0] < 0.5 * far[1]


def test_objects_of_held_out_clips_are_masks(run, model, tmp_path):
  code = _main(
    f"--workdir={run}", "--mode=sample", "--sample.n=2", "--sample.steps=2",
    "--sample.mask=instance:1", f"--sample.out={tmp_path}",
  )  # fmt: skip
  assert code == 0
  made = np.load(tmp_path / "samples.npz")["arr_0"]
  data = model.config.data
  clips = pipeline.clips(data, "test", 2, 0)
  inside = pipeline.instances(data, "test", 2, 0) == 1
  outside = np.broadcast_to(~inside, clips.shape)
  np.testing.assert_array_equal(made[outside], clips[outside])
  assert abs(made.astype(int) - clips)[~outside].mean() > 1
  page = (tmp_path / "index.html").read_text()
  for kind in ("input", "depth", "output"):  # side by side
    assert f"{kind}_001.mp4" in page and (tmp_path / f"{kind}_001.mp4").is_file()


@pytest.fixture(scope="module")
def bad(tmp_path_factory, inputs):
  """A folder with a video of one frame, a sound, and a mask of another length."""
  folder = tmp_path_factory.mktemp("bad")
  media.write_mp4(folder / "one.mp4", _clip(1), 8)
  media.write_mp4(folder / "long.mp4", _clip(9), 8)
  with av.open(str(folder / "sound.mp4"), "w") as container:
    sound = container.add_stream("aac", rate=16_000, layout="mono")
    tone = np.zeros((1, 8192), np.float32)
    audio = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
    audio.sample_rate, audio.pts = 16_000, 0
    for packet in [*sound.encode(audio), *sound.encode()]:
      container.mux(packet)
  return folder


@pytest.mark.parametrize(
  "changes, code, message",
  [
    ({"video": "{bad}/absent.mp4"}, 3, "no such file"),
    ({"video": "{bad}/sound.mp4"}, 3, "no video stream"),
    ({"video": "{bad}/one.mp4"}, 3, "one frame"),
    ({"mask": "{bad}/long.mp4"}, 3, "9 frames, the video has 7"),
    ({"mask": "instance:1"}, 2, "held-out clips"),
    ({"depth": ""}, 2, "depth is missing"),
    ({"depth": "{bad}/long.mp4"}, 3, "9 frames, the video has 7"),
    ({"depth": "{bad}/absent.safetensors"}, 4, "lamd_jax.tools.convert depth"),
    ({"image": ""}, 2, "say what it shall look like"),
    ({"image": "", "text": "a red cone"}, 2, "trains no prior"),
    ({"strength": "0.5"}, 2, "--sample.start=input"),
    ({"strength": "0"}, 2, "must lie between"),
    ({"shared": "4"}, 2, "share at most 3"),
    ({"frames": "65"}, 2, "at most 64"),
    ({"fps": "8"}, 2, "keeps its times"),
    ({"n": "2"}, 2, "once a command"),
    ({"formats": "gif"}, 2, "written as mp4"),
    ({"out": "{bad}/one.mp4/o"}, 2, "cannot be written"),
    ({"video": "", "depth": ""}, 2, "instance:K"),
    ({"video": "", "mask": ""}, 2, "held-out clips have their own"),
  ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
  run, inputs, bad, tmp_path, capsys, changes, code, message
):
  asked = {
    "video": f"{inputs}/in.mp4", "depth": f"{inputs}/depth.mp4",
    "image": f"{inputs}/look.png", "mask": f"{inputs}/mask.png",
  } | {key: value.format(bad=bad) for key, value in changes.items()}  # fmt: skip
  asked = {"out": tmp_path / "o"} | asked
  flags = [f"--sample.{key}={value}" for key, value in asked.items()]
  assert _main(f"--workdir={run}", *SAMPLE, *flags) == code
  error = capsys.readouterr().err.strip()
  assert message in error and "\n" not in error
  assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
  "more, message",
  [({"text": None}, "text=None: give a caption"), ({"n": 2}, "n=2: .* once a call")],
)
def test_python_refuses_in_one_line(model, inputs, more, message):
  with pytest.raises(ConfigError, match=message) as caught:
    model.edit(_clip(), **_knobs(inputs) | more)
  assert "\n" not in str(caught.value)


def test_the_first_stage_alone_can_be_trained():
  config = tiny.gen1_config(stages=("autoencoder",))
  sample_checks.check_sample(config_lib.sample_defaults(), config)


def test_an_edit_that_breaks_at_once_leaves_nothing(
  run, inputs, tmp_path, monkeypatch
):
  def broken(self, k, carry):
    raise KeyboardInterrupt

  monkeypatch.setattr(editing.Edit, "unit", broken)
  assert _edit(run, inputs, tmp_path / "o") == 130
  assert not (tmp_path / "o").exists()


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
  """Three pictures and their depth."""
  folder = tmp_path_factory.mktemp("subject")
  generator = np.random.default_rng(1)
  for name in ("images", "depth"):
    (folder / name).mkdir()
    for i in range(3):
      pixels = generator.integers(0, 256, (20, 18, 3), np.uint8)
      Image.fromarray(pixels).save(folder / name / f"{i}.png")
  return folder


def _customise(run, subject, out, *more):
  return customise.main([
    f"--workdir={run}", f"--images={subject / 'images'}", f"--out={out}", "--steps=2",
    "--batch=2", "--learning_rate=0.1", *more,
  ])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", ["lora", "spatial", "full"])
def test_a_subject_changes_what_it_is_to(run, model, subject, tmp_path, how):
  out = tmp_path / "out"
  options = (f"--depth={subject / 'depth'}", f"--how={how}")
  assert _customise(run, subject, out, *options) == 0
  made = lamd_jax.load(out)
  assert set(made.weights) == set(model.weights)
  name = model.system.diffuser
  flat = lambda m: {
    jax.tree_util.keystr(path): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(m.weights[name])
  }
  old, new = flat(model), flat(made)
  assert old.keys() == new.keys()
  changed = {key for key in old if not np.array_equal(old[key], new[key])}
  assert any("cross_attention" in key for key in changed)
  assert any("['temporal']" in key for key in changed) == (how == "full")
  attention = ("self_attention']", "cross_attention']")
  outside = {key for key in changed if not any(word in key for word in attention)}
  assert bool(outside) == (how != "lora")
  assert _customise(run, subject, out, *options) == 2  # it is there already


def test_pictures_take_turns_with_clips(model, subject):
  """Half of a batch of pictures is the subject's; a batch of clips is as it was."""
  stage = gen1_customise.CustomStage(model.system, "full", 4)
  data = model.config.data
  pictures = np.full((3, 16, 16, 3), 7, np.uint8)
  with pipeline.loader(data, split="train", batch=4, seed=0) as own:
    loader = customise.Subject(own, stage, pictures, pictures[..., :1], 4, 0)
    stills, clips = (next(iter(loader)) for _ in range(2))
  assert (stage.variant_at(0), stage.variant_at(1)) == ("image", "video")
  assert (stills.video[:2] == 7).all() and (stills.depth[:2] == 7).all()
  assert stills.video[2:].std() > 0 and not (clips.video[:2] == 7).all()


@pytest.mark.parametrize(
  "options, code, message",
  [
    ([], 2, "--depth: is missing"),
    (["--images=absent"], 3, "no such folder"),
    (["--depth=absent"], 3, "holds no picture 0"),
    (["--batch=3"], 2, "make it even"),
    (["--steps=0"], 2, "must lie between"),
    (["--workdir=absent"], 2, "holds no run of gen1"),
  ],
)
def test_customising_refuses_in_one_line(
  run, subject, tmp_path, capsys, options, code, message
):
  assert _customise(run, subject, tmp_path / "out", *options) == code
  error = capsys.readouterr().err.strip()
  assert message in error and "\n" not in error and not (tmp_path / "out").exists()


def test_customising_goes_on_with_what_it_was_begun_with(run, subject, tmp_path, capsys):
  note = tmp_path / "out" / customise.TRAINING / customise.RECORD
  note.parent.mkdir(parents=True)
  note.write_text('{"how": "full"}')
  assert _customise(run, subject, tmp_path / "out", "--how=lora") == 2
  assert "was begun with" in capsys.readouterr().err


def test_heads_divide_the_priors_width():
  config = tiny.gen1_config(model__prior__kind="diffusion", model__prior__heads=3)
  with pytest.raises(ConfigError, match="model.prior.heads=3: must divide .*width=8"):
    validation.check_config(config, 1)

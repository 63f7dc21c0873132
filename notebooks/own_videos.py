# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train on a folder of your own videos
#
# Name a folder; size and length of the clips, and whether captions are learnt, are
# chosen from what it holds, and explained. `quickstart.ipynb` explains what is not
# explained here.

# %%
# SPDX-License-Identifier: Apache-2.0
# The package at a fixed version; inside a checkout of it nothing is installed.
import os
import pathlib
import shutil
import subprocess
import sys

ADDRESS = "https://github.com/OWNER/lamd_jax"  # OWNER: not public yet, put yours in
TAG = "v0.1.0"


def is_checkout(folder):
  return (folder / "setup.py").is_file() and (folder / "lamd_jax" / "main.py").is_file()


def python(*arguments, **environment):
  """Runs `python ...` as a terminal would, shows what it says, stops if it fails."""
  print("$ python", *arguments, flush=True)
  with subprocess.Popen(
    [sys.executable, *map(str, arguments)], stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment},
  ) as process:
    for line in process.stdout:
      print(line, end="", flush=True)
  if process.returncode:
    raise RuntimeError(f"exit code {process.returncode}: see the lines above")


here = pathlib.Path.cwd()
folders = (here, *here.parents, here / "lamd_jax")
checkout = next(filter(is_checkout, folders), None)
if checkout is not None:
  print("inside a checkout: nothing is installed; what is missing comes with"
        " pip install -e .")  # fmt: skip
elif "OWNER" in ADDRESS:
  raise RuntimeError("ADDRESS names no owner yet: put it in, or start in a checkout")
else:
  checkout = here / "lamd_jax"
  subprocess.run(
    ["git", "clone", "--quiet", "--depth=1", f"--branch={TAG}", ADDRESS, checkout],
    check=True,
  )
  has_tpu = any(map(os.path.exists, ("/dev/accel0", "/dev/vfio/0")))
  extra = "[cuda]" if shutil.which("nvidia-smi") else "[tpu]" if has_tpu else ""
  python("-m", "pip", "install", "--quiet", "-e", f"{checkout}{extra}")
os.chdir(checkout)  # where configs/ lies
sys.path.insert(0, str(checkout))  # a running Python does not see new installs
if shutil.which("nvidia-smi"):  # this notebook and a command share the GPU
  os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".45")
# Asked in a process of its own: a TPU belongs to the first process that takes it.
python("-c", "import jax; print('devices:', jax.devices())")

# %% [markdown]
# ## Settings
#
# `configs/own_videos.py` in its demo variant: 32x32 pixels and the networks of the
# quickstart, so minutes on a laptop (not timed in one piece), with the same steps below
# that the quickstart has.

# %%
CONFIG = "configs/own_videos.py"
FLAGS = []
SAMPLE = dict(steps=20)
COUNT, FRAMES = 40, 60  # of the videos that stand in for yours

# %%
import tempfile

# LAMD_NOTEBOOK_FAST=1 in the environment tries the code out: tiny networks, a few
# steps, clips of noise, nothing kept. Leave it unset to see something.
FAST = os.environ.get("LAMD_NOTEBOOK_FAST") == "1"
RUNS = pathlib.Path(tempfile.mkdtemp()) if FAST else pathlib.Path("runs/notebooks")
if FAST:
  FLAGS = """
    --config.data.size=16 --config.data.frames=4
    --config.model.autoencoder.channels=4 --config.model.autoencoder.groups=4
    --config.model.autoencoder.downsample=2,4,4
    --config.model.denoiser.channels=32 --config.model.denoiser.channel_mult=1,
    --config.model.denoiser.attention_downsample=1,
    --config.model.denoiser.temporal_length=2
    --config.optim.autoencoder.steps=2 --config.optim.autoencoder.warmup=0
    --config.optim.autoencoder.optimizer=adamw
    --config.optim.diffusion.steps=2 --config.optim.diffusion.warmup=0
    --config.optim.diffusion.optimizer=adamw --config.train.latent_windows=2
    --config.train.latent_samples=8 --config.train.preview_every=0
  """.split()
  SAMPLE = dict(steps=2)
  COUNT, FRAMES = 8, 24

RUN = RUNS / "own_videos"

# %% [markdown]
# ## Your folder
#
# **The one line to change.** mp4, avi, webm, mkv, mov or gif of any size and rate, at
# any depth. On Colab drag files into the panel at the left, or mount Drive: `from
# google.colab import drive; drive.mount("/content/drive")`.

# %%
VIDEOS = None  # for instance "/content/drive/MyDrive/videos"

# %% [markdown]
# If it stays `None`, some small skies are written into a folder, to have something to
# train on.

# %%
import lamd_jax
from lamd_jax import command_line
from lamd_jax.data import pipeline

if VIDEOS is None:
  VIDEOS = RUNS / "videos"
  world = command_line.load_config("configs/lvdm_sky.py:demo").data
  world.update(frames=FRAMES, size=48, num_videos=COUNT)
  for i, frames in enumerate(pipeline.clips(world, "train", COUNT, seed=0)):
    lamd_jax.Clip(frames, 24.0).save(VIDEOS / f"sky_{i:03d}.mp4")
some = sorted(pathlib.Path(VIDEOS).rglob("*.mp4"))[:1]
for path in some:
  lamd_jax.Clip.open(path).show()

# %% [markdown]
# ## A look first
#
# The doctor decodes every file once, names those that are broken or too short, and
# says what it would do.

# %%
python("-m", "lamd_jax.tools.doctor", VIDEOS)

# %% [markdown]
# ## Train
#
# The first lines say what was chosen and why; whatever you type beside it stays as
# you typed it, `--config.data.size=64` for instance, which takes about four times as
# long. After a break run the cell again.

# %%
data = f"--config.data.root={VIDEOS}"
python("-m", "lamd_jax.main", f"--config={CONFIG}", f"--workdir={RUN}", data, *FLAGS)

# %% [markdown]
# ## Sample
#
# Expect what a few minutes give: colours and large shapes of your videos, softly.
# From a few dozen videos the model remembers rather than invents; some hundred of one
# kind of scene are a start. There is no score where fewer than 16 videos are held
# out.

# %%
model = lamd_jax.load(RUN)
real = pipeline.clips(model.config.data, "train", 4, seed=0)
print("training clips")
lamd_jax.tile([lamd_jax.Clip(frames, model.fps) for frames in real]).show()
print("generated")
clips = model.generate(4, seed=0, progress=True, **SAMPLE)
lamd_jax.tile(clips).show()
clips[0].save(RUN / "first.mp4")

# %% [markdown]
# ## Further
#
# Captions: `clip.txt` beside `clip.mp4`, or a csv with columns `path,text`. If nine
# of ten videos have one the model learns to follow text, and
# `model.generate(text="...")` works.
#
# On a GPU: `configs/own_videos.py:gpu`, up to 128x128. Time and quality: not run.

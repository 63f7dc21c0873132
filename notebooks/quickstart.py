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
# # lamd_jax in one sitting
#
# Data, an autoencoder, a diffusion model in its latents, samples, a score, and a
# training run that is broken off and goes on. Nothing is downloaded: the videos are
# drawn by the program, skies with drifting clouds.
#
# The model is LVDM ([arXiv 2211.13221](https://arxiv.org/abs/2211.13221)) in a small
# size. Runs on a CPU or a GPU; for a TPU see `tpu.ipynb`. On Colab: *Runtime, Run
# all*.

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
# `configs/lvdm_sky.py:demo` is made for two CPU cores: 16 frames of 32x32. Any key of
# a config is a flag, and what is written below are flags. On two idle cores the whole
# demo took 4 min 44 s, the notebook, which resumes and scores too, 10 minutes beside
# other work; a laptop is in that region, Colab's two cores may be slower.
# On a GPU the same commands work; how long they take there was not measured (not
# run).

# %%
CONFIG = "configs/lvdm_sky.py:demo"
FLAGS = ["--config.train.report=false"]  # scores are asked for below, by themselves
SAMPLE = dict(steps=20)
SCORE = ["--eval.clips=64"]

# %%
import tempfile

# LAMD_NOTEBOOK_FAST=1 in the environment tries the code out: tiny networks, a few
# steps, clips of noise, nothing kept. Leave it unset to see something.
FAST = os.environ.get("LAMD_NOTEBOOK_FAST") == "1"
RUNS = pathlib.Path(tempfile.mkdtemp()) if FAST else pathlib.Path("runs/notebooks")
if FAST:
  FLAGS += """
    --config.data.size=16 --config.data.frames=4 --config.data.num_videos=32
    --config.model.autoencoder.channels=4 --config.model.autoencoder.groups=4
    --config.model.autoencoder.downsample=2,4,4
    --config.model.denoiser.channels=32 --config.model.denoiser.channel_mult=1,
    --config.model.denoiser.attention_downsample=1,
    --config.model.denoiser.temporal_length=2
    --config.optim.autoencoder.steps=4 --config.optim.autoencoder.warmup=0
    --config.optim.autoencoder.optimizer=adamw
    --config.optim.diffusion.steps=40 --config.optim.diffusion.warmup=0
    --config.optim.diffusion.optimizer=adamw
    --config.train.latent_samples=8 --config.train.preview_every=0
  """.split()
  SAMPLE = dict(steps=2)
  SCORE = "--eval.clips=8 --eval.batch=8 --eval.steps=2 --eval.bootstrap=10".split()

RUN = RUNS / "quickstart"
TRAIN = ["-m", "lamd_jax.main", f"--config={CONFIG}", f"--workdir={RUN}", *FLAGS]

# %% [markdown]
# ## Data
#
# What the model learns from, four training clips. A clip is an array `[T,H,W,3]` of
# bytes and a rate; it shows itself, and `tile` lays several side by side.

# %%
import lamd_jax
from lamd_jax import command_line
from lamd_jax.data import pipeline

data = command_line.load_config(CONFIG).data
clips = pipeline.clips(data, data.split, 4, seed=0)
print(clips.shape, clips.dtype, "at", data.fps, "frames a second")
lamd_jax.tile([lamd_jax.Clip(frames, data.fps) for frames in clips]).show()

# %% [markdown]
# ## Train, and break off
#
# One command trains both stages: the autoencoder, which makes a clip small, and then
# the diffusion model, which learns to make such small clips out of noise. First it
# compiles, which takes about as long as the steps; a second start compiles nothing.
#
# Here the run is asked to stop (SIGTERM, what a cluster sends before it takes a
# machine away) as soon as the diffusion model has begun. It saves, and exits with
# code 75. When Colab takes the machine away without asking, what is lost are the
# steps since the last checkpoint, 200 at most.

# %%
print("$ python", *TRAIN)
with subprocess.Popen(
  [sys.executable, *map(str, TRAIN)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
  text=True,
) as process:
  asked = False
  for line in process.stdout:
    print(line, end="", flush=True)
    if line.startswith("[diffusion] step") and not asked:
      process.terminate()
      asked = True
print("exit code", process.returncode)

# %% [markdown]
# ## Go on
#
# The same command goes on: the autoencoder is finished and skipped, the diffusion
# model starts at the step it had reached, with the optimiser and the place in the
# data that it had. On one device the result is bit for bit that of a run that was
# never stopped.

# %%
python(*TRAIN)

# %% [markdown]
# What a run leaves is in its folder: one line that says how it stands, the config,
# the environment, checkpoints and a log of every stage.

# %%
print((RUN / "STATUS").read_text())
print(*sorted(path.name for path in RUN.iterdir()), sep="\n")

# %% [markdown]
# ## The autoencoder
#
# Held-out clips, and below them what is left after the autoencoder has made each one
# small (here 4x8x8 positions of 8 numbers) and large again. Expect horizon, light and
# every large cloud, with softer edges and no small wisps: about 27 dB.

# %%
model = lamd_jax.load(RUN)
real = pipeline.clips(model.config.data, "test", 4, seed=0)
rebuilt = model.reconstruct(real)
rows = [lamd_jax.Clip(frames, model.fps) for frames in (*real, *rebuilt)]
lamd_jax.tile(rows, columns=4).show()

# %% [markdown]
# ## Sample
#
# A clip a seed. The same seed gives the same clip, whatever is beside it. Expect the
# colours of day, sunset and dusk, a steady ridge, and clouds that drift; they are
# blurrier than real ones, and melt instead of keeping their outline.

# %%
clips = model.generate(seed=[0, 1, 2, 3], progress=True, **SAMPLE)
lamd_jax.tile(clips).show()
clips[0].save(RUN / "sky.mp4")  # or .gif, .webp, .npz, or a folder of png

# %% [markdown]
# The same from a terminal, which writes mp4, gif, png, npz and a record of the
# settings:
#
#     python -m lamd_jax.main --workdir=runs/notebooks/quickstart --mode=sample \
#       --sample.n=16

# %% [markdown]
# ## Score
#
# The distance of generated clips to held-out ones, by simple features (colour,
# spatial spectrum, frame difference). It is **not FVD**, which needs I3D's weights. A
# number means little by itself, so a floor (other real clips) and two trivial models
# stand beside it. Lower is better.

# %%
python("-m", "lamd_jax.main", f"--workdir={RUN}", "--mode=evaluate", *SCORE)

# %% [markdown]
# `gallery/index.html` in the run's folder shows real, rebuilt and generated clips
# side by side; it opens from the file system.
#
# ## On a GPU
#
# `configs/lvdm_sky.py:gpu` is the size that one GPU is meant for: 16 frames of
# 128x128, 10,000 and 30,000 steps. How good it gets and how long it takes: not run.
# The paper's own settings are `configs/lvdm_sky.py`, and want the Sky Time-lapse
# data.
#
# Next: `own_videos.ipynb` trains on a folder of yours.

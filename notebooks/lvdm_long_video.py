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
# # Long video with LVDM
#
# A model that was trained on 16 frames makes videos of any length. Two networks share
# the work: one makes keyframes and goes on from the last of them, the other fills the
# gap between two keyframes ([arXiv 2211.13221, section
# 3.3](https://arxiv.org/abs/2211.13221)). Nothing is downloaded. `quickstart.ipynb`
# explains what is not explained here.

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
# `configs/lvdm_sky_long.py:demo` trains for about a quarter of an hour on two CPU
# cores. Below are fewer steps: the notebook took 10 minutes there beside other work.
# Clips get blurrier for it.
# For the demo's quality remove all of `FLAGS` but `--config.train.report=false`; after
# a run with these, name another `RUN` too.

# %%
CONFIG = "configs/lvdm_sky_long.py:demo"
FLAGS = """
  --config.optim.autoencoder.steps=200 --config.optim.prediction.steps=200
  --config.optim.interpolation.steps=200 --config.train.report=false
""".split()
FRAMES, SAMPLE = 96, dict(steps=10)

# %%
import tempfile

# LAMD_NOTEBOOK_FAST=1 in the environment tries the code out: tiny networks, a few
# steps, clips of noise, nothing kept. Leave it unset to see something.
FAST = os.environ.get("LAMD_NOTEBOOK_FAST") == "1"
RUNS = pathlib.Path(tempfile.mkdtemp()) if FAST else pathlib.Path("runs/notebooks")
if FAST:
  FLAGS = """
    --config.data.size=16 --config.data.num_videos=32
    --config.model.autoencoder.channels=4 --config.model.autoencoder.groups=4
    --config.model.autoencoder.downsample=4,4,4
    --config.model.denoiser.channels=32 --config.model.denoiser.channel_mult=1,
    --config.model.denoiser.attention_downsample=1,
    --config.optim.autoencoder.steps=2 --config.optim.autoencoder.warmup=0
    --config.optim.autoencoder.optimizer=adamw
    --config.optim.prediction.steps=2 --config.optim.prediction.warmup=0
    --config.optim.prediction.optimizer=adamw
    --config.optim.interpolation.steps=2 --config.optim.interpolation.warmup=0
    --config.optim.interpolation.optimizer=adamw
    --config.train.latent_samples=8 --config.train.preview_every=0
    --config.train.report=false
  """.split()
  FRAMES, SAMPLE = 80, dict(steps=2)

RUN = RUNS / "long_video"

# %% [markdown]
# ## Train
#
# Three stages: the autoencoder, the network of keyframes (*prediction*) and the one
# that fills gaps (*interpolation*). Each compiles first. Run the cell again after a
# break, it goes on.

# %%
python("-m", "lamd_jax.main", f"--config={CONFIG}", f"--workdir={RUN}", *FLAGS)

# %% [markdown]
# ## Keyframes first: hierarchical
#
# Exactly as many frames as asked for. With this little training expect the colours of
# a sky, a ridge that stays where it is, and soft clouds that drift and change. In the
# full demo a thousand frames keep their ridge and its height, and the light goes from
# day through dusk to day.

# %%
import lamd_jax

model = lamd_jax.load(RUN)
clip = model.generate(long="hierarchical", frames=FRAMES, seed=0, **SAMPLE)
print(clip.frames.shape, "at", clip.fps, "frames a second")
clip.show()

# %% [markdown]
# ## One network alone: autoregressive
#
# The second network goes on from its own last frame. `sliding`, the third way, needs
# no network of its own: it slides a model of short clips, as that of
# `quickstart.ipynb`, over the whole length.

# %%
clip = model.generate(long="autoregressive", frames=FRAMES, seed=0, **SAMPLE)
clip.show()

# %% [markdown]
# ## Frames as they come
#
# A plan of the video gives out frames as soon as they are finished, so that memory
# does not grow with the length.

# %%
from lamd_jax import api

video = model.long_video(long="hierarchical", frames=FRAMES, seed=1, **SAMPLE)
done = 0
for frames in api.stream(video):
  done += len(frames)
  print(f"{done} of {FRAMES} frames")

# %% [markdown]
# ## To a file, from a terminal
#
# The command keeps every finished piece on disk; broken off and started again it goes
# on after the last one, to the same frames. `index.html` in the folder plays what is
# there while the rest is made.

# %%
long = [f"--sample.frames={FRAMES}", f"--sample.steps={SAMPLE['steps']}"]
folder = RUN / "samples" / "long"
python("-m", "lamd_jax.main", f"--workdir={RUN}", "--mode=sample", "--sample.n=1",
       "--sample.long=hierarchical", f"--sample.out={folder}", *long)  # fmt: skip

# %%
files = sorted(path for path in folder.rglob("*") if path.is_file())
print(*(path.relative_to(folder) for path in files), sep="\n")
whole = max(folder.rglob("*.mp4"), key=lambda path: path.stat().st_size)
lamd_jax.Clip.open(whole).show()

# %% [markdown]
# ## On a GPU
#
# `configs/lvdm_sky_long.py:gpu`: 16 frames of 128x128. Time and quality: not run. On
# two CPU cores the full demo made 68 frames a second with 10 steps.
#
# `--sample.noise_level` and `--sample.guidance` are the paper's means against a slow
# decline. In this demo there was none over 1024 frames, and noise made hierarchical
# videos worse, so both are off: `docs/results.md`.

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
# # Give a video another look: Gen-1
#
# Gen-1 ([arXiv 2302.03011](https://arxiv.org/abs/2302.03011)) keeps what is where and
# how it moves, from a video's depth, and takes the looks from a picture or from
# words. Nothing is downloaded: the videos are a small captioned world that knows its
# own depth. `quickstart.ipynb` explains what is not explained here.

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
# `configs/gen1_cater.py:demo`, 8 frames of 64x64, has seven stages and trains for
# about a quarter of an hour on two CPU cores; objects then stand and move where the
# video's do (`docs/results.md`). Below the autoencoder and the stages that learn
# structure have about half of its steps, which was not scored: the notebook took 11
# minutes on two CPU cores. **Expect soft blobs in a tone as the picture asks, not all
# of them where the video's objects are.** The notebook shows how one edits, not how
# well it can be done. For the demo's quality remove all of `FLAGS` but
# `--config.train.report=false`; after a run with these, name another `RUN` too.

# %%
CONFIG = "configs/gen1_cater.py:demo"
FLAGS = """
  --config.optim.autoencoder.steps=215
  --config.optim.content.steps=100 --config.optim.prior.steps=100
  --config.optim.structure.steps=200 --config.optim.structure_levels.steps=80
  --config.train.report=false
""".split()
SAMPLE = dict(steps=10)

# %%
import tempfile

# LAMD_NOTEBOOK_FAST=1 in the environment tries the code out: tiny networks, a few
# steps, clips of noise, nothing kept. Leave it unset to see something.
FAST = os.environ.get("LAMD_NOTEBOOK_FAST") == "1"
RUNS = pathlib.Path(tempfile.mkdtemp()) if FAST else pathlib.Path("runs/notebooks")
if FAST:  # also without the stages that only prepare the network of structure
  FLAGS = """
    --config.stages=autoencoder,content,structure_levels,prior
    --config.data.size=16 --config.data.frames=4 --config.data.num_videos=32
    --config.model.image_autoencoder.channels=4
    --config.model.image_autoencoder.channel_mult=1,1,2
    --config.model.image_autoencoder.latent_channels=2
    --config.model.image_autoencoder.groups=4
    --config.model.denoiser.channels=32 --config.model.denoiser.channel_mult=1,
    --config.model.denoiser.attention_downsample=1,
    --config.model.denoiser.head_channels=16
    --config.model.content.width=8 --config.model.content.image_channels=8
    --config.model.content.text_width=8 --config.model.content.text_heads=2
    --config.model.content.tokens=2 --config.model.content.context_width=8
    --config.model.structure.levels=3 --config.model.prior.width=8
    --config.optim.autoencoder.steps=2 --config.optim.autoencoder.warmup=0
    --config.optim.autoencoder.optimizer=adamw
    --config.optim.content.steps=2 --config.optim.content.warmup=0
    --config.optim.content.batch=8
    --config.optim.structure_levels.steps=2 --config.optim.structure_levels.warmup=0
    --config.optim.structure_levels.optimizer=adamw
    --config.optim.prior.steps=2 --config.optim.prior.warmup=0
    --config.optim.prior.batch=8
    --config.train.latent_samples=8 --config.train.report=false
  """.split()
  SAMPLE = dict(steps=2)

RUN = RUNS / "editing"

# %% [markdown]
# ## Train
#
# An autoencoder of single frames; a small encoder of pictures and words (*content*);
# a model of pictures, then of videos, then of videos with their depth, then with
# depth that is blurred (*structure levels*); and a *prior*, which turns words into
# what the encoder would say of a picture. Every stage compiles first. After a break
# run the cell again.

# %%
python("-m", "lamd_jax.main", f"--config={CONFIG}", f"--workdir={RUN}", *FLAGS)

# %% [markdown]
# ## A video, its depth, and a picture
#
# A held-out clip; its depth, near is white; and a frame of another clip, whose looks
# are asked for. Depth of your own videos comes from a grey video, or from DPT-Large,
# whose weights you bring (`python -m lamd_jax.tools.convert depth`).

# %%
import numpy as np

import lamd_jax
from lamd_jax.data import pipeline

model = lamd_jax.load(RUN)
held_out = (model.config.data, "test", 2, 0)
video, other = (lamd_jax.Clip(x, model.fps) for x in pipeline.clips(*held_out))
depth = pipeline.depths(*held_out)[0]  # [T,H,W,1] uint8
looks = lamd_jax.Clip(np.repeat(other.frames[:1], len(video.frames), axis=0), video.fps)
shown = lamd_jax.Clip(np.repeat(depth, 3, axis=-1), video.fps)
print(*pipeline.captions(*held_out), sep="\n")
lamd_jax.tile([video, shown, looks], columns=3).show()

# %% [markdown]
# ## The looks of a picture
#
# Left the video, right its edit. `edit` takes paths, clips or arrays; videos may have
# any length and size, the network works at its own scale and a line says so.

# %%
asked = dict(depth=depth[..., 0], seed=0, **SAMPLE)
edited = model.edit(video, image=other.frames[0], **asked)
lamd_jax.tile([video, edited]).show()

# %% [markdown]
# ## The looks in words
#
# In the world's own words: size, colour, material.

# %%
edited = model.edit(video, text="a medium red metal cone and the snitch.", **asked)
lamd_jax.tile([video, edited]).show()

# %% [markdown]
# ## How closely to follow
#
# `structure_level` blurs the depth, so that shapes become freer. `temporal_guidance`
# above 1 makes frames follow each other more smoothly; in the full demo that held.
# `strength` with `start="input"` begins at the noised video instead of at noise: the
# less of it, the nearer to the input. From left to right: as above, blurred, from the
# input.

# %%
level = model.config.model.structure.levels
look = other.frames[0]
blurred = model.edit(video, image=look, structure_level=level, **asked)
nearer = model.edit(video, image=look, start="input", strength=0.5, **asked)
edited = model.edit(video, image=look, **asked)
lamd_jax.tile([edited, blurred, nearer], columns=3).show()

# %% [markdown]
# ## Only a part
#
# White of the mask is edited; outside of it every pixel is the input's. Here the left
# half.

# %%
mask = np.zeros(video.frames.shape[1:3], bool)
mask[:, : mask.shape[1] // 2] = True
half = model.edit(video, image=look, mask=mask, **asked)
outside = np.broadcast_to(~mask[None, :, :, None], video.frames.shape)
assert (half.frames[outside] == video.frames[outside]).all()
lamd_jax.tile([video, half]).show()
half.save(RUN / "half.mp4")

# %% [markdown]
# ## On a GPU
#
# `configs/gen1_cater.py:gpu` is the size meant for one GPU; time and quality: not
# run. Files from a terminal, with their sound and times kept:
#
#     python -m lamd_jax.main --workdir=RUN --mode=sample --sample.video=IN.mp4 \
#       --sample.image=LOOK.png --sample.depth=DEPTH.mp4

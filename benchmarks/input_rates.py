# SPDX-License-Identifier: Apache-2.0
"""Clips a second on one core: mp4 through our pipeline against bare PyAV, and the rest.

    python -m benchmarks.input_rates --gop=12 --steps_per_second=2.1 --batch=8

The competitors take turns (see harness.py), each on one core and in one thread, and go
through the same random windows of the same videos: `bare` opens the file with PyAV,
seeks, decodes to the end of the window and converts its frames to RGB at their own size,
and does no more. Ours checks, cuts, resizes and batches beside that. `frames` are JPEGs
of the same frames, `array_record` what tools.prepare makes. Rates are clips by the least
processor time, which a busy machine spoils less than the wall time beside it.

Without --videos=DIR two videos of 10 s at 320x240 are rendered and encoded.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import statistics
import tempfile

from benchmarks import harness

SIDES = ("bare", "mp4", "frames", "array_record")
_FPS, _SECONDS = 25, 10
_HEIGHT, _WIDTH = 240, 320


def _config(flags: argparse.Namespace, source: str, root: pathlib.Path):
  from lamd_jax import config as config_lib

  data = config_lib.defaults().data
  data.update(
    source=source, root=str(root), split="all", frames=flags.frames, size=flags.size,
    stride=flags.stride, num_threads=0,
  )  # fmt: skip
  return data


def make_data(flags: argparse.Namespace, folder: pathlib.Path) -> None:
  """Writes what each side reads: folder/{videos,frames,array_record}."""
  import av
  from PIL import Image

  from lamd_jax import media
  from lamd_jax.data import prepared
  from lamd_jax.data import prepared_folder
  from lamd_jax.data import procedural

  videos = folder / "videos"
  if flags.videos:
    videos.symlink_to(pathlib.Path(flags.videos).resolve())
  else:
    videos.mkdir()
    world = procedural.world("sky", "drift")
    for i in range(2):
      top = (_WIDTH - _HEIGHT) // 2
      video = world.sample("train", i, _FPS * _SECONDS, _WIDTH).video
      video = video[:, top : top + _HEIGHT]
      media.encode_mp4(videos / f"{i}.mp4", video, _FPS, {"g": str(flags.gop)})
  for path in sorted(videos.rglob("*.mp4")):
    images = folder / "frames" / path.relative_to(videos).with_suffix("")
    images.mkdir(parents=True)
    with av.open(str(path)) as container:
      for number, frame in enumerate(container.decode(video=0)):
        picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
        picture.save(images / f"{number:06d}.jpg", quality=95)
  data = _config(flags, "folder", videos)
  data.sampling = "tile"
  plan = prepared.plan(data, "all", prepared.shard_clips(data.frames, data.size))
  for task in prepared.tasks(data, [plan], folder / "array_record"):
    prepared.write_shard(task)
  prepared_folder.finish(data, [plan], folder / "array_record")


def bare(flags: argparse.Namespace, root: pathlib.Path):
  """Yields the windows that the pipeline takes, by PyAV alone."""
  import av
  import numpy as np

  from lamd_jax.data import clips
  from lamd_jax.data import reader
  from lamd_jax.data.sources import registry

  data = _config(flags, "folder", root)
  videos = registry.OPEN["folder"](data, "all")
  table = clips.training_table(
    videos.n_frames, data.frames, data.stride, data.sampling, data.pad_last
  )
  for position in itertools.count():
    row = position % len(table.video)
    video = int(table.video[row])
    start = reader.drawn(0, position).random(2)[0]
    wanted = clips.frame_indices(table, row, int(videos.n_frames[video]), start)
    first, last, found = int(wanted[0]), int(wanted[-1]), []
    with av.open(str(root / videos.entry(video).path)) as container:
      stream = container.streams.video[0]
      stream.codec_context.thread_count = 1
      pts = lambda i, s=stream: round(i / s.average_rate / s.time_base)
      container.seek(pts(first), stream=stream)
      at = {pts(int(i)) for i in wanted}
      for frame in container.decode(stream):
        if frame.pts in at:
          found.append(frame.to_ndarray(format="rgb24"))
        if frame.pts >= pts(last):
          break
    assert len(found) == len(wanted), "the file's timestamps are uneven"
    yield np.stack(found)


def ours(flags: argparse.Namespace, source: str, root: pathlib.Path):
  """Yields clips as training gets them, without threads or reading ahead."""
  from lamd_jax.data import pipeline

  data = _config(flags, source, root)
  if source == "array_record":
    data.stride = 1
  for batch in pipeline.in_order(data, "all", 1, 0, 10**6, 0):
    yield batch.video[0]


def serve(flags: argparse.Namespace) -> None:
  folder = pathlib.Path(flags.data)
  if flags.side == "bare":
    made = bare(flags, folder / "videos")
  else:
    source = "folder" if flags.side == "mp4" else flags.side
    made = ours(flags, source, folder / {"mp4": "videos"}.get(flags.side, flags.side))
  shape = next(made).shape

  def call() -> None:
    for _ in range(flags.clips):
      next(made)

  harness.serve(call, {"height": shape[1], "width": shape[2]}, lambda: next(made))


def report(flags: argparse.Namespace, timings: dict[str, harness.Timing]) -> str:
  """Returns the table; the ratios are of repetitions that followed each other."""
  head = ["source", "clips/s a core", "by wall time", "to bare PyAV", "(range)"]
  need = flags.steps_per_second * flags.batch
  if need:
    head.append(f"cores for {need:g} clips/s")
  rows = []
  for side, timing in timings.items():
    pairs = zip(timings["bare"].samples, timing.samples)
    ratios = sorted(b.cpu / s.cpu for b, s in pairs)
    rate = flags.clips / timing.least_cpu(1)
    row = [side, f"{rate:.1f}", f"{flags.clips / timing.best:.1f}",
           f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f}-{ratios[-1]:.2f}"]  # fmt: skip
    rows.append([*row, f"{need / rate:.2f}"] if need else row)
  return harness.table(head, rows)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--videos", default="", help="folder of mp4 files")
  parser.add_argument("--gop", type=int, default=250, help="of videos that are made")
  parser.add_argument("--frames", type=int, default=16)
  parser.add_argument("--stride", type=int, default=1)
  parser.add_argument("--size", type=int, default=128)
  parser.add_argument("--clips", type=int, default=16, help="of a repetition")
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--steps_per_second", type=float, default=0.0, help="of training")
  parser.add_argument("--batch", type=int, default=8, help="of training")
  parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
  parser.add_argument("--data", help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.side:
    harness.use_threads(1)
    serve(flags)
    return
  print(harness.machine(), flush=True)
  with tempfile.TemporaryDirectory() as folder:
    make_data(flags, pathlib.Path(folder))
    passed = [f"--{name}={value}" for name, value in vars(flags).items()
              if value is not None and name not in ("videos", "side", "data")]  # fmt: skip
    own = ["-m", "benchmarks.input_rates", f"--data={folder}", *passed]
    commands = {side: [*own, f"--side={side}"] for side in SIDES}
    print(report(flags, harness.compete(commands, flags.repeats)), flush=True)


if __name__ == "__main__":
  main()

# SPDX-License-Identifier: Apache-2.0
"""The layouts data sets come in: what each looks like, and which one a folder has."""

from __future__ import annotations

from collections.abc import Callable
import itertools
import pathlib
import re
from typing import NamedTuple

from lamd_jax.data import frame_folder
from lamd_jax.data import prepared_folder
from lamd_jax.data import video_file
from lamd_jax.data.sources import array_record
from lamd_jax.data.sources import cater_gen
from lamd_jax.data.sources import csv_table
from lamd_jax.data.sources import davis
from lamd_jax.data.sources import files
from lamd_jax.data.sources import landscape
from lamd_jax.data.sources import mug
from lamd_jax.data.sources import natops

# data.source -> the tree it reads
TREES = {
  "folder": """\
DIR/**/*.mp4                         also avi webm gif mkv mov, at any depth
  or DIR/{train,test}/**/*.mp4       else about 8 % are held out, by a hash of the name
Captions, if any: clip.txt or clip.json ({"caption": ...}) beside clip.mp4, or
DIR/captions.json {"path/of/clip.mp4": ...}""",
  "frames": """\
DIR/{sky_train,sky_test}/<id>/<id>_<k>/<id>_frames_000NNNNN.jpg   as published
  or DIR/{train,test}/<id>/<id>_<k>/*.jpg
  or DIR/{train,val}/<video>/frame00000.png
Any folder that holds images is a video; frames are sorted by number.""",
  "ucf101": """\
DIR/UCF-101/<Class>/v_<Class>_gXX_cYY.avi
DIR/ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt
  or DIR/{train,test}/<Class>/v_<Class>_gXX_cYY.avi
  or DIR/{train,test}/v_<Class>_gXX_cYY/*.jpg""",
  "taichi": """\
DIR/{train,test}/<id>#start#end.mp4
  or DIR/{train,test}/<id>#start#end/*.png
  or DIR/frames/{train,test}/<clip>/*.png""",
  "landscape": """\
DIR/{sky_train,sky_test}/<id>/<id>_<k>/<id>_frames_000NNNNN.jpg   or what frames reads
  or DIR/clips/<id>/<id> t0-t1.mp4 and DIR/{train,val,test}_urls.txt   QST""",
  "bair": """\
DIR/softmotion30_44k/{train,test}/traj_A_to_B.tfrecords   as published
  or DIR/bair/{train,eval,test}/traj_A_to_B/<k>/<t>.png   with or without bair/
--config.data.camera=aux1|main chooses one of the two cameras of the published files.""",
  "cater_gen": """\
DIR/videos/*.avi
DIR/{train,test}_{explicit,ambiguous}.json   {"0": {"video": ..., "caption": ...}, ...}
--config.data.captions=explicit|ambiguous""",
  "natops": """\
DIR/gestureGG/gGGsSS.avi and DIR/segmentation.txt   as published
  or DIR/gGGsSSpPP/*.png                            one folder a repetition""",
  "mug": """\
DIR/<subject>/<expression>/<take>/*.jpg   some subjects have one more folder inside""",
  "davis": """\
DIR/JPEGImages/480p/<name>/00000.jpg          or Full-Resolution
DIR/Annotations/480p/<name>/00000.png
DIR/ImageSets/2017/{train,val}.txt
DIR/prompts.csv with columns video,prompt     if captions are wanted""",
  "csv": """\
DIR/*.csv with columns videoid,page_dir,name and DIR/videos/<page_dir>/<videoid>.mp4
  or DIR/*.csv with columns path,text[,label,split] and the files at DIR/<path>""",
  "array_record": """\
DIR/metadata.json
DIR/<split>-00000-of-00001.array_record
DIR/<split>.jsonl
What tools.prepare makes of any of the others.""",
  "tfds": """\
DIR/<name>/<version>/   a TFDS data_dir prepared with file_format=array_record
--config.data.name=<name>""",
  "procedural": "nothing: it is rendered",
}


class Layout(NamedTuple):
  """What a folder looks like."""

  name: str
  source: str = ""  # data.source that reads it, "": recognised, no reader yet
  root: str = ""  # data.root below the folder
  faults: tuple[str, ...] = ()  # what is wrong with it
  flags: tuple[str, ...] = ()  # further --config.data.* flags that fit it


def expected_tree(source: str) -> str:
  """Returns the tree that `data.source` reads, for messages."""
  return TREES[source]


def recognise(root: pathlib.Path) -> Layout | None:
  """Returns the layout of a folder, or of its only subfolder, None if it has none."""
  for test in _TESTS:
    if found := test(root):
      return found
  below = _children(root)
  # An archive often unpacks into one folder; a lone split is not such a folder.
  if len(below) == 1 and below[0].is_dir() and not files.split_of(below[0].name):
    if found := recognise(below[0]):
      inner = "/".join(filter(None, (below[0].name, found.root)))
      return found._replace(root=inner)
  return _videos(root)


def _children(folder: pathlib.Path) -> list[pathlib.Path]:
  try:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
  except OSError:
    return []


def _has(folder: pathlib.Path, pattern: str) -> bool:
  return next(iter(folder.glob(pattern)), None) is not None


def _sample(root: pathlib.Path) -> tuple[list[str], list[str]]:
  """Returns some paths of video files and some of folders of images below root."""
  videos, frames = [], []
  for folder, _, names in itertools.islice(files.walk(root), 2000):
    videos += [f"{folder}/{n}" for n in names if n.lower().endswith(video_file.SUFFIXES)]
    if any(map(frame_folder.is_image, names)):
      frames.append(folder)
  return videos, frames


def _array_record(root: pathlib.Path) -> Layout | None:
  if (root / prepared_folder.PREPARATION).is_file():
    flags = prepared_folder.flags(root)
    return Layout("ArrayRecord of prepared clips", "array_record", flags=flags)
  if _has(root, "*.array_record") and (root / array_record.METADATA).is_file():
    return Layout("ArrayRecord of clips", "array_record")
  return None


def _tfds(root: pathlib.Path) -> Layout | None:
  for info in itertools.chain(
    root.glob("*/*/dataset_info.json"), root.glob("*/*/*/dataset_info.json")
  ):
    name = info.relative_to(root).parts[0]
    return Layout("TFDS data_dir", "tfds", flags=(f"--config.data.name={name}",))
  return None


def _bair(root: pathlib.Path) -> Layout | None:
  for folder in ("softmotion30_44k", "bair", "."):
    if not _has(root / folder, "train/traj_*_to_*"):
      continue
    faults = ()
    if not _has(root / folder, "test/traj_*_to_*"):
      faults = ("the folder test is missing",)
    form = "TFRecords" if _has(root / folder, "train/*.tfrecords") else "images"
    return Layout(f"BAIR robot pushing, {form}", "bair", faults=faults)
  return None


def _cater(root: pathlib.Path) -> Layout | None:
  if not (root / "videos").is_dir():
    return None
  kinds = [kind for kind in cater_gen.CAPTIONS if cater_gen.lists(root, kind)]
  if not kinds:
    return None
  missing = [
    f"{split}_{kinds[0]}.json is missing"
    for split in ("train", "test") if split not in cater_gen.lists(root, kinds[0])
  ]  # fmt: skip
  flags = (f"--config.data.captions={kinds[0]}",)
  return Layout("CATER-GEN", "cater_gen", faults=tuple(missing), flags=flags)


def _davis(root: pathlib.Path) -> Layout | None:
  if (root / "JPEGImages").is_dir() and (root / "Annotations").is_dir():
    faults = []
    if not davis.resolution(root):
      faults.append("JPEGImages holds neither 480p nor Full-Resolution")
    if not (root / "ImageSets" / "2017").is_dir():
      faults.append("ImageSets/2017 is missing: splits are drawn")
    return Layout("DAVIS", "davis", faults=tuple(faults))
  return None


def _natops(root: pathlib.Path) -> Layout | None:
  listed = (root / natops.SEGMENTS).is_file()
  flags = ("--config.data.resize=natops",)
  if listed or _has(root, "gesture[0-9][0-9]/g*.avi"):
    faults = () if listed else (f"{natops.SEGMENTS} is missing",)
    return Layout("NATOPS", "natops", faults=faults, flags=flags)
  if _has(root, "g[0-9][0-9]s[0-9][0-9]p[0-9][0-9]/*.png"):
    return Layout("NATOPS, cut out", "natops", flags=flags)
  return None


def _mug(root: pathlib.Path) -> Layout | None:
  for subject in _children(root)[:5]:
    inside = _children(subject)
    names = {path.name.lower() for path in inside}
    # Three subjects have one more folder.
    names |= {path.name.lower() for folder in inside[:3] for path in _children(folder)}
    if mug.SUBJECT.match(subject.name) and len(names & set(mug.EXPRESSIONS)) >= 2:
      return Layout("MUG facial expressions", "mug")
  return None


def _ucf101(root: pathlib.Path) -> Layout | None:
  videos, frames = _sample(root)
  named = [p for p in videos + frames if re.match(r"v_\w+_g\d+_c\d+", p.split("/")[-1])]
  if not named:
    return None
  faults = []
  lists = root / "ucfTrainTestlist"
  if not lists.is_dir():
    lists = root.parent / "ucfTrainTestlist"
  split = files.split_of(named[0].lstrip("/"))
  if not (lists / "classInd.txt").is_file():
    faults.append("ucfTrainTestlist/classInd.txt is missing: labels by the alphabet")
  for name in ("trainlist01.txt", "testlist01.txt"):
    if not split and not (lists / name).is_file():
      faults.append(f"ucfTrainTestlist/{name} is missing: groups 1 to 7 are the test")
  form = "folders of images" if named[0] in frames else "video files"
  cut = ", split into folders" if split else ", as published"
  return Layout(f"UCF-101, {form}{cut}", "ucf101", faults=tuple(faults))


def _taichi(root: pathlib.Path) -> Layout | None:
  base = root if (root / "train").is_dir() else root / "frames"
  if not (base / "train").is_dir():
    if (root / "taichi-metadata.csv").is_file():
      return Layout("Taichi-HD metadata", faults=("no {train,test} folders of clips",))
    return None
  names = [path.name for path in _children(base / "train")[:50]]
  clips = [name for name in names if re.search(r"#\d+#\d+", name)]
  if clips or (root / "taichi-metadata.csv").is_file() or base != root:
    faults = () if (base / "test").is_dir() else ("the test folder is missing",)
    flags = ("--config.data.stride=4",)
    return Layout("Taichi-HD", "taichi", faults=faults, flags=flags)
  return None


def _sky(root: pathlib.Path) -> Layout | None:
  if any((root / name).is_dir() for name in ("sky_train", "sky_test")):
    missing = [n for n in ("sky_train", "sky_test") if not (root / n).is_dir()]
    faults = tuple(f"the folder {name} is missing" for name in missing)
    return Layout("Sky Time-lapse, as published", "landscape", faults=faults)
  if landscape.lists(root) and (root / "clips").is_dir():
    missing = {"train", "test"} - set(landscape.lists(root))
    faults = tuple(f"{split}_urls.txt is missing" for split in sorted(missing))
    return Layout("QST, time-lapse clips", "landscape", faults=faults)
  return None


def _csv(root: pathlib.Path) -> Layout | None:
  found = csv_table.tables(root)
  if not found:
    return None
  return Layout(f"captioned videos in {found[0].name}", "csv")


def _videos(root: pathlib.Path) -> Layout | None:
  videos, frames = _sample(root)
  if videos:
    faults = ()
    if frames:
      faults = (f"{len(frames)} folders of images beside the video files are not read",)
    return Layout("folder of video files", "folder", faults=faults)
  if frames and frames != [""]:
    return Layout("folders of images, one a video", "frames")
  return None


_TESTS: tuple[Callable[[pathlib.Path], Layout | None], ...] = (
  _array_record, _tfds, _bair, _cater, _davis, _natops, _mug, _sky, _ucf101, _taichi,
  _csv,
)  # fmt: skip

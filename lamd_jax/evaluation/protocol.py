# SPDX-License-Identifier: Apache-2.0
"""What a score means: a named, hashed record of everything that moves it.

Three families of code print "FVD" and mean three numbers; with one network they still
differ in epsilon, resize, covariance, split, stride and number of clips. So a score
here carries its protocol, and is printed with the protocol's name and hash or not at
all. A protocol that is changed in any field gets another name and another hash.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import json
from typing import Any

from lamd_jax.errors import ConfigError

# Extractor -> what its Frechet distance and its MMD are called. Only the weights that
# FVD was defined with give an FVD; nothing else can be mistaken for one.
TITLES = {
  "i3d_kinetics400": ("FVD", "KVD"),
  "random_i3d": (
    "random-I3D Frechet distance (not FVD)", "random-I3D MMD (not KVD)",
  ),
  "random_small": (
    "small-random-network Frechet distance (not FVD)",
    "small-random-network MMD (not KVD)",
  ),
  "videomae_v2_ssv2": ("VideoMAE Frechet distance", "VideoMAE MMD"),
  "vjepa_ssv2": ("V-JEPA Frechet distance", "JEDi"),
  "fvmd_release": ("fvmd_release", "MMD of fvmd_release's histograms"),
  "fvmd_true": ("fvmd_true", "MMD of fvmd_true's histograms"),
  # What follows is scored clip by clip, under titles of its own.
  "c3d_ucf101": ("", ""),
  "clip_b32": ("", ""),
  "clip_l14": ("", ""),
  "clip_h14": ("", ""),
  "pairs": ("", ""),
  "pairs_lpips": ("", ""),
  "captions_mage": ("", ""),
  "captions_strict": ("", ""),
  "block_matching": ("", ""),
  "thumbnails": ("", ""),
}  # fmt: skip
# Their features are made elsewhere and come from a file.
FROM_FILE = ("videomae_v2_ssv2", "vjepa_ssv2", "fvmd_release", "fvmd_true")
# These score sets of clips by features that we extract; one may take another's place.
_OF_SETS = ("i3d_kinetics400", "random_i3d", "random_small")
# What `Protocol.changed` may put into a field: one of some words, or a number from the
# first to the second on.
_CHOICES = {
  "extractor": _OF_SETS,
  "resize": ("half_pixel", "half_pixel_aa", "tf1_legacy"),
  "crop": ("squash", "centre"),
  "sampling": ("first", "random", "random_clips"),
  "mmd": ("unbiased_cubic", "biased_square_x100"),
}
_LIMITS = {
  "epsilon": (0, 1), "frames": (2, 10**6), "stride": (1, 10**6),
  "fake_stride": (1, 10**6), "multiple": (1, 10**8), "ddof": (0, 1), "splits": (1, 10**6),
}  # fmt: skip
_SAYS = ("values", "root")  # what the code does, whatever stands there


@dataclasses.dataclass(frozen=True)
class Protocol:
  """One way to score clips. Frames are counted in the clip, offsets in the file."""

  name: str
  extractor: str = "i3d_kinetics400"  # a key of TITLES
  epsilon: float = 1e-3  # of I3D's batch norms
  resize: str = "half_pixel"  # a key of resize.FLAVOURS
  crop: str = "squash"  # squash | centre: short side to 224, rounded up, then the middle
  values: str = "uint8/127.5-1"
  pixels: int = 0  # side of the clips that are scored; 0: whatever they have
  frames: int = 16
  split: str = "the user's"  # of the reals
  # Of the reals' clips: first | random, one clip a video | random_clips, several.
  sampling: str = "first"
  stride: int = 1  # between the reals' frames
  fake_stride: int = 1
  reals: int = 0  # clips; 0: all there are
  fewer_reals: bool = False  # whether all there are will do, when too few
  fakes: int = 0
  multiple: int = 1  # clips beyond a multiple of this are dropped
  ddof: int = 1  # covariance over N - ddof
  root: str = "eigh float64"
  mmd: str = "unbiased_cubic"
  splits: int = 0  # of an inception score
  remarks: str = ""

  def hash(self) -> str:
    """Eight hex digits of all fields."""
    return _digest(dataclasses.asdict(self))

  def extraction_hash(self) -> str:
    """Eight hex digits of what a clip's features depend on, for caching them."""
    fields = ("extractor", "epsilon", "resize", "crop", "values", "frames")
    return _digest({k: v for k, v in dataclasses.asdict(self).items() if k in fields})

  @property
  def true_first(self) -> bool:
    """Whether a made clip begins with the true frame that it was made from."""
    return self.remarks.startswith(_ONE_AND_15)

  def title(self, metric: str) -> str:
    """The printed name of "frechet" or "mmd" under this protocol."""
    return TITLES[self.extractor][("frechet", "mmd").index(metric)]

  def changed(self, changes: Mapping[str, Any]) -> Protocol:
    """Returns this protocol with other values, and a name that says which.

    Raises:
      ConfigError: a field does not exist or changes nothing here, or its value has
        another type or is none of those that there are.
    """
    known = {k: v for k, v in dataclasses.asdict(self).items() if k != "name"}
    for key, value in changes.items():
      if key not in known:
        raise ConfigError(f"protocol field {key}: not known; {', '.join(sorted(known))}")
      if type(value) is not type(known[key]):
        raise ConfigError(f"protocol field {key}={value!r}: of another type than before")
      self._check(key, value, known[key])
    if not changes:
      return self
    suffix = "".join(f"+{key}={value}" for key, value in sorted(changes.items()))
    return dataclasses.replace(self, name=self.name + suffix, **changes)

  def _check(self, key: str, value: Any, before: Any) -> None:
    """Refuses what would get a score another name and not another meaning."""
    field = f"protocol field {key}={value}"
    choices = _CHOICES.get(key, ())
    idle = (choices and before not in choices) or (key == "splits" and not before)
    if key in _SAYS or idle:
      raise ConfigError(f"{field}: {self.name} has {before}, which cannot be changed")
    if choices and value not in choices:
      raise ConfigError(f"{field}: must be one of {', '.join(choices)}")
    low, high = _LIMITS.get(key, (value, value))
    if not low <= value <= high:
      raise ConfigError(f"{field}: must lie between {low} and {high}")


def _digest(record: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]


@dataclasses.dataclass(frozen=True)
class Score:
  """A number that is of no use without its protocol, and is not printed without."""

  title: str
  value: float
  protocol: Protocol
  reals: int
  fakes: int
  interval: tuple[float, float] | None = None  # 95 %, over clips

  def __post_init__(self) -> None:
    if not isinstance(self.protocol, Protocol):
      raise TypeError(f"{self.title}: a score needs its protocol")

  def __str__(self) -> str:
    spread = ""
    if self.interval is not None:
      spread = " [{:.4g}, {:.4g}]".format(*self.interval)
    return (
      f"{self.title} {self.value:.4g}{spread} ({self.protocol.name}"
      f" {self.protocol.hash()}, {self.reals} reals, {self.fakes} fakes)"
    )

  def record(self) -> dict[str, Any]:
    """As JSON will hold it."""
    return {
      "title": self.title,
      "value": self.value,
      "interval_95": self.interval,
      "protocol": self.protocol.name,
      "protocol_hash": self.protocol.hash(),
      "reals": self.reals,
      "fakes": self.fakes,
    }


_STYLEGANV = dict(
  ddof=0, sampling="random", reals=2048, fewer_reals=True, fakes=2048,
  split="train (UCF-101: train and test)", remarks="videos that are too short dropped",
)  # fmt: skip
_PORT = dict(
  epsilon=1e-5, sampling="random_clips", reals=2048, fakes=2048, split="train"
)  # fmt: skip
_LVDM = dict(
  **_PORT, pixels=256, multiple=32,
  remarks="published as mean and deviation of 10 draws of clips",
)  # fmt: skip
_PVDM = dict(**_PORT, pixels=256, crop="centre", remarks="EMA weights")
_LATTE = dict(
  ddof=0, sampling="random", reals=2048, fakes=2048, pixels=256, split="train",
  remarks="reals cropped to their middle square",
)  # fmt: skip
_CINN = dict(resize="tf1_legacy", split="test")
_LANDSCAPE = dict(
  multiple=16, remarks="reals: frames 0..L-1; fakes: L frames without the true first",
  **_CINN,
)  # fmt: skip
_NO_NETWORK = dict(resize="none", crop="none", values="uint8")
_CLIP = dict(
  resize="none", crop="Pillow bicubic, short side 224, the middle",
  values="CLIP's mean and deviation", remarks="mean over all frames, then clips",
)  # fmt: skip
_FVMD = dict(
  pixels=256, root="eigh float64, 1e-5 I inside the root",
  remarks="tracks [N,T,20,20,2] of 256x256 pictures, from a file; windows of 16 frames",
  **{**_NO_NETWORK, "values": "pixels"},
)  # fmt: skip
_ONE_AND_15 = "16 frames: 1 true and 15 generated"

# Settings are those of each project's published code, but for bair_100 and the stride of
# latte_taichi, which are told second hand.
_ALL = (
  Protocol("tf2018", resize="tf1_legacy"),
  Protocol("styleganv_2048_16f", **_STYLEGANV),
  Protocol("styleganv_2048_128f", frames=128, **_STYLEGANV),
  Protocol("styleganv_2048_128f_sub8", stride=8, fake_stride=8, **_STYLEGANV),
  Protocol("lvdm", **_LVDM),
  Protocol("lvdm_taichi", stride=4, **_LVDM),
  Protocol("tats", pixels=128, remarks="fakes: equal numbers of each class", **_PORT),
  Protocol("tats_taichi", pixels=128, stride=4, **_PORT),
  Protocol("pvdm_16f", **_PVDM),
  Protocol("pvdm_128f", frames=128, **_PVDM),
  Protocol("latte", stride=3, **_LATTE),
  Protocol("latte_taichi", stride=6, **_LATTE),
  Protocol(
    "videogpt_bair", epsilon=1e-5, crop="centre", pixels=64, reals=256, fakes=256,
    split="test", remarks="camera image_aux1",
  ),
  Protocol(
    "videogpt_bair_star", epsilon=1e-5, crop="centre", pixels=64, reals=256, fakes=256,
    split="test", remarks="camera image_aux1; the reals are reconstructions (FVD*)",
  ),
  Protocol("cinn_bair", reals=256, fakes=256, remarks=_ONE_AND_15, **_CINN),
  Protocol("cinn_landscape_16f", **_LANDSCAPE),
  Protocol("cinn_landscape_32f", frames=32, **_LANDSCAPE),
  Protocol(
    "bair_100", resize="tf1_legacy", reals=256, fakes=25_600, split="test",
    remarks=_ONE_AND_15 + ", 100 of each first frame",
  ),
  Protocol(
    "cdfvd_videomae", extractor="videomae_v2_ssv2", ddof=0, fakes=2048,
    values="uint8/255", remarks="1408 features a clip, from a file",
  ),
  Protocol(
    "jedi", extractor="vjepa_ssv2", mmd="biased_square_x100",
    remarks="1280 features a clip, from a file",
  ),
  Protocol(
    "is_tgan2", extractor="c3d_ucf101", resize="none", crop="none", fakes=20_480,
    splits=10, remarks="10 x 2048 samples; 1e-20 is added to probabilities",
  ),
  Protocol(
    "is_styleganv_2048", extractor="c3d_ucf101", resize="none", crop="none", fakes=2048,
    splits=10, remarks="shuffled with seed 42",
  ),
  # Clip by clip.
  Protocol("clip_b32", extractor="clip_b32", **_CLIP),
  Protocol("clip_l14", extractor="clip_l14", **_CLIP),
  Protocol("clip_h14", extractor="clip_h14", **_CLIP),
  Protocol("pairs", extractor="pairs", remarks="mean over frames, then clips",
           **_NO_NETWORK),
  Protocol(
    "pairs_lpips", extractor="pairs_lpips", **{**_NO_NETWORK, "values": "uint8/127.5-1"},
    remarks="LPIPS 0.1 of VGG16; mean over frames, then clips",
  ),
  Protocol("cater_precision_mage", extractor="captions_mage", **_NO_NETWORK,
           remarks="the published script's rules"),
  Protocol("cater_precision_strict", extractor="captions_strict", **_NO_NETWORK,
           remarks="extra words and sentences, and missing ones, are misses"),
  Protocol("warp_block8", extractor="block_matching", **_NO_NETWORK,
           remarks="flow by matching blocks of 8 pixels within 4"),
  Protocol("nearest_training", extractor="thumbnails", **_NO_NETWORK,
           remarks="the reals are training videos, frames 0.. of each; 16x16 means"),
  Protocol("fvmd_release", extractor="fvmd_release", **_FVMD),
  Protocol("fvmd_true", extractor="fvmd_true", **_FVMD),
  # Without weights.
  Protocol("random_i3d_16f", extractor="random_i3d", sampling="random"),
  Protocol(
    "random_small_16f", extractor="random_small", resize="none", crop="none",
    sampling="random",
  ),
)  # fmt: skip
PRESETS = {protocol.name: protocol for protocol in _ALL}


def find(name: str, flag: str = "--protocol") -> Protocol:
  """Returns a preset. Raises ConfigError, which lists all."""
  if name not in PRESETS:
    raise ConfigError(f"{flag}={name}: not known; choose one of {', '.join(PRESETS)}")
  return PRESETS[name]

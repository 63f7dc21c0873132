# SPDX-License-Identifier: Apache-2.0
"""Clouds drifting over a dark ridge: a sky time-lapse of any length, with its truth.

The sky is a cloud plane seen in perspective: screen (x,y) in [0,1]^2, y downwards,
maps to plane coordinates (U,V) with V the distance. Wind moves the plane's noise, so
clouds creep at the horizon and rush overhead. Frame t does not depend on how many
frames are asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lamd_jax.data import philox
from lamd_jax.data.procedural import noise
from lamd_jax.data.records import WorldSample

VERSION = 1  # raise it whenever the bytes of a video change
MODES = ("drift", "two_layer", "dusk")

_TILE = 256  # pixels
_SCALE = 48.0  # tile pixels a unit of the cloud plane
_BANDS = ((2, 6), (6, 16), (16, 48))  # cycles a tile
_WEIGHTS = (1.0, 0.5, 0.25)
_BLOCK = 32  # frames between two draws of the sun, and of boiling noise
_RELIEF = 7  # tile pixels towards the sun at which relief is measured
_SKY_DEPTH = 100.0

# Colours at sun elevation 1 and 0, RGB in [0,1].
_DAY = {
  "zenith": (0.20, 0.40, 0.72),
  "haze": (0.74, 0.83, 0.92),
  "lit": (1.00, 1.00, 0.98),
  "shade": (0.56, 0.61, 0.69),
  "ground": (0.17, 0.24, 0.12),
  "glow": (0.25, 0.23, 0.16),
}
_DUSK = {
  "zenith": (0.09, 0.10, 0.27),
  "haze": (0.93, 0.48, 0.27),
  "lit": (0.98, 0.60, 0.42),
  "shade": (0.25, 0.19, 0.32),
  "ground": (0.06, 0.05, 0.08),
  "glow": (0.35, 0.24, 0.05),
}


class _Layer(NamedTuple):
  """A sheet of cloud."""

  tiles: list[np.ndarray]  # of blocks; each [256,256,6]: density bands, relief bands
  wind: np.ndarray  # [2] float32, plane units a frame
  coverage: float  # density where cloud begins: low is overcast
  opacity: float


class _Scene(NamedTuple):
  """What of a video does not depend on time, at one resolution."""

  horizon: float
  above: np.ndarray  # [H,W] bool: pixels that show cloud or air
  ground: np.ndarray  # [H,W,1] float32 cover of the ridge
  shading: np.ndarray  # [H,W,1] float32 brightness of the ridge
  u: np.ndarray  # [N] float32 plane coordinates of the pixels above
  v: np.ndarray
  bands: np.ndarray  # [N,3] float32 weight of each band, 0 where it would alias
  fade: np.ndarray  # [N] float32 cloud fades out at the horizon
  height: np.ndarray  # [N,1] float32 0 at the horizon, 1 at the top
  glow: np.ndarray  # [N,1] float32 closeness to the sun's azimuth


class Sky:
  """See the module; `sample` is the contract of `records.World`."""

  fps = 8.0

  def __init__(
    self, mode: str, seed: int = 0, *, shear: bool = False, boil: bool = False
  ):
    """Makes the world.

    Args:
      mode: drift | two_layer (a second sheet under its own wind) | dusk (low sun).
      seed: another seed is another data set.
      shear: finer bands move faster, so clouds deform.
      boil: noise turns into other noise in 32 frames, so clouds form and dissolve.
    """
    if mode not in MODES:
      raise ValueError(f"sky mode {mode!r}: choose one of {', '.join(MODES)}")
    self.mode, self.seed, self.shear, self.boil = mode, seed, shear, boil

  def sample(
    self,
    split: str,
    index: int,
    frames: int,
    size: int,
    start: int = 0,
    motion_index: int | None = None,
  ) -> WorldSample:
    """Renders frames start, ..., start+frames-1 of video `index` of `split`.

    `motion_index` takes wind and light from another video: the first frame stays and
    the future is redrawn.
    """
    motion = index if motion_index is None else motion_index
    look, horizon, coverage, azimuth = self._look(split, index)
    scene = _scene(horizon, azimuth, look, size)
    layers = self._layers(split, index, motion, azimuth, coverage, start, frames)
    times = np.arange(start, start + frames)
    sun = self._sun(split, index, motion, times)
    video = np.empty((frames, size, size, 3), np.uint8)
    instance = np.zeros((frames, size, size, 1), np.uint8)
    for i, t in enumerate(times):
      colour, cloud = self._frame(scene, layers, int(t), start, float(sun[i]))
      video[i] = (colour * 255 + 0.5).astype(np.uint8)
      instance[i, scene.above, 0] = np.where(cloud > 0.5, 2, 0)
    instance[:, scene.ground[..., 0] > 0.5] = 1
    rows = (np.arange(size) + 0.5) / size
    plane = np.minimum(0.35 / np.maximum(rows - horizon, 1e-6), _SKY_DEPTH)
    depth = np.where(instance == 1, plane[:, None, None], _SKY_DEPTH)
    state = {
      "wind": np.stack([layer.wind for layer in layers]),
      "horizon": np.float32(horizon),
      "coverage": np.float32(coverage),
      "sun": sun,
    }
    caption = self._caption(split, index, motion, coverage)
    return WorldSample(
      video, depth.astype(np.float32), instance, state, caption, self.fps
    )

  def caption(self, split: str, index: int) -> str:
    """Returns the caption of video `index`, without rendering it."""
    _, _, coverage, _ = self._look(split, index)
    return self._caption(split, index, index, coverage)

  def _caption(self, split: str, index: int, motion: int, coverage: float) -> str:
    wind = self._wind(split, motion, 0)
    return _caption(wind, coverage, self._sun(split, index, motion, 0))

  def _look(
    self, split: str, index: int
  ) -> tuple[np.random.Generator, float, float, float]:
    """Returns the stream of the look, and horizon, coverage and azimuth off it."""
    look = self._stream("look", split, index)
    horizon = 0.62 + 0.23 * look.random()
    coverage = -0.3 + 0.9 * look.random()
    return look, horizon, coverage, look.random()

  def _wind(self, split: str, motion: int, sheet: int) -> np.ndarray:
    """Returns the wind of a sheet of cloud, [2] float32, plane units a frame."""
    draw = self._stream(f"wind{sheet}", split, motion)
    angle, speed = 2 * np.pi * draw.random(), 0.02 + 0.08 * draw.random()
    return (speed * np.array([np.cos(angle), np.sin(angle)])).astype(np.float32)

  def _stream(self, name: str, split: str, index: int) -> np.random.Generator:
    return philox.generator("sky", VERSION, self.seed, name, split, index)

  def _sun(self, split: str, index: int, motion: int, times) -> np.ndarray:
    """Sun elevation in [0,1] at `times`, float32: linear between draws 32 frames apart."""
    block, within = np.divmod(times, _BLOCK)

    def draw(k: int) -> float:
      # The first elevation belongs to the look: redrawn motion keeps the first frame.
      owner = index if k == 0 else motion
      u = self._stream(f"sun{k}", split, owner).random()
      return u * 0.25 if self.mode == "dusk" else u

    knots = np.array([draw(k) for k in range(int(np.max(block)) + 2)])
    fraction = within / _BLOCK
    return ((1 - fraction) * knots[block] + fraction * knots[block + 1]).astype(np.float32)

  def _layers(
    self, split: str, index: int, motion: int, azimuth: float, coverage: float,
    start: int, frames: int,
  ) -> list[_Layer]:  # fmt: skip
    first, last = start // _BLOCK, (start + frames - 1) // _BLOCK + 1
    blocks = range(first, last + 1) if self.boil else range(1)
    layers = []
    for n in range(2 if self.mode == "two_layer" else 1):
      tiles = [
        # Noise of later blocks is future, so it comes with the motion.
        _tiles(self._stream(f"noise{n}.{b}", split, motion if b else index), azimuth)
        for b in blocks
      ]
      wind = self._wind(split, motion, n)
      # The second sheet lies over the first, thin and with more gaps.
      layers.append(
        _Layer(tiles, wind, coverage + 0.4 * n, 0.55 if n else 1.0)
      )
    return layers

  def _look_up(self, scene: _Scene, layer: _Layer, t: int, start: int) -> np.ndarray:
    """Returns density and relief of every band, [N,6]."""
    first = start // _BLOCK if self.boil else 0
    weights = [(layer.tiles[0], 1.0)]
    if self.boil:
      block, within = divmod(t, _BLOCK)
      angle = np.pi / 2 * within / _BLOCK  # squares of the weights sum to one
      weights = [
        (layer.tiles[block - first], float(np.cos(angle))),
        (layer.tiles[block - first + 1], float(np.sin(angle))),
      ]
    total = None
    for tiles, weight in weights:
      if self.shear:
        found = np.concatenate(
          [_shifted(scene, layer, t * (1 + 0.15 * i), tiles[..., i::3])
           for i in range(3)], 1
        )[:, (0, 2, 4, 1, 3, 5)]  # fmt: skip
      else:
        found = _shifted(scene, layer, float(t), tiles)
      total = found if len(weights) == 1 else found * np.float32(weight) + (
        0 if total is None else total
      )
    return total

  def _frame(
    self, scene: _Scene, layers: list[_Layer], t: int, start: int, sun: float
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns colours [H,W,3] in [0,1] and the cover of cloud [N]."""
    blend = float(noise.smoothstep(np.float64(sun)))
    tint = {
      k: (blend * np.array(_DAY[k]) + (1 - blend) * np.array(_DUSK[k])).astype(np.float32)
      for k in _DAY
    }
    colour = tint["haze"] + scene.height * (tint["zenith"] - tint["haze"])
    colour += scene.glow * tint["glow"]
    clear = np.ones(len(scene.u), np.float32)
    for layer in layers:
      found = self._look_up(scene, layer, t, start)
      parts = found[:, :3] * scene.bands
      density = parts[:, 0] + parts[:, 1] + parts[:, 2]
      parts = found[:, 3:] * scene.bands
      relief = parts[:, 0] + parts[:, 1] + parts[:, 2]
      alpha = noise.smoothstep((density - np.float32(layer.coverage)) / np.float32(0.9))
      alpha *= scene.fade * np.float32(layer.opacity)
      # Thick cloud is grey below, its rim towards the sun is bright.
      light = 0.72 + 0.42 * relief - 0.17 * np.maximum(density - layer.coverage - 0.5, 0)
      light = np.clip(light, 0, 1).astype(np.float32)[:, None]
      cloud = tint["shade"] + light * (tint["lit"] - tint["shade"])
      colour += alpha[:, None] * (cloud - colour)
      clear *= 1 - alpha
    picture = np.zeros((*scene.above.shape, 3), np.float32)
    picture[scene.above] = colour
    ground = tint["ground"] * scene.shading
    picture += scene.ground * (ground - picture)
    return np.clip(picture, 0, 1), 1 - clear


def _tiles(draw: np.random.Generator, azimuth: float) -> np.ndarray:
  """Returns [256,256,6] float32: three weighted density bands and their relief."""
  bands = noise.band_tiles(draw, _TILE, _BANDS) * np.array(_WEIGHTS)[:, None, None]
  # The sun stands beyond the clouds, left or right by its azimuth.
  side = round(_RELIEF * 1.6 * (azimuth - 0.5))
  towards = np.roll(bands, (-_RELIEF, -side), (1, 2))
  stack = np.concatenate([bands, bands - towards])
  return np.ascontiguousarray(stack.transpose(1, 2, 0), np.float32)


def _shifted(scene: _Scene, layer: _Layer, t: float, tiles: np.ndarray) -> np.ndarray:
  # In float64 and modulo the tile, so that frame 10,000 is as sharp as frame 0.
  shift = np.mod(layer.wind.astype(np.float64) * t * _SCALE, _TILE).astype(np.float32)
  return noise.lookup(tiles, scene.u - shift[0], scene.v - shift[1])


def _scene(
  horizon: float, azimuth: float, look: np.random.Generator, size: int
) -> _Scene:
  y, x = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
  ridge = horizon + 0.03 + 0.03 * noise.band_line(look, x[0], 1, 12)[None]
  texture = noise.band_line(look, x + 3 * y, 5, 40)
  ground = np.clip((y - ridge) * size + 0.5, 0, 1)
  above = ground < 1
  elevation = np.maximum(horizon - y, 0.03)
  q = 0.35 / elevation
  # Largest extent of a pixel on the plane, in tile pixels.
  footprint = _SCALE * np.maximum(1.2 * q, q / elevation) / size
  wavelength = _TILE / np.array([high for _, high in _BANDS])
  # Fades over the octave before half a wavelength instead of cutting there.
  bands = noise.smoothstep(2 - 4 * footprint[..., None] / wavelength)
  fade = noise.smoothstep((horizon - y) / 0.15)
  height = np.clip((horizon - y) / horizon, 0, 1) ** 0.7
  # Distance from where the sun stands, a little above the horizon.
  far = np.sqrt((x - azimuth) ** 2 + (1.5 * (y - horizon + 0.05)) ** 2)
  glow = np.maximum(1 - far / 0.6, 0) ** 2
  shading = (1 + 0.35 * texture) * (0.75 + 0.9 * np.clip((y - ridge) / 0.3, 0, 1))
  return _Scene(
    horizon, above, _single(ground[..., None]), _single(shading[..., None]),
    _single(1.2 * (x - 0.5) * q * _SCALE)[above], _single(q * _SCALE)[above],
    _single(bands)[above], _single(fade)[above], _single(height)[above][:, None],
    _single(glow)[above][:, None],
  )  # fmt: skip


def _single(a: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(a, np.float32)


def _caption(wind: np.ndarray, coverage: float, sun: float) -> str:
  """The closed grammar of the world: direction, cover and light."""
  if abs(wind[0]) >= abs(wind[1]):
    direction = "right" if wind[0] > 0 else "left"
  else:
    direction = "away" if wind[1] > 0 else "towards the viewer"
  cover = "overcast" if coverage < -0.05 else "cloudy" if coverage < 0.3 else "clear"
  light = "day" if sun > 0.5 else "sunset" if sun > 0.2 else "dusk"
  return f"clouds drift {direction} under a {cover} {light} sky."

# SPDX-License-Identifier: Apache-2.0
"""A denoiser's stage trained further, all of it or a part, on other data.

  full      all that the stage trained
  temporal  the layers that mix frames, so that pictures stay what they are
  lora      low-rank changes of the attention's projections (`systems.lora`), temporal
            ones among them

Whatever is not trained is a parameter group that no step names (`Stage.trained`), and
stays as it is, bit by bit; so do the stage's extras.
"""

from __future__ import annotations

from collections.abc import Mapping
import copy
import math

import jax
import jax.numpy as jnp

from lamd_jax import rng
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.systems import lora
from lamd_jax.systems import parameter_groups
from lamd_jax.systems.diffusion_stage import DenoiserStage
from lamd_jax.training import stage as stage_lib

Tree = stage_lib.Tree
HOW = ("full", "temporal", "lora")
DENOISER, TEMPORAL, LORA = "denoiser", "temporal", "lora"


class FurtherStage:
  """`stage` with its parameters divided into what is trained and what is not.

  It starts from the stage's own weights. With "lora" the network is W + alpha/rank A B
  in the place of W, and is itself at the start, since B is 0.
  """

  def __init__(self, stage: DenoiserStage, how: str, rank: int, alpha: float):
    """Args:
    stage: what is trained further.
    how: one of HOW.
    rank: of each change; only lora reads it and `alpha`.
    alpha: changes count alpha/rank.
    """
    self._stage, self._how, self._rank = copy.copy(stage), how, rank
    # Statistics stay those that the weights know.
    self._stage.measures = self._stage.measures_depth = False
    self._scale = alpha / rank if how == LORA else 0.0
    self.name = self.starts_from = stage.name
    self.frames, self.needs = stage.frames, stage.needs
    self.trains_on_latents = stage.trains_on_latents
    self.encoded_by, self.cached_as = stage.encoded_by, stage.cached_as
    # Steps of images leave the temporal layers out, which have a change here.
    self.variants = stage.variants if how == "full" else stage.variants[:1]
    self._divides = how == TEMPORAL and TEMPORAL not in stage.groups
    added = {"full": (), TEMPORAL: (TEMPORAL,) if self._divides else (), LORA: (LORA,)}
    self.groups = (*stage.groups, *added[how])
    self.averaged = ()
    if stage.averaged:
      self.averaged = stage.averaged if how == "full" else (how,)

  def variant_at(self, step: int) -> str:
    return self._stage.variant_at(step) if self._how == "full" else self.variants[0]

  def trained(self, variant: str) -> tuple[str, ...]:
    return self._stage.trained(variant) if self._how == "full" else (self._how,)

  def init(self, seed: int | None) -> tuple[dict[str, Tree], Tree]:
    params, extras = self._stage.init(seed)
    divided = self._divided(params)
    if self._how == LORA:
      divided[LORA] = lora.init(self._network(params), self._rank, seed)
    return divided, extras

  def check(self) -> tuple[int, int]:
    """Returns how many numbers are trained, and how many the stage has by itself.

    Raises:
      ConfigError: the network has nothing of what shall be trained.
    """
    params, _ = self.init(None)
    count = lambda groups: sum(
      math.prod(x.shape) for group in groups for x in jax.tree.leaves(params[group])
    )
    trained = self.trained(self.variants[0])
    if all(params[group] for group in trained):
      return count(trained), count(group for group in params if group != LORA)
    what = {TEMPORAL: "temporal layers", LORA: "attention"}[self._how]
    raise ConfigError(
      f"--how={self._how}: the network of {self.name} has no {what}; choose"
      f" {' or '.join(how for how in HOW if how != self._how)}"
    )

  def start(
    self, params: dict[str, Tree], extras: Tree, earlier: Mapping[str, Tree]
  ) -> tuple[dict[str, Tree], Tree]:
    own = {LORA: params[LORA]} if self._how == LORA else {}
    # A checkpoint leaves out a group without arrays.
    empty = {group: tree for group, tree in params.items() if not tree}
    taken = {**empty, **self._divided(earlier["params"]), **own}
    shapes = lambda tree: jax.tree.map(lambda x: tuple(x.shape), tree)
    if shapes(taken) != shapes(params):
      raise WeightsError(f"the weights of {self.name} are not those of its networks")
    return taken, earlier["extras"]

  def _divided(self, params: Mapping[str, Tree]) -> dict[str, Tree]:
    divided = dict(params)
    if self._divides:
      divided[DENOISER], divided[TEMPORAL] = parameter_groups.split(params[DENOISER])
    return divided

  def _network(self, params: Mapping[str, Tree]) -> Tree:
    """The parameters of the denoiser that steps here go through."""
    if TEMPORAL in self._stage.trained(self.variants[0]):
      return parameter_groups.merge(params[DENOISER], params[TEMPORAL])
    return params[DENOISER]

  def whole(self, params: Mapping[str, Tree]) -> dict[str, Tree]:
    """Returns the groups that the stage has by itself, changes added."""
    whole = {group: params[group] for group in self._stage.groups if group in params}
    if self._divides:
      whole[DENOISER] = parameter_groups.merge(params[DENOISER], params[TEMPORAL])
    if self._how == LORA:
      changes = {DENOISER: params[LORA]}
      if TEMPORAL in whole:
        changes[DENOISER], changes[TEMPORAL] = parameter_groups.split(params[LORA])
      for group, tree in changes.items():
        whole[group] = lora.merge(whole[group], tree, self._scale)
    return whole

  def forward(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
    variant: str,
  ) -> stage_lib.StageOutput:
    whole = self.whole(params)
    output = self._stage.forward(whole, extras, frozen, batch, streams, variant)
    losses = output.losses
    if self._how != "full":
      losses = {self._how: sum(losses.values(), jnp.zeros((), jnp.float32))}
    return output._replace(losses=losses, extras=extras)

  def preview(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
  ) -> dict[str, jax.Array]:
    return self._stage.preview(self.whole(params), extras, frozen, batch, streams)

  def finish(
    self, params: dict[str, Tree], extras: Tree, frozen: stage_lib.Frozen, batches
  ) -> Tree:
    return extras

  def encode(self, frozen: stage_lib.Frozen, batch: stage_lib.Batch):
    return self._stage.encode(frozen, batch)

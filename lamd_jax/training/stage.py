# SPDX-License-Identifier: Apache-2.0
"""The seam between the trainer and the systems: what a stage must offer.

The trainer knows no paper and no network. It holds a `Stage`, calls the functions
below inside its own jitted step, and treats parameters, extras and frozen weights
as opaque trees. This file is the only one of `training` that `systems` import.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax

from lamd_jax import rng
from lamd_jax import types

Tree = Any  # nested dict of arrays
# Weights that are read and not trained: of earlier stages, stage name -> {"params":
# {group: tree}, "extras": tree}, averages where a group keeps them; and of imported
# networks, name -> {"params": tree}.
Frozen = Mapping[str, Mapping[str, Tree]]
Batch = types.VideoBatch | types.LatentBatch


class StageOutput(NamedTuple):
  """What one forward pass yields."""

  losses: dict[str, jax.Array]  # one float32 scalar per group that is trained
  extras: Tree  # the updated extras
  metrics: dict[str, jax.Array]  # float32 scalars for the log, means over the batch


class Stage(Protocol):
  """One thing that is trained: an autoencoder with its critic, a denoiser, a prior.

  The order of updates. `forward` is computed once a micro-batch, at the parameters
  of the step's beginning, and feeds one loss per parameter group. The trainer
  differentiates the *sum* of the losses with respect to all groups, so a stage cuts
  with `stop_gradient` whatever must not flow between groups: the generator's loss
  sees the critic's parameters as constants and the critic's loss sees the
  reconstruction as a constant. All groups are then updated at once, each by its own
  optimizer. (The reference implementations update the critic after the generator,
  with a second forward; one forward costs half and differs by one generator step.)

  Micro-batches. With accumulation the batch is split, `forward` runs on each part in
  turn, gradients and metrics are averaged in float32, and `extras` are threaded: part
  k sees the extras that part k-1 returned. Running statistics therefore move once a
  micro-batch. Noise is keyed by example (`rng.Streams`), so the split does not change
  it; any quantity taken over the batch (batch statistics, the adaptive weight) is
  taken over the micro-batch.
  """

  name: str  # also the stage's folder in the workdir and its key in config.optim
  groups: tuple[str, ...]  # parameter groups, e.g. ("generator", "discriminator")
  averaged: tuple[str, ...]  # those of `groups` that keep a moving average in this run
  needs: tuple[str, ...]  # earlier stages and imported networks: keys of `frozen`
  # Static forms of the step, the dearest first; one compiled step each.
  variants: tuple[str, ...]
  # An earlier stage, or imported weights, from which this one goes on; "" for none.
  starts_from: str
  frames: int  # of a training clip
  trains_on_latents: bool  # it has `encode`, and takes LatentBatches as well
  encoded_by: tuple[str, ...]  # those of `needs` whose weights `encode` reads
  cached_as: str  # stages that name this alike share a latent cache

  def variant_at(self, step: int) -> str:
    """The variant of this step: a function of the step alone, equal on all hosts."""

  def trained(self, variant: str) -> tuple[str, ...]:
    """The groups that a step of this variant updates. The others, with their averages
    and the state of their optimizers, stay as they are, bit by bit."""

  def init(self, seed: int | None) -> tuple[dict[str, Tree], Tree]:
    """Returns ({group: parameters}, extras) as NumPy trees; compiles nothing. A seed of
    None gives shapes in place of the parameters' numbers."""

  def start(
    self, params: dict[str, Tree], extras: Tree, earlier: Mapping[str, Tree]
  ) -> tuple[dict[str, Tree], Tree]:
    """Returns what `init` gave with the weights of `starts_from` taken over, {"params":
    ..., "extras": ...}, averages where that stage kept them. NumPy; only called where
    `starts_from` names a stage."""

  def forward(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: Frozen,
    batch: Batch,
    streams: rng.Streams,
    variant: str,
  ) -> StageOutput:
    """Pure and traceable. `streams.step` is the int32 step, for schedules.

    `frozen` has, under the stage's own name, its averages before the step.
    """

  def preview(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: Frozen,
    batch: Batch,
    streams: rng.Streams,
  ) -> dict[str, jax.Array]:
    """Pure and traceable: named clips to look at, [N,T,H,W,3] uint8, rows = samples.

    Called with averaged parameters where they exist, and always with the same batch
    and streams, so that the clips of different steps can be compared.
    """

  def finish(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: Frozen,
    batches: Iterator[Batch],
  ) -> Tree:
    """Host function after the last step: returns the extras to store with the result
    (a latent scale measured on the data, say). `params` are the averaged ones.
    `batches` never ends; take as many as needed."""

  def encode(self, frozen: Frozen, batch: types.VideoBatch) -> types.LatentBatch:
    """Pure and traceable: what the latent cache stores. Only with `trains_on_latents`."""


class SingleVariant:
  """The part of the protocol that is alike in stages whose steps all train all groups."""

  groups: tuple[str, ...]
  variants = ("video",)
  starts_from = ""

  def variant_at(self, step: int) -> str:
    return "video"

  def trained(self, variant: str) -> tuple[str, ...]:
    return self.groups

  def finish(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: Frozen,
    batches: Iterator[Batch],
  ) -> Tree:
    return extras

# SPDX-License-Identifier: Apache-2.0
"""Gen-1 made to know a subject from a few pictures (arXiv 2302.03011, section 4.4).

The paper fine-tunes on 15 to 30 pictures, half of each batch being the subject's and
half training data. It does not say which parameters. Three ways:

  full     all that the stage trained; every second step is of clips, which hold no
           subject, since pictures have no motion to teach
  spatial  steps of pictures alone; the temporal layers stay as they are, bit by bit
  lora     likewise, and of the rest only low-rank changes of the attention are trained
"""

from __future__ import annotations

from collections.abc import Mapping

import jax

from lamd_jax import rng
from lamd_jax.systems import gen1
from lamd_jax.systems import gen1_stages
from lamd_jax.systems import lora
from lamd_jax.training import stage as stage_lib

Tree = stage_lib.Tree
HOW = ("full", "spatial", "lora")
_LORA = "lora"


class CustomStage(gen1_stages.Gen1Stage):
  """The stage that clips are drawn from, trained further."""

  def __init__(self, system: gen1.Gen1, how: str, rank: int):
    """Args:
    system: the networks.
    how: one of HOW.
    rank: of lora.
    """
    super().__init__(system, system.diffuser)
    self._how, self._rank = how, rank
    self._first = False  # the embeddings' statistics are the data's, not a subject's
    self.starts_from = system.diffuser
    self.averaged = ()
    if how != "full":
      self.variants = ("image",)
    if how == "lora":
      self.groups = (*self.groups, _LORA)

  def variant_at(self, step: int) -> str:
    return "video" if "video" in self.variants and step % 2 else "image"

  def trained(self, variant: str) -> tuple[str, ...]:
    return (_LORA,) if self._how == "lora" else super().trained(variant)

  def init(self, seed: int | None) -> tuple[dict[str, Tree], Tree]:
    params, extras = super().init(seed)
    if self._how == "lora":
      params[_LORA] = lora.init(params["denoiser"], self._rank, seed)
    return params, extras

  def start(
    self, params: dict[str, Tree], extras: Tree, earlier: Mapping[str, Tree]
  ) -> tuple[dict[str, Tree], Tree]:
    return {**params, **earlier["params"]}, earlier["extras"]

  def forward(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
    variant: str,
  ) -> stage_lib.StageOutput:
    return super().forward(self.merged(params), extras, frozen, batch, streams, variant)

  def _output(
    self, raw: jax.Array, target: jax.Array, t: jax.Array, z0: jax.Array, extras: Tree
  ) -> stage_lib.StageOutput:
    output = super()._output(raw, target, t, z0, extras)
    if self._how != "lora":
      return output
    loss = output.losses["denoiser"]  # merged: changes see its gradient
    return output._replace(losses={**output.losses, _LORA: loss})

  def merged(self, params: dict[str, Tree]) -> dict[str, Tree]:
    """Returns the groups that the stage had before, changes added."""
    if _LORA not in params:
      return params
    changed = {group: tree for group, tree in params.items() if group != _LORA}
    changed["denoiser"] = lora.merge(params["denoiser"], params[_LORA], 1.0)
    return changed

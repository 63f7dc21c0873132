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

from lamd_jax.systems import further_stage
from lamd_jax.systems import gen1
from lamd_jax.systems import gen1_stages

HOW = ("full", "spatial", "lora")


class CustomStage(further_stage.FurtherStage):
  """The stage that clips are drawn from, trained further."""

  def __init__(self, system: gen1.Gen1, how: str, rank: int):
    """Args:
    system: the networks.
    how: one of HOW.
    rank: of lora.
    """
    stage = gen1_stages.Gen1Stage(system, system.diffuser)
    what = how if how == further_stage.LORA else "full"
    super().__init__(stage, what, rank, alpha=rank)
    self.averaged = ()
    if how != "full":
      self.variants = ("image",)

  def variant_at(self, step: int) -> str:
    return "video" if "video" in self.variants and step % 2 else "image"

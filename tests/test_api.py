# SPDX-License-Identifier: Apache-2.0
"""What Python's users ask of a model that it cannot do is one line, and no traceback."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from lamd_jax.errors import ConfigError

CLIPS = np.zeros((1, 4, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
  return tiny.model(tiny.config())


@pytest.mark.parametrize(
  ["ask", "words"],
  [
    (lambda m: m.edit(CLIPS[0]), "edits of videos are of gen1's runs; this one is of lvdm"),
    (lambda m: m.plan_edit("in.mp4"), "edits of videos are of gen1's runs"),
    (lambda m: m.transfer(CLIPS, CLIPS[:, :1]), "motion transfer is of lamd's runs"),
    (lambda m: m.reconstruct(CLIPS[0]), r"give an array of clips \[N,T,H,W,3\] uint8"),
  ],
)
def test_what_a_model_cannot_do_is_one_line(model, ask, words):
  with pytest.raises(ConfigError, match=words) as error:
    ask(model)
  assert "\n" not in str(error.value)

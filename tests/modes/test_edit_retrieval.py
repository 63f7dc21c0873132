# SPDX-License-Identifier: Apache-2.0
"""Captions that find their pictures, and a prior that says nothing."""

import numpy as np

from lamd_jax.modes import edit_retrieval


class _Editor:
  """Embeds a picture and a caption by the number they hold; its prior is constant."""

  def embed(self, clips):
    return np.eye(8)[clips[:, :, 0, 0, 0]]

  def embed_texts(self, tokens):
    return np.eye(8)[tokens[:, 0]]

  def embed_by_prior(self, tokens):
    return np.ones((len(tokens), 8))


def _measure(prior):
  numbers = np.arange(8, dtype=np.uint8)
  pictures = np.broadcast_to(numbers[:, None, None, None, None], (8, 1, 2, 2, 3))
  texts = [f"picture {n}" for n in numbers]
  tokens = numbers[:, None].astype(np.int32)
  return edit_retrieval.measure(_Editor(), pictures, texts, tokens, prior, 50, 0)


def test_the_right_pictures_are_first_and_a_constant_scores_chance():
  found = _measure(prior=True)
  assert found["caption"]["recall@1"]["value"] == 1
  assert found["caption"]["median_rank"]["value"] == 1
  # One of eight, five of eight, and the middle of 1 to 8.
  chance = [found["prior"][name]["value"] for name in edit_retrieval._SCORES]
  np.testing.assert_allclose(chance, [1 / 8, 5 / 8, 4.5])


def test_a_run_without_a_prior_has_captions_alone():
  rows = edit_retrieval.table(_measure(prior=False)).rows
  assert [row[0] for row in rows] == ["by its caption", "by chance"]
  assert rows[0][1] == "1.000 [1.000, 1.000]" and rows[1][1] == "0.125"

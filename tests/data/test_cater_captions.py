# SPDX-License-Identifier: Apache-2.0
"""Captions of the cater world: they say what the state says, and can be read back."""

import numpy as np
import pytest

from lamd_jax.data.procedural.cater import actions
from lamd_jax.data.procedural.cater import captions
from lamd_jax.data.procedural.cater import Cater
from lamd_jax.data.procedural.cater import scene as scenes
from lamd_jax.data.procedural.cater import shapes
from lamd_jax.errors import ConfigError


def _words_of(thing, mode):
  shape = shapes.NAMES[thing.shape]
  if mode == "v1":
    return (shape,)
  colour = scenes.COLOUR_NAMES[thing.colour]
  return (scenes.SIZES[thing.size], colour, scenes.MATERIALS[thing.material], shape)


@pytest.mark.parametrize("mode", ["v1", "v2"])
@pytest.mark.parametrize("ambiguous", [False, True])
def test_captions_parse_back_to_the_state(mode, ambiguous):
  world = Cater(mode)
  for index in range(80):
    scene, motion = world._plan("train", index, None)
    caption = world.caption("train", index, ambiguous=ambiguous)
    said = captions.parse(caption)
    acting = [k for k, a in enumerate(motion.action) if a in (1, 2, 3, 4)]
    assert len(said) == len(acting)
    for sentence, k in zip(said, acting, strict=True):
      assert sentence.action == motion.action[k]
      true = _words_of(scene.things[k], mode)
      said_words = set(sentence.subject)
      assert sentence.subject == true or (ambiguous and said_words <= set(true))
      assert sentence.subject[-1] == true[-1]
      x, y = motion.position[-1, k, :2]
      if sentence.cell:
        centre = [captions.cell_centre(c) for c in sentence.cell]
        assert np.abs(np.array(centre) - [x, y]).max() <= 0.5
      if sentence.quadrant is not None:
        assert sentence.quadrant == [[2, 1], [3, 0]][int(x >= 0)][int(y >= 0)]
      if sentence.action == actions.CONTAIN:
        held = _words_of(scene.things[motion.partner[k]], mode)
        assert set(sentence.contained) <= set(held)
      targeted = sentence.action in (actions.SLIDE, actions.PICK_PLACE)
      assert targeted == (sentence.cell is not None or sentence.quadrant is not None)
      assert not (ambiguous and sentence.cell)
    vocabulary = captions.vocabulary(mode)
    assert set(captions.words(caption)) <= set(vocabulary)
    # Words and spaces can be put back: nothing of the caption is lost.
    glued = "".join(captions.words(caption))
    assert glued == caption.replace(" ", "")


def test_a_caption_word_for_word():
  text = " the cone is sliding to (-1, 2). the snitch is rotating."
  assert captions.words(text) == (
    "the cone is sliding to ( -1 , 2 ) . the snitch is rotating .".split()
  )
  assert captions.parse(text) == [
    captions.Sentence(("cone",), actions.SLIDE, cell=(-1, 2)),
    captions.Sentence(("snitch",), actions.ROTATE),
  ]


def test_cells_and_quadrants():
  """The rule of the specification: ceil(v-1) in (-3,0], ceil(v) above."""
  values = [-2.9, -2.0, -1.5, -1.0, -0.1, 0.0, 0.1, 1.0, 1.1, 2.9]
  assert [captions.cell(v) for v in values] == [-3, -3, -2, -2, -1, -1, 1, 1, 2, 3]
  assert [captions.quadrant(*p) for p in ((0, 0), (-1, 0), (-1, -1), (0, -1))] == [
    0, 1, 2, 3,
  ]  # fmt: skip


def test_vocabularies():
  v1, v2 = captions.vocabulary("v1"), captions.vocabulary("v2")
  assert len(v1) == 30 and v1[:3] == ("[PAD]", "[CLS]", "[SEP]")  # the reference's
  assert v2[:30] == v1 and len(set(v2)) == len(v2) == 47


@pytest.mark.parametrize("text", ["the dog is rotating.", "the cone is cone.", "[PAD]"])
def test_other_text_is_named(text):
  with pytest.raises(ConfigError):
    captions.parse(text)


@pytest.mark.parametrize("mode", scenes.MODES)
def test_appearance_says_what_is_there(mode):
  world = Cater(mode)
  for index in range(30):
    caption = world.appearance("test", index)
    scene, _ = world._plan("test", index, None)
    true = np.array([thing[:4] for thing in scene.things], np.uint8)
    said = captions.parse_appearance(caption)
    assert said.dtype == np.uint8 and np.array_equal(said, true)


def test_appearance_word_for_word_and_blind_to_motion():
  world = Cater("v1")
  # The scene of this index, read off its state by hand: colour and material vary.
  _, size, colour, material = world.sample("train", 3, 2, 16).state["attributes"][1]
  looks = f"{scenes.COLOUR_NAMES[colour]} {scenes.MATERIALS[material]}"
  assert scenes.SIZES[size] == "medium"
  caption = world.appearance("train", 3)
  assert caption == f" a medium {looks} cone and the snitch."
  moving = {world.sample("train", 3, 2, 16, motion_index=i).caption for i in range(6)}
  assert len(moving) > 1 and caption not in moving
  assert len({world.appearance("train", i) for i in range(40)}) > 8  # of 8 x 2


def test_appearance_is_read_whatever_the_case_and_space():
  text = "A medium red metal cone,  a small cyan rubber cube and the snitch"
  said = captions.parse_appearance(text)
  words = [
    (shapes.NAMES[a], scenes.SIZES[b], scenes.COLOUR_NAMES[c], scenes.MATERIALS[d])
    for a, b, c, d in said
  ]
  assert words == [
    ("snitch", "small", "gold", "metal"), ("cone", "medium", "red", "metal"),
    ("cube", "small", "cyan", "rubber"),
  ]  # fmt: skip


@pytest.mark.parametrize(
  "text",
  ["", "the cone is rotating.", "a gold cone and the snitch.", "a medium red metal cone.",
   "a medium red metal cone and the snitch. and more",
   "a medium gold metal cone and the snitch."],
)  # fmt: skip
def test_other_text_is_no_appearance(text):
  with pytest.raises(ConfigError, match="write for example") as error:
    captions.parse_appearance(text)
  assert "\n" not in str(error.value)

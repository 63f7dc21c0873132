"""The plot is well-formed, escapes its names and puts points where they belong."""

import re
from xml.etree import ElementTree

from lamd_jax import line_plot


def test_lines_lie_on_the_axes():
  text = line_plot.svg("a < b", "frame", "d", {"x & y": [(0, 0.0), (10, 4.0)]})
  root = ElementTree.fromstring(text)  # raises if it is not well-formed
  points = re.search(r'points="([^"]+)"', text).group(1).split()
  (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points)
  # Zero lies on the lower edge, the highest value close below the upper one.
  assert (x0, y0) == (56, 294) and x1 == 616 and 34 < y1 < 60
  texts = {element.text for element in root.iter() if element.tag.endswith("text")}
  assert {"a < b", "x & y", "frame", "d", "0", "2", "4", "10"} <= texts


def test_a_flat_line_and_a_single_point_are_plots_too():
  for line in ([(3, 0.0)], [(0, 5.0), (1, 5.0)]):
    ElementTree.fromstring(line_plot.svg("t", "x", "y", {"a": line}))

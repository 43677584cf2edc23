"""Figures of attention show what they are given."""

import numpy as np
import pytest

from llmkit.plots import attention


def test_maps_hide_what_is_masked_and_tell_weights_from_scores():
    scores = np.array([[1.0, -np.inf], [-2.0, 0.5]])
    left, right = attention.maps({"scores": scores, "weights": [[1, 0], [0.1, 0.9]]}, ["a", "b"]).axes
    assert left.images[0].get_array().mask.tolist() == [[False, True], [False, False]]
    assert left.images[0].get_clim() == (-2, 2)  # zero is the middle, whatever the numbers
    assert right.images[0].get_clim()[0] == 0
    assert [label.get_text() for label in right.get_yticklabels()] == ["a", "b"]


def test_saturation_draws_both_measurements():
    left, right = attention.saturation([4, 16], [4.2, 15.0], {"as they are": [0.5, 0.9], "scaled": [0.3, 0.3]}).axes
    assert [list(line.get_ydata()) for line in left.lines] == [[4, 16], [4.2, 15.0]]
    assert [list(line.get_ydata()) for line in right.lines] == [[0.5, 0.9], [0.3, 0.3]]


def test_by_head_writes_every_number():
    (axes,) = attention.by_head({"induction": np.array([[0.1, 0.2, 0.3], [0.0, 0.75, 0.5]])}).axes
    assert [text.get_text() for text in axes.texts] == ["0.10", "0.20", "0.30", "0.00", "0.75", "0.50"]
    assert axes.texts[4].get_color() == "white"  # on the darkest tint


def test_ablations_have_intervals_and_the_floor():
    (axes,) = attention.ablations({"nothing": (0.1, 0.05, 0.2), "a head": (1.0, 0.5, 1.5)}, floor=0.0).axes
    assert [bar.get_width() for bar in axes.patches] == [0.1, 1.0]
    ends = [end for segment in axes.collections[0].get_segments() for end in segment[:, 0]]
    assert ends == pytest.approx([0.05, 0.2, 0.5, 1.5])
    assert axes.get_xlim()[1] > 1.5

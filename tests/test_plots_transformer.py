"""Figures of a transformer's parts show what they are given."""

import math

import numpy as np
import pytest

from llmkit.plots import transformer


def test_stream_has_its_parts_between_the_layers():
    (axes,) = transformer.stream([1.0, 2.0, 4.0], [0.5, 1.0], [0.7, 3.0]).axes
    assert list(axes.lines[0].get_ydata()) == [1.0, 2.0, 4.0]
    assert [bar.get_height() for bar in axes.patches] == [0.5, 1.0, 0.7, 3.0]
    assert all(0 < bar.get_x() + bar.get_width() / 2 < 2 for bar in axes.patches)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "end"]


def test_a_line_of_depth_ends_where_the_numbers_do():
    (axes,) = transformer.depth({"a": [1, 2, 3], "b": [1, 10, math.nan], "c": [1, 0, 0]}, "scale").axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[1, 2, 3], [1, 10], [1]]
    assert [line.get_label() for line in axes.lines] == ["a", "b (to layer 1)", "c (to layer 0)"]
    assert axes.get_yscale() == "log"


def test_shares_add_up_and_name_the_large_ones():
    (axes,) = transformer.shares({"weights": {"x": 3, "y": 1}, "work": {"x": 1, "y": 99}}).axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.75, 0.01, 0.25, 0.99])
    assert [text.get_text() for text in axes.texts] == ["75%", "25%", "99%"]  # 1 % has no room


def test_without_writes_every_number():
    (axes,) = transformer.without(np.array([[0.1, 2.0], [0.0, 0.5]]), ["attention 0", "MLP 0"], ["bio", "story"]).axes
    assert [text.get_text() for text in axes.texts] == ["0.10", "2.00", "0.00", "0.50"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["attention 0", "MLP 0"]

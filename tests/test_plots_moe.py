"""Figures of a mixture of experts show what they are given."""

import numpy as np
import pytest

from llmkit.plots import moe


def test_loads_are_stacked_to_one_and_the_last_ones_written():
    history = np.array([[0.25, 0.25, 0.25, 0.25], [0.9, 0.07, 0.03, 0.0]])
    (left, right) = moe.loads({"even": history[:1].repeat(3, 0), "collapsed": history}).axes
    assert left.get_title() == "even" and [text.get_text() for text in left.texts][0] == "0: 25%"
    assert [text.get_text() for text in right.texts] == ["0: 90%"]  # the rest has no room
    tops = [band.get_paths()[0].vertices[:, 1].max() for band in right.collections]
    assert tops == pytest.approx([0.9, 0.97, 1.0, 1.0])


def test_who_goes_where_writes_every_share():
    left, right = moe.who_goes_where({"layer 0": {"names": [0.5, 0.5], "digits": [1.0, 0.0]},
                                      "layer 1": {"story": [0.25, 0.75]}}).axes
    assert [text.get_text() for text in left.texts] == ["50", "50", "100", "0"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["names", "digits"]
    assert [text.get_text() for text in right.texts] == ["25", "75"]


def test_explained_has_a_bar_a_layer_and_a_mark_for_what_chance_explains():
    shares, shuffled = {"token": [0.8, 0.6], "kind": [0.1, 0.2]}, {"token": [0.05, 0.04], "kind": [0.0, 0.01]}
    (axes,) = moe.explained(shares, shuffled).axes
    assert [bar.get_height() for bar in axes.patches] == [0.8, 0.6, 0.1, 0.2]
    marks = [segment[0][1] for lines in axes.collections for segment in lines.get_segments()]
    assert marks == [0.05, 0.04, 0.0, 0.01]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"token", "kind", "the same, shuffled"}


def test_losses_are_means_of_the_seeds_above_the_floor():
    (axes,) = moe.losses({"dense": ([10, 20], [[3.0, 2.0], [4.0, 2.5]]), "sparse": ([10, 20], [2.5, 1.5])}, 0.5).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[3.5, 2.25], [2.5, 1.5], [0.5, 0.5]]
    assert [line.get_label() for line in axes.lines] == ["dense", "sparse", "least possible"]
    (axes,) = moe.losses({"dense": ([10, 20], [3.0, 2.0])}, floor=0.5, stranger=1.5).axes
    assert [line.get_label() for line in axes.lines[1:]] == ["a stranger", "least possible"]
    assert [line.get_ydata()[0] for line in axes.lines[1:]] == [1.5, 0.5]


def test_dropped_has_shares_in_percent_beside_what_they_cost():
    left, right = moe.dropped([1.0, 2.0], {"balanced": [0.2, 0.0]}, {"balanced": [0.3, 0.0]}).axes
    assert list(left.lines[0].get_ydata()) == [20.0, 0.0] and list(right.lines[0].get_ydata()) == [0.3, 0.0]

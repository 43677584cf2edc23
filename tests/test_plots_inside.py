"""Figures of lessons 04 and 05 show what they are given."""

import numpy as np
import pytest

from llmkit.plots import positions, token_to_logits


def test_grid_writes_each_number_into_its_cell():
    values = np.array([[0.5, -0.001], [0.25, -1.0]])
    axes = token_to_logits.grid(values, ["a", "b"], ["x", "y"], half=np.full((2, 2), 0.125)).axes[0]
    assert axes.images[0].get_array().tolist() == values.tolist()
    assert [text.get_text() for text in axes.texts] == ["0.50 ± 0.12", "0.00 ± 0.12", "0.25 ± 0.12", "-1.00 ± 0.12"]
    assert [text.get_position() for text in axes.texts] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert axes.images[0].get_clim() == (-1, 1)


def test_the_lens_is_drawn_by_its_mean():
    axes = token_to_logits.lens_by_layer({"fact": np.array([[4.0, 2.0], [1.0, 1.0]])}).axes[0]
    assert list(axes.lines[0].get_ydata()) == [3.0, 1.0] and axes.lines[0].get_label() == "fact"


def test_loss_by_position_has_the_mean_of_the_runs_and_the_floor():
    losses = {"rope": [[1.0, 2.0], [3.0, 4.0]], "alibi": [1.0, 1.5]}
    axes = positions.by_position(losses, [0.5, 0.5], width=32, trained=32).axes[0]
    rope, alibi, floor = axes.lines
    assert list(rope.get_ydata()) == [2.0, 3.0] and list(rope.get_xdata()) == [16.0, 48.0]
    assert list(alibi.get_ydata()) == [1.0, 1.5] and list(floor.get_ydata()) == [0.5, 0.5]


def test_needle_maps_write_percents_and_draw_the_line_under_the_trained_length():
    axes = positions.needle_maps({"rope": [[1.0, 0.5], [0.0, 0.25]]}, (64, 128), (0.0, 1.0), trained=64).axes[0]
    assert [text.get_text() for text in axes.texts] == ["100", "50", "0", "25"]
    assert axes.lines[0].get_ydata()[0] == 0.5


def test_turns_are_counted_over_the_trained_length():
    axes = positions.turns({"rope": [2 * np.pi / 64, np.pi / 64]}, trained=64).axes[0]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([1, 0.5])


def test_waves_show_how_alike_two_positions_are():
    left, right = positions.waves(np.eye(8)).axes
    assert left.images[0].get_array().shape == (8, 8)
    assert [list(line.get_ydata()) for line in right.lines] == [[1, 0, 0, 0]] * 2

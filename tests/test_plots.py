"""Figures show what they are given: the numbers are in the drawing."""

import io

import pytest
import torch
from PIL import Image

from llmkit.plots import training
from llmkit.train import Record

RECORDS = [Record(s, 7.0 / s + 0.5, 1e-3, 1.0, s * 100, 1000.0, 0.1 * s) for s in range(1, 50)]


def test_loss_curve_ends_above_its_floor():
    axes = training.loss_curve(RECORDS, floor=0.45).axes[0]
    batches, smoothed, floor = axes.lines
    assert list(batches.get_ydata()) == [r.loss for r in RECORDS]
    assert smoothed.get_ydata()[0] == pytest.approx(RECORDS[0].loss)
    assert min(smoothed.get_ydata()) > floor.get_ydata()[0] == 0.45


def test_a_smoothed_curve_does_not_lag():
    falling = [Record(s, 10.0 - 0.1 * s, 1e-3, 1.0, s * 100, 1000.0, 0.1 * s) for s in range(1, 50)]
    batches, smoothed, _ = training.loss_curve(falling, floor=0.45).axes[0].lines
    assert smoothed.get_ydata()[:-10] == pytest.approx(batches.get_ydata()[:-10])


def test_loss_by_kind_stacks_the_excess_on_the_floor():
    axes = training.loss_by_kind({"a": 1.0, "b": 2.0}, {"a": 0.75, "b": 0.5}).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.75, 0.5, 0.25, 1.5]
    assert [text.get_text() for text in axes.texts] == ["+0.25", "+1.50"]


def test_knowledge_has_both_readers_and_the_facts():
    recalled = [(0.1, 0.05, 0.2), (0.6, 0.5, 0.7)]
    above, below = training.knowledge([1, 2], [30.0, 25.0], recalled, [0.5, 0.9], stranger=28.0, truth=15.0).axes
    assert [line.get_ydata()[0] for line in above.lines] == [28.0, 30.0, 15.0]
    assert [list(line.get_ydata()) for line in below.lines] == [[0.5, 0.9], [0.1, 0.6]]
    assert above.get_ylim()[1] > 30.0
    stored = above.collections[0].get_paths()[0].get_extents()  # what the model knows: from the stranger down to it
    assert (stored.y0, stored.y1) == (25.0, 28.0)


def test_differences_are_drawn_run_by_run_around_zero():
    axes = training.differences({"story": [0.1, -0.2], "all": [0.0, 0.05]}, "without − with").axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    points = [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in dots]
    assert points == [[(0, 0.1), (0, -0.2)], [(1, 0.0), (1, 0.05)]]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["story", "all"]


def test_mix_has_a_bar_for_each_share():
    axes = training.mix({"documents": {"a": 0.75, "b": 0.25}, "tokens": {"a": 0.5, "b": 0.5}}).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.75, 0.25, 0.5, 0.5]
    assert [text.get_text() for text in axes.texts] == ["75%", "25%", "50%", "50%"]


def test_attention_mask_is_drawn_row_by_row():
    mask = torch.tensor([[True, False], [True, True]])
    axes = training.attention_mask(mask, ["x", "y"]).axes[0]
    assert axes.images[0].get_array().tolist() == mask.tolist()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y"]


def test_learning_rates_are_those_of_the_schedules():
    axes = training.learning_rates({"up": lambda step: step / 4, "down": lambda step: 1 - step / 4}, 3).axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[0, 0.25, 0.5], [1, 0.75, 0.5]]


def test_a_loss_below_the_floor_is_in_the_picture():
    below = [Record(s, 3.0 / s, 1e-3, 1.0, s * 100, 1000.0, 0.1 * s) for s in range(1, 50)]
    axes = training.loss_curves({"right": RECORDS, "broken": below}, floor=0.45).axes[0]
    assert len(axes.lines) == 3
    assert axes.get_ylim()[0] < min(axes.lines[1].get_ydata()) < 0.45


def test_train_and_validation_in_a_panel_for_each_run():
    runs = {"much": [(1, 3.0, 3.1), (2, 2.5, 2.7)], "little": [(1, 2.0, 3.3), (2, 1.0, 3.6)]}
    much, little = training.train_and_validation(runs, {"gzip": 2.6}).axes
    assert [list(line.get_ydata()) for line in little.lines] == [[2.6, 2.6], [2.0, 1.0], [3.3, 3.6]]
    assert much.get_title() == "much" and much.texts[0].get_text() == "gzip"


def test_live_loss_draws_once_and_then_updates(monkeypatch):
    shown = []

    class Handle:
        def update(self, picture):
            shown.append(picture)

    monkeypatch.setattr(training, "display", lambda picture, display_id: shown.append(picture) or Handle())
    live = training.LiveLoss(steps=3, floor=0.5, every_s=0.0)
    for record in RECORDS[:3]:
        live(record)
    assert len(shown) == 3
    assert Image.open(io.BytesIO(shown[-1].data)).size[0] > 300

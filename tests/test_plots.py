"""Figures show what they are given: the numbers are in the drawing."""

import io

import pytest
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


def test_loss_by_kind_stacks_the_excess_on_the_floor():
    axes = training.loss_by_kind({"a": 1.0, "b": 2.0}, {"a": 0.75, "b": 0.5}).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.75, 0.5, 0.25, 1.5]
    assert [text.get_text() for text in axes.texts] == ["+0.25", "+1.50"]


def test_knowledge_has_both_readers():
    axes = training.knowledge([1, 2], [30.0, 25.0], stranger=28.0, truth=15.0).axes[0]
    assert [line.get_ydata()[0] for line in axes.lines] == [30.0, 28.0, 15.0]


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

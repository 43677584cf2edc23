"""The scaling desk, without a browser."""

import re

import numpy as np
import pytest
import torch
from widget_checks import assert_bundle, assert_harmless, assert_readable, texts

from llmkit.scaling import Law, as_table, interval
from llmkit.widgets.scaling import Desk, Run, band, best_sizes, draw, losses, scaling_desk

LAW = Law(E=0.5, A=150, B=6000, alpha=0.45, beta=0.62)
OTHERS = [Law(0.5 + 0.002 * k, 150 + k, 6000 + 30 * k, 0.45, 0.62) for k in range(-10, 11)]
GRID = [Run(n, d, LAW.loss(n, d)) for n in (5e4, 1e5, 2e5) for d in (1e5, 4e5, 1.6e6)]
HELD_OUT = [Run(8e5, d, 1.1 * LAW.loss(8e5, d)) for d in (1e6, 4e6)]


@pytest.fixture
def desk():
    return Desk({"fitted": [LAW, *OTHERS]}, GRID, HELD_OUT, floor=0.52)


@pytest.fixture
def frame(desk):
    return scaling_desk(*desk)


def test_all_laws_at_once_are_each_law_by_itself():
    table, flops = as_table(OTHERS).numpy(), np.array([1e11, 1e14])
    sizes = best_sizes(table, flops)
    for k, law in enumerate(OTHERS):
        for p, budget in enumerate(flops):
            n, d = law.optimal(budget)
            assert sizes[k, p] == pytest.approx(n)
            assert losses(table, n, d)[k, 0] == pytest.approx(law.loss(n, d))


def test_a_band_is_the_interval_of_the_lesson():
    values = torch.rand(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = band(values.numpy())
    for p in range(3):
        assert (low[p], high[p]) == pytest.approx(interval(values[:, p].tolist()))


def test_the_line_says_what_the_law_says(desk):
    said = draw(desk, "fitted", 1e13, 1.0, 0.0).said
    n, d = LAW.optimal(1e13)
    assert f"best N {n / 1e3:.3g}k [" in said and f"and D {d / 1e6:.3g}M, {d / n:.0f} tokens a parameter" in said
    assert f"loss {LAW.loss(n, d):.3f} [" in said and "known entropy 0.520" in said
    assert f"That is {1e13 / (6 * 2e5 * 1.6e6):.0f} times the largest budget in the fit." in said
    assert "Nothing is served" in said and "times that size" not in said


def test_the_nearest_held_out_run_is_compared_with_its_prediction(desk):
    for budget, run in ((1e12, HELD_OUT[0]), (1e14, HELD_OUT[1])):
        said = draw(desk, "fitted", budget, 1.0, 0.0).said
        assert f"predicted {LAW.loss(run.n, run.d):.3f} [" in said and f"measured {run.loss:.3f}." in said
    assert "eld-out" not in draw(desk._replace(held_out=[]), "fitted", 1e12, 1.0, 0.0).said


def test_who_serves_much_is_told_of_a_smaller_model(desk):
    n, d = LAW.optimal(1e13)
    small, long = LAW.cheapest(LAW.loss(n, d), 1e9)
    saved = 1 - (6 * small * long + 2e9 * small) / (6 * n * d + 2e9 * n)
    said = draw(desk, "fitted", 1e13, 1.0, 1e9).said
    assert f"To serve 1B tokens at this loss, cheapest in all: N {small / 1e3:.3g}k" in said
    assert f"{saved:.0%} less than with the best N." in said and small < n and saved > 0.1


@pytest.mark.parametrize("budget", [1e9, 1e12, 1e17])
@pytest.mark.parametrize("size", [0.125, 1.0, 8.0])
@pytest.mark.parametrize("served", [0.0, 1e12])
def test_every_corner_is_drawn_inside_its_panels(desk, budget, size, served):
    picture = draw(desk, "fitted", budget, size, served).svg
    assert "nan" not in picture and "inf" not in picture
    inside = [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.e+]+),([-\d.e+]+)", picture)]
    assert all(0 <= x <= 841 and 39 <= y <= 291 for x, y in inside)


def test_the_desk_moves(frame):
    before = frame.svg
    frame.controls["budget"].value = 1e12
    assert frame.said.startswith("budget (FLOPs): ") and "1.0e+12 FLOPs: best N" in frame.said
    assert frame.svg != before and "loss by size, at 1.0e+12 FLOPs" in texts(frame.svg)
    frame.controls["size"].value = 2.0
    assert frame.said.startswith("N, times the best: 1 → 2.") and "With 2.00 times that size" in frame.said
    frame.controls["served"].value = 1e8
    assert "To serve 100M tokens" in frame.said
    assert_readable(frame.svg)
    assert_harmless(frame)
    assert_bundle(frame)

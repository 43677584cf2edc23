"""Figures of scaling laws show what they are given."""

import pytest
from matplotlib.colors import to_rgba

from llmkit.plots import scaling, short
from llmkit.scaling import Law

LAW = Law(E=0.5, A=150, B=6000, alpha=0.45, beta=0.62)
SIZES = {50_000: [(4e5, 2.0), (1e5, 3.0)], 200_000: [(1e5, 2.5), (4e5, 1.5)]}


def test_runs_stand_in_the_order_of_their_tokens_and_other_runs_by_name():
    (axes,) = scaling.curves(SIZES, 0.5, others={"base": [(1e7, 0.55)]}).axes
    assert [list(line.get_ydata()) for line in axes.lines[:3]] == [[3.0, 2.0], [2.5, 1.5], [0.55]]
    assert [line.get_label() for line in axes.lines[:3]] == ["N = 50k", "N = 200k", "base"]
    assert list(axes.lines[3].get_ydata()) == [0.5, 0.5]


def test_a_law_is_drawn_through_its_runs():
    (axes,) = scaling.curves(SIZES, 0.5, LAW).axes
    along, loss = axes.lines[1].get_data()
    assert list(loss) == pytest.approx([LAW.loss(50_000, d) for d in along]) and axes.lines[0].get_linestyle() == "None"


def test_intervals_have_a_bar_for_each_name_and_the_truth():
    (axes,) = scaling.intervals({"a": (0.5, 0.4, 0.7), "b": (0.6, 0.5, 0.8)}, 0.52, "E").axes
    assert [list(line.get_xdata()) for line in axes.lines[::2][:2]] == [[0.4, 0.7], [0.5, 0.8]]
    assert list(axes.lines[4].get_xdata()) == [0.52, 0.52] and axes.get_xlabel() == "E"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert len(scaling.intervals({"a": (0.5, 0.4, 0.7)}, None, "E").axes[0].lines) == 2


def test_isoflops_have_their_lowest_points_where_the_law_has_them():
    (axes,) = scaling.isoflops(LAW, [1e11, 1e13], [1e4, 1e5, 1e6]).axes
    assert list(axes.lines[1].get_ydata()) == pytest.approx([LAW.loss(n, 1e13 / 6 / n) for n in (1e4, 1e5, 1e6)])
    assert list(axes.lines[2].get_xdata()) == pytest.approx([LAW.optimal(1e11)[0], LAW.optimal(1e13)[0]])


def test_runs_beside_the_isoflops_have_the_shade_of_what_they_cost():
    runs = [(1e5, 1e11 / 6e5, 2.0), (1e6, 1e13 / 6e6, 1.5)]  # n, d, loss: of the two budgets exactly
    (axes,) = scaling.isoflops(LAW, [1e11, 1e13], [1e4, 1e5, 1e6], runs).axes
    (circles,) = axes.collections
    assert circles.get_offsets().tolist() == [[1e5, 2.0], [1e6, 1.5]]
    for circle, line in zip(circles.get_edgecolors(), axes.lines[:2], strict=True):
        assert tuple(circle) == pytest.approx(to_rgba(line.get_color()), abs=0.02)


def test_predictions_stand_beside_what_was_measured():
    (axes,) = scaling.predictions([1e6], {"law": [(0.7, 0.6, 0.9)]}, [0.72]).axes
    low, high = axes.collections[0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.6, 0.9)) and list(axes.lines[-1].get_ydata()) == [0.72]


def test_total_cost_has_its_lowest_points_where_the_law_has_them():
    n = [2e5, 4e5, 8e5]
    (axes,) = scaling.total_cost(LAW, 1.2, [0.0, 1e9], n).axes
    assert list(axes.lines[0].get_ydata()) == pytest.approx([6 * size * LAW.tokens_to_reach(1.2, size) for size in n])
    assert axes.lines[3].get_xdata()[0] == pytest.approx(LAW.cheapest(1.2, 1e9)[0])


@pytest.mark.parametrize(("count", "text"), [(870_000, "870k"), (4.2e6, "4.2M"), (512, "512"), (1.5e12, "1.5e+12")])
def test_counts_in_short(count, text):
    assert short(count) == text

"""Scaling desk (lesson 07): a compute budget, what the fitted law makes of it, and what a deployment costs in the end.

    budget -> the best N and D, the loss they are to reach        beside it: runs that the fit never saw
    N, tokens to serve -> 6 N D for training + 2 N a token served, at the loss of the budget's best model

Bands and brackets are 95 % intervals over the bootstrapped laws. Shapes: M laws (the fit first), P points of a curve.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import ipywidgets
import numpy as np

from llmkit.plots import DRAWN, MODEL, NEW, NEXT, STRANGER, TRUTH, short
from llmkit.scaling import Law, as_table
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture

WIDTH, HEIGHT, TOP, GAP, N_POINTS = 840, 250, 40, 52, 49
PANEL = (WIDTH - 3 * GAP - 8) / 3
SERVED = (0.0, *(10.0**k for k in range(5, 13)))


class Run(NamedTuple):
    """A trained model: parameters, tokens, nats/token on held-out documents."""

    n: float
    d: float
    loss: float

    @property
    def flops(self) -> float:
        return 6 * self.n * self.d


class Desk(NamedTuple):
    """What stays while controls move."""

    laws: Mapping[str, Sequence[Law]]  # by name: the fit, and after it those of its bootstrap
    fitted: Sequence[Run]
    held_out: Sequence[Run]
    floor: float  # the known entropy, nats/token


def scaling_desk(
    laws: Mapping[str, Sequence[Law]], fitted: Sequence[Run], held_out: Sequence[Run], floor: float
) -> Frame:
    """Drag the budget, the size beside the best one, and the tokens to be served; `laws` as in Desk."""
    desk, wide = Desk(laws, fitted, held_out, floor), {"description_width": "initial"}
    most = math.log10(max(run.flops for run in (*fitted, *held_out)))
    budgets = dict(min=math.floor(most) - 3, max=math.ceil(most) + 3, step=0.1, readout_format=".1e")
    start = 10 ** round(most, 1)
    controls = {
        "law": ipywidgets.Dropdown(options=list(laws), description="law"),
        "budget": ipywidgets.FloatLogSlider(start, description="budget (FLOPs)", style=wide, **budgets),
        "size": ipywidgets.FloatLogSlider(
            1.0, base=2, min=-3, max=3, step=0.25, description="N, times the best", style=wide, readout_format=".2f"
        ),
        "served": ipywidgets.SelectionSlider(
            options=[(short(s) if s else "none", s) for s in SERVED], description="tokens to serve", style=wide
        ),
    }
    return Frame("Scaling desk", lambda **state: draw(desk, **state), controls)


def draw(desk: Desk, law: str, budget: float, size: float, served: float) -> Picture:
    """Frontier, isoFLOP curve and deployment, with what they say in words."""
    fit, table = desk.laws[law][0], as_table(desk.laws[law]).numpy()
    best_n, best_d = fit.optimal(budget)
    n, goal = size * best_n, fit.loss(best_n, best_d)
    left, middle, right = (GAP + k * (PANEL + GAP) for k in range(3))
    parts = _frontier(left, desk, table, budget)
    parts += _isoflop(middle, table, budget, best_n, n, desk.floor)
    parts += _deployment(right, fit, goal, best_n, n, served)
    words = [
        _budget_words(fit, table, desk, budget),
        _size_words(fit, budget, size, n),
        _near(fit, table, desk, budget),
    ]
    words.append(_deployment_words(fit, goal, best_n, best_d, served))
    label = f"Scaling desk at {budget:.1e} FLOPs"
    return Picture(svg.drawing(WIDTH, TOP + HEIGHT + 72, parts, label), " ".join(filter(None, words)))


# ---- numbers: for all laws at once ----


def losses(table: np.ndarray, n, d) -> np.ndarray:
    """(M, 5) laws; n and d that broadcast to (M, P) -> (M, P) nats/token."""
    E, A, B, alpha, beta = table.T[:, :, None]  # each (M, 1)
    return E + A * n**-alpha + B * d**-beta


def best_sizes(table: np.ndarray, flops) -> np.ndarray:
    """(M, 5) laws; (P,) budgets -> (M, P): each law's own optimal n."""
    E, A, B, alpha, beta = table.T[:, :, None]
    return (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (flops / 6) ** (beta / (alpha + beta))


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M, P) -> the lower and upper end of the middle 95 %, (P,) each."""
    low, high = np.quantile(values, (0.025, 0.975), axis=0)
    return low, high


# ---- words ----


def _budget_words(fit: Law, table, desk: Desk, budget: float) -> str:
    n, d = fit.optimal(budget)
    sizes = best_sizes(table, np.array([budget]))
    low, high = (short(float(end[0])) for end in band(sizes))
    least, most = (float(end[0]) for end in band(losses(table, sizes, budget / 6 / sizes)))
    beyond = budget / max(run.flops for run in desk.fitted)
    said = f"{budget:.1e} FLOPs: best N {short(n)} [{low}, {high}] and D {short(d)}, {d / n:.0f} tokens a parameter; "
    said += f"loss {fit.loss(n, d):.3f} [{least:.3f}, {most:.3f}], known entropy {desk.floor:.3f}."
    return said + (f" That is {beyond:.0f} times the largest budget in the fit." if beyond > 1.5 else "")


def _size_words(fit: Law, budget: float, size: float, n: float) -> str:
    return "" if size == 1 else f"With {size:.2f} times that size, N {short(n)}: {fit.loss(n, budget / 6 / n):.3f}."


def _near(fit: Law, table, desk: Desk, budget: float) -> str:
    if not desk.held_out:
        return ""
    run = min(desk.held_out, key=lambda run: abs(math.log(run.flops / budget)))
    low, high = (float(end[0]) for end in band(losses(table, run.n, run.d)))
    said = f"Held-out run nearest to it: N {short(run.n)}, D {short(run.d)}, predicted {fit.loss(run.n, run.d):.3f} "
    return said + f"[{low:.3f}, {high:.3f}], measured {run.loss:.3f}."


def _deployment_words(fit: Law, goal: float, best_n: float, best_d: float, served: float) -> str:
    n, d = fit.cheapest(goal, served)
    saved = 1 - (6 * n * d + 2 * n * served) / (6 * best_n * best_d + 2 * best_n * served)
    if not served:
        return "Nothing is served, so the best model is the cheapest."
    said = f"To serve {short(served)} tokens at this loss, cheapest in all: N {short(n)}, D {short(d)} "
    return said + f"({d / n:.0f} tokens a parameter), {saved:.0%} less than with the best N."


# ---- panels ----


class Axes:
    """A panel at x with logarithmic axes, `low` to `high` each; what lies outside is cut off by the caller."""

    def __init__(self, x: float, across: tuple[float, float], up: tuple[float, float]):
        self.left, self.across, self.up = x, across, up

    def x(self, value: float) -> float:
        low, high = self.across
        return self.left + PANEL * math.log(value / low) / math.log(high / low)

    def y(self, value: float) -> float:
        low, high = self.up
        return TOP + HEIGHT * (1 - math.log(min(max(value, low), high) / low) / math.log(high / low))

    def line(self, xs, ys, colour: str, **style) -> str:
        low, high = self.up
        kept = [(self.x(x), self.y(y)) for x, y in zip(xs, ys, strict=True) if low <= y <= high]
        return svg.path(kept, colour, **style) if len(kept) > 1 else ""

    def band(self, xs, lows, highs, colour: str) -> str:
        there = [(self.x(x), self.y(y)) for x, y in zip(xs, lows, strict=True)]
        back = [(self.x(x), self.y(y)) for x, y in zip(xs, highs, strict=True)]
        return svg.path(there + back[::-1], "none", fill=colour, fill_opacity=0.22)

    def mark(self, x: float, y: float, colour: str, square: bool = False, hollow: bool = False) -> str:
        ink = dict(stroke=colour, stroke_width=1.5) if hollow else {}
        place = self.x(x) - 3.5, self.y(y) - 3.5, 7, 7
        return svg.rect(*place, "none" if hollow else colour, rx=None if square else 3.5, **ink)

    def frame(self, title: str, below: str, ticks_x: Sequence[float], ticks_y: Sequence[float],
              name: Callable[[float], str]) -> list[str]:  # fmt: skip
        bottom = TOP + HEIGHT
        parts = [svg.text(self.left - 40, 14, title, font_size=12, font_weight="bold")]
        parts.append(svg.rect(self.left, TOP, PANEL, HEIGHT, "none", stroke="currentColor", stroke_opacity=0.4))
        for tick in ticks_y:
            parts.append(svg.line(self.left, self.y(tick), self.left + PANEL, self.y(tick), stroke_opacity=0.12))
            parts.append(svg.text(self.left - 5, self.y(tick) + 4, name(tick), text_anchor="end", font_size=10))
        for tick in ticks_x:
            parts.append(svg.line(self.x(tick), bottom, self.x(tick), bottom + 4))
            parts.append(svg.text(self.x(tick), bottom + 16, _tick(tick), text_anchor="middle", font_size=10))
        middle = self.left + PANEL / 2
        return [*parts, svg.text(middle, bottom + 32, below, text_anchor="middle", font_size=11)]


def _tick(value: float) -> str:
    return f"1e{round(math.log10(value))}" if value >= 1e9 else short(value)


def _powers(low: float, high: float, steps: Sequence[float] = (1,)) -> list[float]:
    """The powers of ten from low to high, and these multiples of them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**k for k in decades for step in steps if low <= step * 10.0**k <= high]


def _frontier(x: float, desk: Desk, table, budget: float) -> list[str]:
    """Loss against compute: runs, the best loss of each budget with its band, the entropy."""
    runs = [*desk.fitted, *desk.held_out]
    across = min(budget, *(run.flops for run in runs)) / 2, max(budget, *(run.flops for run in runs)) * 2
    up = 0.85 * min(desk.floor, float(table[0, 0])), 1.1 * max(run.loss for run in runs)
    axes, flops = Axes(x, across, up), np.geomspace(*across, N_POINTS)
    sizes = best_sizes(table, flops)
    curves = losses(table, sizes, flops / 6 / sizes)  # (M, P)
    ticks = _powers(*across)
    ticks = ticks[:: 1 + len(ticks) // 5]
    parts = axes.frame(
        "loss (nats/token) by compute", "FLOPs for training, 6 N D", ticks, _powers(*up, (1, 1.5, 2, 3, 5, 7)), _plain
    )
    parts += [axes.line(across, (desk.floor,) * 2, TRUTH, stroke_width=1.5, stroke_dasharray="5 3")]
    parts += [axes.band(flops, *band(curves), MODEL), axes.line(flops, curves[0], MODEL, stroke_width=2.0)]
    parts += [axes.mark(run.flops, run.loss, STRANGER, hollow=True) for run in desk.fitted]
    parts += [axes.mark(run.flops, run.loss, NEXT, square=True) for run in desk.held_out]
    parts.append(svg.line(axes.x(budget), TOP, axes.x(budget), TOP + HEIGHT, NEW, stroke_width=2))
    legend = [("runs in the fit", STRANGER), ("held out", NEXT), ("best of the law", MODEL), ("entropy, known", TRUTH)]
    for k, (name, colour) in enumerate(legend):
        y = TOP + HEIGHT + 42 + 15 * (k // 2)
        parts.append(svg.rect(x - 40 + 130 * (k % 2), y, 9, 9, colour))
        parts.append(svg.text(x - 26 + 130 * (k % 2), y + 9, name, font_size=10))
    return parts


def _isoflop(x: float, table, budget: float, best_n: float, n: float, floor: float) -> list[str]:
    """Loss of every size that has this budget, and the interval of the best one."""
    sizes = np.geomspace(best_n / 12, best_n * 12, N_POINTS)
    curves = losses(table, sizes, budget / 6 / sizes)
    low, high = band(curves)
    up = 0.95 * min(floor, float(low.min())), 1.05 * float(curves[0].max())
    axes = Axes(x, (sizes[0], sizes[-1]), up)
    ticks = _powers(*up, (1, 1.5, 2, 3, 5, 7)) or [up[0] * 1.1]
    parts = axes.frame(
        f"loss by size, at {budget:.1e} FLOPs", "parameters N", _powers(*axes.across, (1, 3)), ticks, _plain
    )
    parts += [axes.line(axes.across, (floor, floor), TRUTH, stroke_width=1.5, stroke_dasharray="5 3")]
    parts += [axes.band(sizes, low, high, MODEL), axes.line(sizes, curves[0], MODEL, stroke_width=2.0)]
    ends = [min(max(float(end[0]), sizes[0]), sizes[-1]) for end in band(best_sizes(table, np.array([budget])))]
    y = TOP + 12
    parts.append(svg.line(axes.x(ends[0]), y, axes.x(ends[1]), y, MODEL, stroke_width=3))
    parts.append(svg.text(axes.x(best_n), y + 16, "best N, 95 %", text_anchor="middle", font_size=10))
    here = float(losses(table[:1], best_n, budget / 6 / best_n)[0, 0])
    parts.append(axes.mark(best_n, here, MODEL))
    chosen = float(losses(table[:1], n, budget / 6 / n)[0, 0])
    for k, (name, colour) in enumerate((("best N", MODEL), ("chosen N", NEW))):
        parts.append(svg.rect(x - 40 + 80 * k, TOP + HEIGHT + 42, 9, 9, colour))
        parts.append(svg.text(x - 26 + 80 * k, TOP + HEIGHT + 51, name, font_size=10))
    return [*parts, axes.mark(n, chosen, NEW, square=True)]


def _deployment(x: float, fit: Law, goal: float, best_n: float, n: float, served: float) -> list[str]:
    """FLOPs for this loss by size: training, serving, and both."""
    cheap_n, cheap_d = fit.cheapest(goal, served)
    smallest = (fit.A / (goal - fit.E)) ** (1 / fit.alpha)
    sizes = np.geomspace(smallest * 1.02, best_n * 12, N_POINTS)
    training = np.array([6 * size * fit.tokens_to_reach(goal, size) for size in sizes])
    serving = 2 * sizes * served
    least = 6 * cheap_n * cheap_d + 2 * cheap_n * served
    up = least / 30, least * 30
    axes = Axes(x, (sizes[0], sizes[-1]), up)
    title = f"FLOPs for a loss of {goal:.3f}"
    parts = axes.frame(title, "parameters N", _powers(*axes.across, (1, 3)), _powers(*up), _tick)
    parts.append(axes.line(sizes, training, MODEL, stroke_width=1.5, stroke_dasharray="4 3"))
    parts.append(axes.line(sizes, serving, DRAWN, stroke_width=2.0, stroke_dasharray="2 3") if served else "")
    parts.append(axes.line(sizes, training + serving, "currentColor", stroke_width=2.0))
    for k, (name, colour) in enumerate((("training", MODEL), ("serving", DRAWN), ("both", "currentColor"))):
        parts.append(svg.rect(x - 40 + 74 * k, TOP + HEIGHT + 42, 9, 9, colour))
        parts.append(svg.text(x - 26 + 74 * k, TOP + HEIGHT + 51, name, font_size=10))
    parts.append(axes.mark(cheap_n, least, TRUTH))
    parts.append(svg.text(axes.x(cheap_n), axes.y(least) - 10, "cheapest", text_anchor="middle", font_size=10))
    if n > smallest * 1.02:
        cost = 6 * n * fit.tokens_to_reach(goal, n) + 2 * n * served
        parts.append(axes.mark(n, cost, NEW, square=True))
    return parts


def _plain(value: float) -> str:
    return f"{value:.2g}"

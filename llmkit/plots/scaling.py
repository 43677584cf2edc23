"""Figures of scaling laws: runs and their law, budgets and their best sizes, what was predicted and what came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from llmkit.plots import MODEL, NEW, NEXT, TRUTH, short
from llmkit.scaling import Law, isoflop

LOSSES = (0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7, 10)
ESTIMATES = (MODEL, NEXT, NEW)  # several laws for the same runs, in their order


def curves(sizes: Mapping[int, Sequence[tuple[float, float]]], floor: float, law: Law | None = None,
           others: Mapping[str, Sequence[tuple[float, float]]] | None = None) -> Figure:  # fmt: skip
    """Loss by tokens, both logarithmic: (D, loss) of each size N, the law through them, and other runs by name."""
    figure = Figure(figsize=(7.4, 3.8), layout="constrained")
    axes = figure.subplots()
    shades = colormaps["viridis"](np.linspace(0.85, 0.1, len(sizes)))
    for (n, points), shade in zip(sorted(sizes.items()), shades, strict=True):
        d, loss = zip(*sorted(points), strict=True)
        axes.plot(d, loss, "o" if law else "o-", color=shade, markersize=4.5, linewidth=1, label=f"N = {short(n)}")
        if law:
            along = np.geomspace(min(d), max(d), 40)
            axes.plot(along, [law.loss(n, x) for x in along], color=shade, linewidth=1.3)
    for (name, points), mark in zip((others or {}).items(), "sD^", strict=False):
        d, loss = zip(*sorted(points), strict=True)
        axes.plot(d, loss, mark, color=NEXT, markersize=6, label=name)
    axes.axhline(floor, color=TRUTH, linestyle="--", label=f"entropy: {floor:.3f}")
    axes.set(xlabel="tokens D", ylabel="loss (nats/token)")
    return _logs(figure, axes)


def intervals(estimates: Mapping[str, tuple[float, float, float]], truth: float | None, what: str) -> Figure:
    """(value, low, high) of each name as a point on a bar, beside the true value if there is one."""
    figure = Figure(figsize=(7, 0.9 + 0.36 * len(estimates)), layout="constrained")
    axes = figure.subplots()
    for row, (value, low, high) in enumerate(estimates.values()):
        axes.plot([low, high], [row, row], color=MODEL, linewidth=2.5, alpha=0.6)
        axes.plot(value, row, "o", color=MODEL)
    if truth is not None:
        axes.axvline(truth, color=TRUTH, linestyle="--", label=f"true: {truth:.3f}")
        axes.legend(frameon=False, loc="upper right", fontsize=8)
    axes.set_yticks(range(len(estimates)), estimates)
    axes.set(xlabel=what, ylim=(len(estimates) - 0.5, -0.5))
    return figure


def isoflops(
    law: Law, budgets: Sequence[float], n: Sequence[float], runs: Sequence[tuple[float, float, float]] = ()
) -> Figure:
    """The loss of each size in `n` at each budget, their lowest points, and the path that these take.

    Measured `runs`, (n, d, loss), are circles, in the shade of what they cost: 6 n d.
    """
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes, shades = figure.subplots(), np.linspace(0.85, 0.1, len(budgets))
    for budget, shade in zip(budgets, shades, strict=True):
        axes.plot(n, isoflop(law, budget, n), color=colormaps["viridis"](shade), label=f"{budget:.0e} FLOPs")
    best = [law.optimal(budget) for budget in budgets]
    axes.plot([size for size, _ in best], [law.loss(*pair) for pair in best], "o:", color=TRUTH, label="best size")
    if runs:
        size, d, loss = np.array(runs).T
        spent = colormaps["viridis"](np.interp(np.log(6 * size * d), np.log(budgets), shades))
        axes.scatter(size, loss, s=24, facecolors="none", edgecolors=spent, linewidths=1.2, label="runs", zorder=3)
    axes.set(xlabel="parameters N", ylabel="loss (nats/token)")
    return _logs(figure, axes)


def predictions(
    tokens: Sequence[float], predicted: Mapping[str, Sequence[tuple[float, float, float]]], measured: Sequence[float]
) -> Figure:
    """What laws by name predicted for a model after each number of tokens (value, low, high), and what it reached."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for k, (name, rows) in enumerate(predicted.items()):
        value, low, high = np.array(rows).T
        places = np.asarray(tokens) * 1.05 ** (2 * k - len(predicted) + 1)
        axes.errorbar(places, value, (value - low, high - value), fmt="o", color=ESTIMATES[k], capsize=3, label=name)
    axes.plot(tokens, measured, "x", color="black", markersize=9, markeredgewidth=2, label="measured")
    axes.set(xlabel="tokens D", ylabel="loss (nats/token)")
    return _logs(figure, axes)


def total_cost(law: Law, loss: float, served: Sequence[float], n: Sequence[float]) -> Figure:
    """FLOPs for training and serving together of every size in `n` that reaches `loss`, by tokens served."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    shades = colormaps["viridis"](np.linspace(0.85, 0.1, len(served)))
    able = [size for size in n if np.isfinite(law.tokens_to_reach(loss, size))]
    for tokens, shade in zip(served, shades, strict=True):
        cost = [6 * size * law.tokens_to_reach(loss, size) + 2 * size * tokens for size in able]
        axes.plot(able, cost, color=shade, label=f"{short(tokens)} tokens served")
        cheap, d = law.cheapest(loss, tokens)
        axes.plot(cheap, 6 * cheap * d + 2 * cheap * tokens, "o", color=TRUTH)
    axes.set(xlabel="parameters N", ylabel="FLOPs in all", xscale="log", yscale="log")
    _counts(axes)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _counts(axes: Axes) -> None:
    """Counts along the x axis, in short."""
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _logs(figure: Figure, axes: Axes) -> Figure:
    axes.set(xscale="log", yscale="log")
    low, high = axes.get_ylim()
    ticks = [loss for loss in LOSSES if low <= loss <= high]
    axes.set_yticks(ticks, [f"{loss:g}" for loss in ticks])
    axes.yaxis.set_minor_formatter(NullFormatter())
    _counts(axes)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure

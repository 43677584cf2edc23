"""Figures of attention: what queries give to keys, why scores are scaled, what heads do and what goes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmkit.plots import MODEL, NEXT, STRANGER, TRUTH


def maps(panels: Mapping[str, np.ndarray], tokens: Sequence[str]) -> Figure:
    """Tables (T, T) side by side, queries down and keys across. Weights (none negative) in blue from 0 to 1; scores in
    orange below zero and blue above; hidden places (-inf) in grey."""
    figure = Figure(figsize=(4.1 * len(panels), 4.3), layout="constrained")
    for axes, (title, table) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        table = np.asarray(table, dtype=float)
        most = np.abs(table[np.isfinite(table)]).max()
        signed = {"cmap": "RdBu", "vmin": -most, "vmax": most} if table.min() < 0 else {"cmap": "Blues", "vmin": 0}
        axes.set_facecolor("#cccccc")
        axes.imshow(np.ma.masked_invalid(table), **signed)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=7)
        axes.set_yticks(range(len(tokens)), tokens, fontsize=7)
    return figure


def saturation(dims: Sequence[int], variances: Sequence[float], largest: Mapping[str, Sequence[float]]) -> Figure:
    """By length d of the vectors: the variance of q · k beside d itself; the largest of the weights, by how the scores
    were scaled."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(dims, dims, color=TRUTH, linestyle="--", label="d")
    left.plot(dims, variances, color=MODEL, marker="o", linestyle="", label="measured")
    left.set(xscale="log", yscale="log", xlabel="d, numbers in a vector", ylabel="variance of q · k")
    left.legend(frameon=False)
    for (name, values), color in zip(largest.items(), (STRANGER, MODEL), strict=False):
        right.plot(dims, values, color=color, marker="o", label=name)
    right.set(xscale="log", xlabel="d, numbers in a vector", ylabel="largest weight (mean)", ylim=(0, 1.02))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xticks(dims, dims)
        axes.minorticks_off()
    return figure


def by_head(scores: Mapping[str, np.ndarray]) -> Figure:
    """A number for each head: tables (L, H) side by side, layers down."""
    figure = Figure(figsize=(3.2 * len(scores), 3), layout="constrained")
    for axes, (title, table) in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores.items(), strict=True):
        n_layer, n_head = np.shape(table)
        numbers(axes, np.asarray(table), range(n_layer), range(n_head), "{:.2f}")
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="head", ylabel="layer")
    return figure


def numbers(axes: Axes, table: np.ndarray, rows: Sequence, columns: Sequence, form: str) -> None:
    """A table of numbers on a tint of their size, the largest the darkest."""
    top = max(float(np.max(table)), 1e-9)
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1.2 * top, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        ink = "white" if value > 0.65 * top else "black"
        axes.text(j, i, form.format(value), ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)


def ablations(losses: Mapping[str, tuple[float, float, float]], floor: float, unit: str = "nats") -> Figure:
    """Bars of (loss, low, high) by what was taken out, the first one (nothing) as a line through all, and the floor."""
    figure = Figure(figsize=(7, 0.6 + 0.42 * len(losses)), layout="constrained")
    axes = figure.subplots()
    value, low, high = np.array(list(losses.values())).T
    axes.barh(range(len(losses)), value, color=[NEXT] + [MODEL] * (len(losses) - 1), height=0.6)
    axes.errorbar(value, range(len(losses)), xerr=(value - low, high - value), fmt="none", color="black", capsize=3)
    axes.axvline(value[0], color=NEXT, linestyle=":", linewidth=1)
    axes.axvline(floor, color=TRUTH, linestyle="--", linewidth=1.5, label=f"least possible: {floor:g}")
    axes.set_yticks(range(len(losses)), losses)
    axes.invert_yaxis()
    axes.set(xlabel=f"loss ({unit})", xlim=(min(0, floor - 0.05), 1.08 * max(high)))
    axes.legend(frameon=False, loc="lower right")
    return figure

"""Figures of a transformer's parts: what they write and cost, what is lost without them, and depth at the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from llmkit.plots import MODEL, NEW, NEXT, STRANGER
from llmkit.plots.attention import numbers

ATTENTION, MLP = NEXT, MODEL
PARTS = (STRANGER, ATTENTION, MLP, NEW)  # of stacked bars: vocabulary, attention, MLP, and one more
STACKS = (MODEL, NEXT, NEW, STRANGER)  # of layers, in their order


def stream(sizes: Sequence[float], attention: Sequence[float], mlps: Sequence[float]) -> Figure:
    """How large the stream is before each layer and at the end (L + 1 numbers), and what each layer's parts add (L)."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes, layers = figure.subplots(), np.arange(len(mlps))
    axes.plot(range(len(sizes)), sizes, color=STRANGER, marker="o", label="the stream")
    axes.bar(layers + 0.35, attention, 0.28, color=ATTENTION, label="attention adds")
    axes.bar(layers + 0.65, mlps, 0.28, color=MLP, label="the MLP adds")
    axes.set_xticks(range(len(sizes)), [*map(str, layers), "end"])
    axes.set(xlabel="before layer", ylabel="root mean square")
    axes.legend(frameon=False)
    return figure


def depth(runs: Mapping[str, Sequence[float]], what: str) -> Figure:
    """A number by depth for each named stack of layers, on a logarithmic axis; a line ends where it is zero or nan."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for (name, values), color in zip(runs.items(), STACKS, strict=False):
        values = np.array(values, dtype=float)
        ends = np.flatnonzero(~np.isfinite(values) | (values == 0))
        last = ends[0] if len(ends) else len(values)
        label = name if last == len(values) else f"{name} (to layer {last - 1})"
        axes.plot(range(last), values[:last], color=color, marker=".", label=label)
    axes.set(xlabel="layers passed", ylabel=what, yscale="log", xlim=(0, None))
    axes.legend(frameon=False)
    return figure


def shares(costs: Mapping[str, Mapping[str, float]]) -> Figure:
    """A bar of one length for each kind of cost, divided among the parts."""
    figure = Figure(figsize=(7.5, 0.7 + 0.55 * len(costs)), layout="constrained")
    axes = figure.subplots()
    parts = list(next(iter(costs.values())))
    left = np.zeros(len(costs))
    for part, color in zip(parts, PARTS, strict=False):
        values = np.array([by_part[part] / sum(by_part.values()) for by_part in costs.values()])
        axes.barh(range(len(costs)), values, left=left, color=color, label=part)
        for row, (start, value) in enumerate(zip(left, values, strict=True)):
            if value > 0.04:
                ink = "white" if color == MLP else "black"
                axes.text(start + value / 2, row, f"{value:.0%}", ha="center", va="center", fontsize=8, color=ink)
        left += values
    axes.set_yticks(range(len(costs)), costs)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xticks=[])
    axes.legend(frameon=False, ncols=len(parts), loc="upper center", bbox_to_anchor=(0.5, 0), fontsize=8)
    return figure


def without(table: np.ndarray, parts: Sequence[str], kinds: Sequence[str]) -> Figure:
    """What each part's absence adds to the loss (nats/token), by kind of document: a row for each part."""
    figure = Figure(figsize=(7, 0.8 + 0.3 * len(parts)), layout="constrained")
    axes = figure.subplots()
    numbers(axes, np.asarray(table).round(2) + 0.0, parts, kinds, "{:.2f}")  # no minus before a zero
    axes.xaxis.tick_top()
    return figure

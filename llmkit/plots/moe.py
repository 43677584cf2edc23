"""Figures of a mixture of experts: loads over training, who goes where, what explains it, what is dropped, and losses.

Shapes: S steps, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from llmkit.plots import CYCLE, DRAWN, MODEL, NEW, NEXT, STRANGER, TRUTH

RUNS = ((MODEL, "o", "-"), (NEXT, "s", "-"), (NEW, "^", "-"), (DRAWN, "D", "--"), (STRANGER, "v", ":"))


def loads(histories: Mapping[str, np.ndarray]) -> Figure:
    """What share of a layer's tokens each expert got, step by step (S, E), one panel a run: a band for each expert."""
    figure = Figure(figsize=(1 + 2.6 * len(histories), 2.7), layout="constrained")
    panels = figure.subplots(1, len(histories), sharey=True, squeeze=False)[0]
    for axes, (name, history) in zip(panels, histories.items(), strict=True):
        history = np.asarray(history)
        n_steps, n_expert = history.shape
        shades = colormaps["viridis"](np.linspace(0.1, 0.95, n_expert))
        axes.stackplot(np.arange(1, n_steps + 1), history.T, colors=shades, edgecolor="white", linewidth=0.4)
        axes.set(xlim=(1, n_steps), ylim=(0, 1), xlabel="step")
        axes.set_title(name, fontsize=10)
        below = np.cumsum(history[-1]) - history[-1]
        for expert, share in enumerate(history[-1]):
            if share >= 0.08:
                axes.text(1.02 * n_steps, below[expert] + share / 2, f"{expert}: {share:.0%}", fontsize=7, va="center")
    panels[0].set_ylabel("share of the tokens")
    return figure


def who_goes_where(tables: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """For each panel, rows by name: the share of the row's tokens that each expert got (E,), in percent."""
    rows = max(len(table) for table in tables.values())
    figure = Figure(figsize=(1.5 + 3.6 * len(tables), 0.9 + 0.33 * rows), layout="constrained")
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, (title, table) in zip(panels, tables.items(), strict=True):
        shares = np.array(list(table.values()))
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for place, share in np.ndenumerate(shares):
            ink = "white" if share > 0.6 else "black"
            axes.text(*place[::-1], f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=ink)
        axes.set_yticks(range(len(table)), table)
        axes.set(xticks=range(shares.shape[1]), xlabel="expert")
        axes.set_title(title, fontsize=10)
    return figure


def explained(shares: Mapping[str, Sequence[float]], shuffled: Mapping[str, Sequence[float]]) -> Figure:
    """What part of the uncertainty about the expert each known thing takes away, a bar a layer, and as a mark what it
    seems to take away when it is shuffled."""
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    axes, width = figure.subplots(), 0.8 / len(shares)
    for k, (name, values) in enumerate(shares.items()):
        at = np.arange(len(values)) + (k - (len(shares) - 1) / 2) * width
        axes.bar(at, values, 0.92 * width, color=CYCLE[k], label=name)
        axes.hlines(shuffled[name], at - 0.46 * width, at + 0.46 * width, color="black", linewidth=2,
                    label="the same, shuffled" if k == len(shares) - 1 else None)  # fmt: skip
    axes.set_xticks(range(len(values)), [f"layer {layer}" for layer in range(len(values))])
    axes.set(ylabel="share of the choice explained", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def losses(
    runs: Mapping[str, tuple[Sequence[float], Sequence]], floor: float | None = None, stranger: float | None = None
) -> Figure:
    """Loss by step for each named run: (steps, losses), the losses of one seed (S,) or of several (seeds, S), drawn as
    their mean and range; the least possible loss, and that of a stranger, as lines."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for (name, (steps, values)), (colour, marker, line) in zip(runs.items(), RUNS, strict=False):
        values = np.atleast_2d(values)
        axes.plot(steps, values.mean(0), line, color=colour, marker=marker, markersize=4, label=name)
        axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
    for level, colour, line, name in ((stranger, STRANGER, ":", "a stranger"), (floor, TRUTH, "--", "least possible")):
        if level is not None:
            axes.axhline(level, color=colour, linestyle=line, linewidth=1.2, label=name)
    axes.set(xlabel="step", ylabel="loss (nats/token)")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def dropped(
    factors: Sequence[float], shares: Mapping[str, Sequence[float]], extra: Mapping[str, Sequence[float]]
) -> Figure:
    """By capacity factor, for each named model: the share of the assignments that find no room, and what it costs."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, (colour, marker, line) in zip(shares, RUNS, strict=False):
        left.plot(factors, 100 * np.asarray(shares[name]), line, color=colour, marker=marker, label=name)
        right.plot(factors, extra[name], line, color=colour, marker=marker, label=name)
    left.set(xlabel="capacity factor", ylabel="dropped (%)", ylim=(0, None))
    right.set(xlabel="capacity factor", ylabel="extra loss (nats/token)", ylim=(0, None))
    left.legend(frameon=False, fontsize=8)
    return figure

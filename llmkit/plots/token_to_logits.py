"""Figures of one prompt on its way through a model: the lens against the truth, maps of shares and of patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from llmkit.plots import DRAWN, MINUS, MODEL, PLUS, TRUTH

SIGNED = LinearSegmentedColormap.from_list("signed", (MINUS, "white", PLUS))


def lens_by_layer(distances: Mapping[str, np.ndarray]) -> Figure:
    """KL from the truth to the lens (nats) by layer, one line for each name: arrays (L + 1, n) over n prompts, their
    mean and the band that holds the middle half."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour in zip(distances.items(), (MODEL, TRUTH, DRAWN), strict=False):
        layers, quartiles = range(len(values)), np.quantile(values, (0.25, 0.75), axis=1)
        axes.plot(layers, values.mean(1), color=colour, marker="o", label=name)
        axes.fill_between(layers, *quartiles, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="layers passed", ylabel="distance from the truth (nats)", yscale="log")
    axes.set_xticks(layers)
    axes.legend(frameon=False)
    return figure


def grid(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], half: np.ndarray | None = None, label: str = ""
) -> Figure:
    """A signed map (rows, columns), each number in its cell; `half` adds the half-width of its interval."""
    figure = Figure(figsize=(1.6 + 0.95 * len(columns), 0.8 + 0.45 * len(rows)), layout="constrained")
    axes, most = figure.subplots(), np.abs(values).max()
    image = axes.imshow(values, cmap=SIGNED, vmin=-most, vmax=most, aspect="auto")
    for place, value in np.ndenumerate(values):
        words = f"{round(float(value), 2) + 0.0:.2f}"  # no minus before a zero
        words += "" if half is None else f" ± {half[place]:.2f}"
        ink = "white" if abs(value) > 0.6 * most else "black"
        axes.text(*place[::-1], words, ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    figure.colorbar(image, label=label)
    return figure

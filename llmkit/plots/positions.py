"""Figures of positions: waves and angles, the loss far beyond the trained length, needles by length and depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from llmkit.plots import DRAWN, MODEL, NEW, NEXT, STRANGER, TRAIN, TRUTH

STYLES = {  # colour, marker, line; what is RoPE is blue
    "learned": (DRAWN, "s", "-"), "sinusoidal": (NEXT, "^", "-"), "rope": (MODEL, "o", "-"), "alibi": (NEW, "D", "-"),
    "none": (STRANGER, "v", "-"), "linear": (TRAIN, "^", ":"), "ntk": (TRAIN, "D", "--"), "yarn": (TRAIN, "s", "-"),
}  # fmt: skip


def waves(table: np.ndarray) -> Figure:
    """A table of positions (S, C), and the products of its rows with those that stand a distance away."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(table, aspect="auto", cmap="RdBu", interpolation="nearest")
    left.set(xlabel="number in the vector", ylabel="position")
    for start, style, colour, size in ((0, "-", MODEL, 1.5), (len(table) // 2, ":", NEXT, 3)):
        alike = table[start : start + len(table) // 2] @ table[start] / (table[start] @ table[start])
        right.plot(alike, style, color=colour, linewidth=size, label=f"from position {start}")
    right.set(xlabel="distance", ylabel="similarity")
    right.legend(frameon=False)
    return figure


def turns(angles: Mapping[str, Sequence[float]], trained: int) -> Figure:
    """Turns that each pair makes over `trained` tokens, for each named set of angles a token (D/2,)."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    for name, speeds in angles.items():
        counts = trained * np.asarray(speeds) / (2 * np.pi)
        colour, marker, line = STYLES[name]
        axes.plot(counts, line, color=colour, marker=marker, label=name)
    axes.axhline(1, color=TRUTH, linestyle="--", linewidth=1, label="one whole turn")
    axes.set(xlabel="pair", ylabel=f"turns in {trained} tokens", yscale="log")
    axes.legend(frameon=False)
    return figure


def by_position(losses: Mapping[str, Sequence], floor: Sequence[float], width: int, trained: int) -> Figure:
    """Loss by position, averaged over `width` positions, above the floor. A name may have several runs (n, bins): their
    mean and, as a band, their range."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    centres = width * (np.arange(len(floor)) + 0.5)
    for name, runs in losses.items():
        runs = np.atleast_2d(runs)
        colour, marker, line = STYLES[name]
        axes.plot(centres, runs.mean(0), line, color=colour, marker=marker, markersize=4, label=name)
        axes.fill_between(centres, runs.min(0), runs.max(0), color=colour, alpha=0.2, linewidth=0)
    axes.plot(centres, floor, color=TRUTH, linestyle="--", label="least possible")
    axes.axvspan(0, trained, color=STRANGER, alpha=0.15, linewidth=0)
    axes.text(trained / 2, 0.98, "trained", ha="center", va="top", fontsize=8, transform=axes.get_xaxis_transform())
    axes.set(
        xlabel="position in the text (tokens)", ylabel="loss (nats/token)", xlim=(0, width * len(floor)), ylim=(0, None)
    )
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def needle_maps(found: Mapping[str, Sequence], lengths: Sequence[int], depths: Sequence[float], trained: int) -> Figure:
    """A map for each name: share of needles found (lengths, depths), in percent; a line below the trained length."""
    figure = Figure(figsize=(1.2 + 1.75 * len(found), 2.6), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (name, shares) in zip(panels, found.items(), strict=True):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
        for place, share in np.ndenumerate(np.asarray(shares)):
            ink = "white" if share > 0.7 else "black"
            axes.text(*place[::-1], f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=ink)
        axes.axhline(sum(length <= trained for length in lengths) - 0.5, color=TRUTH, linestyle="--")
        axes.set_xticks((0, len(depths) - 1), ("start", "end"))
        axes.set_title(name, fontsize=10)
    panels[0].set_yticks(range(len(lengths)), lengths)
    panels[0].set_ylabel("length of the text (tokens)")
    figure.supxlabel("where the needle stands", fontsize=10)
    return figure

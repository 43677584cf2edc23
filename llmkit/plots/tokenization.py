"""Figures of vocabularies: what more ids buy and what they cost, and which ids a model never learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from llmkit.plots import CYCLE, MODEL, TRUTH

LINES = ((CYCLE[5], "o"), (CYCLE[6], "s"), (CYCLE[3], "^"), (CYCLE[2], "D"))  # more than four are not told apart


def vocabulary_size(
    sizes: Sequence[int], bytes_per_token: Mapping[str, Sequence[float]], shares: Mapping[str, Sequence[float]]
) -> Figure:
    """By vocabulary size: bytes/token of each text (left), the embedding's share of each model's parameters (right)."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    gain, cost = figure.subplots(1, 2)
    for axes, lines in ((gain, bytes_per_token), (cost, shares)):
        for (name, values), (colour, marker) in zip(lines.items(), LINES, strict=False):
            axes.plot(sizes, values, color=colour, marker=marker, label=name)
        axes.set(xscale="log", xlabel="vocabulary size (ids)", ylim=(0, None))
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
        axes.minorticks_off()
        axes.legend(frameon=False)
    gain.set_ylabel("bytes per token")
    cost.set_ylabel("share of all parameters")
    cost.set_ylim(0, 1)
    return figure


def embedding_rows(counts: Sequence[int], similarity: Sequence[float]) -> Figure:
    """A point for each id: how often it was read in training, and how its embedding resembles that of unread ids."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    read = [i for i, n in enumerate(counts) if n]
    unread = [i for i, n in enumerate(counts) if not n]
    for colour, size, label, chosen in ((MODEL, 14, "read", read), (TRUTH, 60, "never read", unread)):
        places = [counts[i] for i in chosen], [similarity[i] for i in chosen]
        axes.scatter(*places, s=size, color=colour, alpha=0.5, label=f"{label}: {len(chosen)} ids")
    axes.set_xscale("symlog", linthresh=1)
    axes.set(xlabel="times in the text (0 at the left, then logarithmic)", ylabel="cosine with unread bytes")
    axes.legend(frameon=False)
    return figure

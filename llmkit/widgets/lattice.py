"""Lattice (lesson 01): every way in which a Unigram model can cut a text, what each costs, and the cheapest.

Columns are the characters of the text, boxes the pieces that fit there, with −ln p in nats. A segmentation is a row of
boxes that touch, from the left edge to the right; its cost is their sum. Below stand the best ones, each with its share
of P(text).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import ipywidgets

from llmkit.plots import CYCLE, NEW
from llmkit.unigram import Edge, Unigram, sum_paths
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture

MAX_CHARACTERS, N_BEST = 12, 5
WIDTH, COLUMN, LANE, ROW, TOP = 800, 96, 25, 20, 24


def lattice(models: Mapping[str, Unigram] | Unigram, text: str = " kites") -> Frame:
    """Type a word, and go through its segmentations from the most probable down, under one model or some by name."""
    named = {"pieces": models} if isinstance(models, Unigram) else dict(models)
    controls = {
        "text": ipywidgets.Text(text, description="text", continuous_update=False),
        "model": ipywidgets.Dropdown(options=list(named), description="model"),
        "rank": ipywidgets.IntSlider(1, 1, N_BEST, description="k-th best"),
    }
    return Frame("Lattice", lambda text, model, rank: draw(read(named[model], text), rank), controls)


class Cuts(NamedTuple):
    """All that is drawn of a text."""

    text: str
    edges: list[Edge]
    unknown: set[str]  # characters that are no piece
    best: list[tuple[list[str], float]]  # the n best segmentations and their ln P
    logprob: float  # ln P of the text: all segmentations together
    n_paths: int


def read(unigram: Unigram, text: str) -> Cuts:
    """ValueError for an empty text; of a long one the beginning is taken."""
    text = text[:MAX_CHARACTERS]
    if not text:
        raise ValueError("Type a word.")
    edges = list(unigram.model.edges(text))
    ways = [1] + [0] * len(text)
    for start, end, _ in edges:
        ways[end] += ways[start]
    unknown = set(text) - unigram.model.logprobs.keys()
    logprob = sum_paths(edges, 0, len(text))[-1]
    return Cuts(text, edges, unknown, unigram.model.n_best(text, N_BEST), logprob, ways[-1])


def draw(cuts: Cuts, rank: int) -> Picture:
    """The lattice with one segmentation filled in; a rank beyond the last shows the last."""
    rank = min(rank, len(cuts.best))
    pieces, logprob = cuts.best[rank - 1]
    ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
    chosen = {(end - len(piece), end) for piece, end in zip(pieces, ends, strict=True)}
    column = min(COLUMN, WIDTH / len(cuts.text))
    lanes = in_lanes(cuts.edges)
    parts = [_characters(cuts.text, column)]
    parts += [_box(cuts, edge, lane, column, edge[:2] in chosen) for edge, lane in zip(cuts.edges, lanes, strict=True)]
    below = TOP + LANE * (max(lanes) + 1) + 26
    parts += _ranking(cuts, rank, below)
    cost = f"{joined(pieces)} costs {-logprob:.2f} nats"
    share = f"{percent(math.exp(logprob - cuts.logprob))} of the probability"
    said = f"{cuts.n_paths:,} segmentation{'s' * (cuts.n_paths != 1)}. Number {rank}: {cost}, {share}."
    height = below + ROW * len(cuts.best) + 10
    return Picture(svg.drawing(WIDTH + 2.0, height, parts, f"Segmentations of {svg.visible(cuts.text)}"), said)


def in_lanes(edges: list[Edge]) -> list[int]:
    """A lane for each edge, so that none overlap: short pieces on top, each in the first lane that is free."""
    lanes: dict[Edge, int] = {}
    filled: list[list[Edge]] = []
    for edge in sorted(edges, key=lambda edge: (edge[1] - edge[0], edge[0])):
        free = (k for k, boxes in enumerate(filled) if all(edge[1] <= box[0] or box[1] <= edge[0] for box in boxes))
        lanes[edge] = lane = next(free, len(filled))
        if lane == len(filled):
            filled.append([])
        filled[lane].append(edge)
    return [lanes[edge] for edge in edges]


def joined(pieces: list[str]) -> str:
    return "·".join(map(svg.visible, pieces))


def percent(share: float) -> str:
    """Never 100 % or 0 % unless it is."""
    return f"{share:.1%}" if 0.0005 <= share < 0.9995 or share == 1 else "> 99.9%" if share > 0.5 else "< 0.1%"


def _characters(text: str, column: float) -> str:
    labels = [svg.text(column * (i + 0.5), 15, svg.visible(char)) for i, char in enumerate(text)]
    lines = [svg.line(column * i, TOP - 4, column * i, TOP, stroke_opacity=0.5) for i in range(len(text) + 1)]
    return svg.group(labels, text_anchor="middle", font_weight="bold") + svg.group(lines)


def _box(cuts: Cuts, edge: Edge, lane: int, column: float, chosen: bool) -> str:
    start, end, logprob = edge
    x, y, width = start * column + 2, TOP + LANE * lane + 2, (end - start) * column - 4
    tint = svg.rect(x, y, width, LANE - 4, CYCLE[start % len(CYCLE)], fill_opacity=0.45 if chosen else 0.08, rx=4)
    frame = dict(stroke=NEW, stroke_width=2.5) if chosen else dict(stroke="currentColor", stroke_opacity=0.35)
    label = "bytes" if cuts.text[start:end] in cuts.unknown else svg.visible(cuts.text[start:end])
    return "".join((
        tint, svg.rect(x, y, width, LANE - 4, "none", rx=4, **frame),
        svg.text(x + 5, y + 15, label, font_family=svg.MONO, font_size=12),
        svg.text(x + width - 4, y + 15, f"{-logprob:.1f}", text_anchor="end", font_size=10.0),
    ))  # fmt: skip


def _ranking(cuts: Cuts, rank: int, y: float) -> list[str]:
    """The n best segmentations, each with its cost and its share of the text's probability."""
    parts = [svg.text(0, y, f"the best of {cuts.n_paths:,}", font_weight="bold")]
    for at, head in ((420, "nats"), (520, "share of P(text)")):
        parts.append(svg.text(at, y, head, font_weight="bold", text_anchor="end" if at == 420 else "start"))
    for k, (pieces, logprob) in enumerate(cuts.best, 1):
        line, share = y + ROW * k, math.exp(logprob - cuts.logprob)
        if k == rank:
            parts.append(svg.rect(1, line - 14, 422, 19, "none", stroke=NEW, stroke_width=2))
        parts.append(svg.text(4, line, f"{k}. {svg.shorten(joined(pieces), 330)}", font_family=svg.MONO))
        parts.append(svg.text(418, line, f"{-logprob:.2f}", text_anchor="end"))
        parts.append(svg.rect(520, line - 11, 180 * share, 12, NEW, fill_opacity=0.5))
        parts.append(svg.text(524 + 180 * share, line, percent(share), font_size=12))
    return parts

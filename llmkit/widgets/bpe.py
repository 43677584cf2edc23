"""BPE movie (lesson 01): a text, the merges that make its tokens, and what the vocabulary is at each of them.

Encoding applies merges in the order in which they were learned, so the frame after merge r is exactly how a tokenizer
that had stopped training there, with 256 + r + 1 ids, would cut the text: scrubbing grows the vocabulary. Several
tokenizers are shown at the same vocabulary size.
"""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import ipywidgets

from llmkit.plots import CYCLE, NEW, NEXT
from llmkit.tokenizer import Step, Tokenizer
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture

TEXT = "The café's robot naïvely rolled to the café's other robot 😀"
MAX_BYTES = 100
WIDTH, MARGIN, BOX, N_PAIRS, N_LINES = 800, 3, 22, 5, 5
MIDDLE = 400  # where the vocabulary begins


def bpe_movie(tokenizers: Mapping[str, Tokenizer] | Tokenizer, text: str = TEXT) -> Frame:
    """Type a text and scrub, or play, through the merges of one tokenizer, or of some by name."""
    named = {"tokenizer": tokenizers} if isinstance(tokenizers, Tokenizer) else dict(tokenizers)
    film = lru_cache(maxsize=8)(lambda words: Film(named, words))
    last = len(film(text).ranks)
    box = ipywidgets.Text(text, description="text", continuous_update=False, layout={"width": "480px"})
    merge = ipywidgets.IntSlider(last // 2, 0, last, description="merge", layout={"width": "340px"})
    play = ipywidgets.Play(value=last // 2, min=0, max=last, interval=700, show_repeat=False)
    ipywidgets.jslink((play, "value"), (merge, "value"))

    def fit_controls(change):
        merge.max = play.max = len(film(change["new"]).ranks)

    box.observe(fit_controls, names="value")
    return Frame("BPE movie", lambda text, merge: draw(film(text), merge), {"text": box, "merge": merge}, [play])


class Film:
    """The traces of one text under some tokenizers; `ranks` are the merges of any of them, in the order learned."""

    def __init__(self, tokenizers: Mapping[str, Tokenizer], text: str):
        self.tokenizers, self.whole = tokenizers, text
        self.text = text.encode()[:MAX_BYTES].decode(errors="ignore")
        self.traces = {name: tokenizer.trace(self.text) for name, tokenizer in tokenizers.items()}
        self.ranks = sorted({step.rank for trace in self.traces.values() for step in trace[1:]})

    def at(self, merge: int) -> int:
        """The rank of the newest merge at a position of the slider; -1 before the first."""
        return self.ranks[min(merge, len(self.ranks)) - 1] if merge and self.ranks else -1


def draw(film: Film, merge: int) -> Picture:
    """Frame number `merge` of the film, 0 being the bytes."""
    rank, y, parts, said = film.at(merge), 0.0, [], []
    for name, tokenizer in film.tokenizers.items():
        trace = film.traces[name]
        now = max(k for k, step in enumerate(trace) if (-1 if step.rank is None else step.rank) <= rank)
        following = trace[now + 1] if now + 1 < len(trace) else None
        scene = Scene(name, tokenizer, film.text, trace[now], following, rank)
        height, block = scene.draw(rows(boxes(tokenizer, trace[0])))
        parts.append(svg.group(block, transform=f"translate({MARGIN} {svg.number(y)})"))
        y += height
        said.append(scene.sentence())
    cut = f" (Only the first {MAX_BYTES} bytes are shown.)" if film.text != film.whole else ""
    label = f"BPE of {svg.visible(film.text)} after merge {rank + 1}"
    return Picture(svg.drawing(WIDTH + 2 * MARGIN, y, parts, label), " ".join(said) + cut)


class Box(NamedTuple):
    """A token in its place; `word` and `start` say where its bytes stand in the text."""

    x: float
    row: int
    width: float
    id: int
    label: str
    word: int
    start: int
    stop: int


@lru_cache(maxsize=8)
def ranks_of(tokenizer: Tokenizer) -> dict[tuple[int, int], int]:
    """The rank of each pair that has a merge."""
    return {merge[:2]: rank for rank, merge in enumerate(tokenizer.merges)}


def boxes(tokenizer: Tokenizer, step: Step) -> list[Box]:
    """The tokens of a frame, set in lines: pre-tokens stay together where they fit."""
    placed, x, row, start = [], 0.0, 0, 0
    for word, ids in enumerate(step.words):
        pieces = [(id, tokenizer.token_bytes(id)) for id in ids]
        labels = [svg.visible_bytes(data) for _, data in pieces]
        widths = [svg.mono_width(label) + 8 for label in labels]
        if x and x + sum(widths) + 2 * len(widths) > WIDTH:
            x, row = 0.0, row + 1
        for (id, data), label, width in zip(pieces, labels, widths, strict=True):
            if x and x + width > WIDTH:
                x, row = 0.0, row + 1
            placed.append(Box(x, row, width, id, label, word, start, start + len(data)))
            x, start = x + width + 2, start + len(data)
        x += 6
    return placed


def rows(placed: list[Box]) -> int:
    return placed[-1].row + 1 if placed else 1


class Scene(NamedTuple):
    """One tokenizer at one vocabulary size."""

    name: str
    tokenizer: Tokenizer
    text: str
    step: Step
    following: Step | None
    rank: int  # newest merge of the vocabulary; the text need not contain it

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.step.words))

    @property
    def n_merges(self) -> int:
        return min(self.rank + 1, len(self.tokenizer.merges))

    def label(self, id: int) -> str:
        return svg.visible_bytes(self.tokenizer.token_bytes(id))

    def sentence(self) -> str:
        n_bytes = len(self.text.encode())
        made = f"{self.name}: {n_bytes} bytes are {self.n_tokens} tokens with a vocabulary of {256 + self.n_merges}"
        if self.step.rank is not None and self.step.rank == self.rank:
            left, right = map(self.label, self.step.pair)
            made += f"; merge {self.rank + 1} joined {left} and {right}"
        return f"{made}; next {' and '.join(map(self.label, self.following.pair))}." if self.following else f"{made}."

    def draw(self, n_rows: int) -> tuple[float, list[str]]:
        """(height, parts); space for `n_rows` lines of tokens, so that nothing jumps as they become fewer."""
        pitch = BOX + (20 if not self.text.isascii() else 8)
        below = 26 + n_rows * pitch + 22
        n_bytes = len(self.text.encode())
        head = f"{self.name}: {256 + self.n_merges} ids, {n_bytes} bytes → {self.n_tokens} tokens"
        ratio = f" ({n_bytes / self.n_tokens:.2f} bytes each)" if self.n_tokens else ""
        parts = [svg.text(0, 14, head + ratio, font_weight="bold")]
        parts.append(svg.group(self._tokens(pitch), transform="translate(0 26)"))
        parts.append(svg.group(self._pairs(), transform=f"translate(0 {below})"))
        parts.append(svg.group(self._vocabulary(), transform=f"translate({MIDDLE} {below})"))
        return below + 20 + 20 * N_LINES + 16, parts

    def _tokens(self, pitch: float) -> list[str]:
        placed = boxes(self.tokenizer, self.step)
        coming = self.following.pair if self.following else None
        pairs = zip(placed, placed[1:], strict=False)
        ahead = [(a, b) for a, b in pairs if (a.id, b.id) == coming and a.word == b.word]
        tints, frames, labels = [], [], []
        for box in placed:
            y = box.row * pitch
            tints.append(svg.rect(box.x, y, box.width, BOX, CYCLE[box.id % len(CYCLE)]))
            if self.step.rank is not None and box.id == 256 + self.rank:
                frames.append(svg.rect(box.x, y, box.width, BOX, "none", stroke=NEW))
            labels.append(svg.text(box.x + 4, y + 16, box.label))
        for a, b in ahead:
            for box in (a, b):
                frames.append(svg.rect(box.x, box.row * pitch, box.width, BOX, "none", stroke=NEXT))
        return [
            svg.group(tints, fill_opacity=0.3),
            svg.group(frames, stroke_width=2.5),
            svg.group(labels, font_family=svg.MONO),
            svg.group(self._characters(placed, pitch), stroke_opacity=0.6),
        ]

    def _characters(self, placed: list[Box], pitch: float) -> list[str]:
        """A bracket under the bytes of each character that no token holds whole."""
        parts, start = [], 0
        for char in self.text:
            stop = start + len(char.encode())
            held = [box for box in placed if box.start < stop and start < box.stop]
            if len(held) > 1:
                left, right = held[0], held[-1]
                y = left.row * pitch + BOX + 3
                end = right.x + right.width if right.row == left.row else float(WIDTH)
                parts.append(svg.line(left.x, y, end, y))
                parts.append(svg.text((left.x + end) / 2, y + 13, svg.visible(char), text_anchor="middle"))
            start = stop
        return parts

    def _pairs(self) -> list[str]:
        """The pairs of this frame that the tokenizer has a merge for, the one learned first on top."""
        counts = Counter(pair for word in self.step.words for pair in zip(word, word[1:], strict=False))
        ranks = ranks_of(self.tokenizer)
        known = sorted((ranks[pair], pair) for pair in counts if pair in ranks)
        parts = [svg.text(0, 0, f"pairs that have a merge: {len(known)} of {len(counts)}", font_weight="bold")]
        if not known:
            return [*parts, svg.text(0, 20, "none is left: these are the tokens")]
        for k, (rank, pair) in enumerate(known[:N_PAIRS]):
            y = 20 + 20 * k
            if k == 0:
                parts.append(svg.rect(0, y - 14, 384, 19, "none", stroke=NEXT, stroke_width=2))
            left, right = (svg.shorten(self.label(id), 70) for id in pair)
            parts.append(svg.text(4, y, f"{left} + {right}", font_family=svg.MONO))
            times = self.tokenizer.merges[rank].count
            parts.append(svg.text(380, y, f"×{counts[pair]} here, merge {rank + 1}, ×{times:,} in training",
                                  text_anchor="end", font_size=12))  # fmt: skip
        return parts

    def _vocabulary(self) -> list[str]:
        """The newest ids of the vocabulary, the last first; tinted: in the text; framed: made by this merge."""
        parts = [svg.text(0, 0, f"vocabulary: 256 bytes + {self.n_merges} merges, newest first", font_weight="bold")]
        used = {id for word in self.step.words for id in word}
        x, y = 0.0, 20.0
        for id in range(255 + self.n_merges, 255, -1):
            label = self.label(id)
            width = svg.mono_width(label) + 8
            if x + width > WIDTH - MIDDLE:
                x, y = 0.0, y + 20
            if y > 20 * N_LINES:
                break
            if id in used:
                parts.append(svg.rect(x, y - 14, width, 18, CYCLE[id % len(CYCLE)], fill_opacity=0.3))
            if id == 256 + self.rank:
                parts.append(svg.rect(x, y - 14, width, 18, "none", stroke=NEW, stroke_width=2.5))
            parts.append(svg.text(x + 4, y, label, font_family=svg.MONO))
            x += width + 4
        return parts

"""Training scrubber (lesson 06): go back and forth in a run; loss, sample, facts, kinds and attention move together.

`Scribe` is an `eval_fn` for `train.fit` that keeps what is shown. The curve is of training batches, which begin inside
documents and so cannot quite reach the floor; the excess by kind is of whole documents, and can. Other runs, say with a
bad learning rate, can be drawn beside the curve.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

import ipywidgets
import numpy as np
import torch

from llmkit import activations, evaluate, tasks
from llmkit.plots import MODEL, NEXT, TRAIN, TRUTH
from llmkit.tokenizer import Tokenizer
from llmkit.train import Record
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture
from llmkit.world import KINDS, World

WIDTH, HEIGHT, LEFT, BOTTOM = 430, 220, 44, 42  # of the curve
SIDE, LINE, N_LINES, N_POINTS = 480, 18, 5, 240
TOTAL, MAP, PITCH, N_MAPS = 810, 44, 51, 16  # of the drawing, and of a head's map
PROBE = "Mira had a red kite. Mira gave the red kite to"  # words that come back, as a head that copies needs them


class Snapshot(NamedTuple):
    """What is kept of one moment; plain values, so that `_asdict` is JSON and `Snapshot(**row)` reads it back."""

    sample: str
    facts: tuple[float, float, float]  # share recalled, and its 95 % interval
    excess: dict[str, float]  # nats/token above the floor, by kind
    attention: Sequence = ()  # on PROBE, in hundredths: layers of heads of rows, a row for each query
    copying: Sequence = ()  # (L, H), in hundredths: weight on what followed the earlier copy of a token that comes back


class Scribe:
    """Called with a model: takes a Snapshot, and returns its numbers, which `train.fit` puts into the record."""

    def __init__(
        self, tokenizer: Tokenizer, world: World, prompt: str = "One", n_questions: int = 100, n_documents: int = 100
    ):
        self.tokenizer, self.prompt = tokenizer, prompt
        self.facts = tasks.load(world, "facts", "train", n_questions)
        documents = world.documents(n_documents, seed=2)
        self.documents = {kind: [d for d in documents if d.kind == kind] for kind in KINDS}
        self.snapshots: list[Snapshot] = []

    def __call__(self, model) -> dict[str, float]:
        context = model.config.context_length
        sample = evaluate.complete(model, self.tokenizer, [self.prompt], min(60, context - 20))[0]
        facts = evaluate.score(model, self.tokenizer, self.facts)
        excess = {k: evaluate.excess_loss(model, self.tokenizer, d).excess for k, d in self.documents.items() if d}
        shares = (facts.value, facts.low, facts.high)
        self.snapshots.append(Snapshot(self.prompt + sample, shares, excess, *self._attention(model)))
        return {"facts": facts.value, **{f"excess/{kind}": value for kind, value in excess.items()}}

    def _attention(self, model) -> tuple[list, list]:
        """Of every head on PROBE: where it looks (L, H, T, T), and how much it copies (L, H); in hundredths."""
        ids = [self.tokenizer.eos_id, *self.tokenizer.encode(PROBE)]
        att = activations.capture(model, torch.tensor([ids], device=model.tok_emb.weight.device)).att[:, 0]
        back = [(t, max(s for s in range(t) if ids[s] == i) + 1) for t, i in enumerate(ids) if i in ids[:t]]
        queries, keys = zip(*back, strict=True)
        copying = att[:, :, queries, keys].mean(-1)
        return (100 * att).round().int().tolist(), (100 * copying).round().int().tolist()


def training_scrubber(
    records: Sequence[Record],
    snapshots: Sequence[Snapshot],
    floor: float,
    others: Mapping[str, Sequence[Record]] | None = None,
) -> Frame:
    """`records` of a run and a snapshot for each record that has `evals`; `floor` in nats/token; `others`: records of
    runs to lay beside it, by what is wrong with them."""
    steps = [record.step for record in records if record.evals is not None]
    if not steps or len(steps) != len(snapshots):
        raise ValueError(f"{len(snapshots)} snapshots for {len(steps)} evaluations: give those of this run")
    slider = ipywidgets.SelectionSlider(options=steps, value=steps[-1], description="step", layout={"width": "600px"})
    controls = {"step": slider}
    if others:
        names = ["nothing", *others]
        controls["beside"] = ipywidgets.Dropdown(options=names, value="nothing", description="beside")

    @lru_cache
    def curve(beside):
        return Curve(records, floor, beside, others[beside] if beside != "nothing" else ())

    def show(step, beside="nothing"):
        return draw(curve(beside), step, snapshots[steps.index(step)])

    return Frame("Training scrubber", show, controls)


def binned(records: Sequence[Record]) -> tuple[list[int], list[float]]:
    """Steps and mean losses of bins, so that long runs are drawn as fast as short ones."""
    size = math.ceil(len(records) / N_POINTS)
    bins = [records[i : i + size] for i in range(0, len(records), size)]
    return [bin[-1].step for bin in bins], [sum(record.loss for record in bin) / len(bin) for bin in bins]


class Curve:
    """Loss by step on a logarithmic scale, and another run's up to its end or its first loss that is not finite."""

    def __init__(self, records: Sequence[Record], floor: float, name: str = "", other: Sequence[Record] = ()):
        self.steps, self.losses = binned(records)
        self.floor, self.last, self.name = floor, records[-1].step, name
        finite = list(takewhile(lambda record: math.isfinite(record.loss), other))
        self.other = binned([record for record in finite if record.step <= self.last]) if finite else ([], [])
        self.low, self.high = 0.9 * min(floor, *self.losses), max(*self.losses, *self.other[1])

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT) * step / self.last

    def y(self, loss: float) -> float:
        return (HEIGHT - BOTTOM) * (1 - math.log(loss / self.low) / math.log(self.high / self.low)) + 6

    def loss_at(self, step: int) -> float:
        """Of the bin that the step is in."""
        return next(loss for end, loss in zip(self.steps, self.losses, strict=True) if step <= end)

    def draw(self, step: int) -> list[str]:
        points = [(self.x(s), self.y(loss)) for s, loss in zip(self.steps, self.losses, strict=True)]
        so_far = [point for point, s in zip(points, self.steps, strict=True) if s <= step] or points[:1]
        at = (self.x(step), self.y(self.loss_at(step)))
        parts = self._beside()
        parts += [svg.path(points, TRAIN, stroke_opacity=0.35), svg.path([*so_far, at], MODEL, stroke_width=2)]
        parts.append(svg.line(LEFT, self.y(self.floor), WIDTH, self.y(self.floor), TRUTH, stroke_dasharray="6 4",
                              stroke_width=1.5))  # fmt: skip
        parts.append(svg.text(WIDTH - 5, self.y(self.floor) + 14, f"least possible: {self.floor:.2f}", font_size=11,
                              text_anchor="end"))  # fmt: skip
        parts.append(svg.line(at[0], 6, at[0], HEIGHT - BOTTOM + 6, stroke_opacity=0.5))
        parts.append(svg.rect(at[0] - 4, at[1] - 4, 8, 8, MODEL, rx=4))
        side = {"x": at[0] + 8} if at[0] < WIDTH - 60 else {"x": at[0] - 8, "text_anchor": "end"}
        beside = at[1] - 8 if at[1] > 20 else at[1] + 18
        parts.append(svg.text(side.pop("x"), beside, f"{self.loss_at(step):.2f}", font_weight="bold", **side))
        for loss in (0.001, 0.01, 0.05, 0.2, 0.5, 1, 2, 5, 10):
            if self.low <= loss <= self.high:
                parts.append(svg.text(LEFT - 6, self.y(loss) + 4, f"{loss:g}", text_anchor="end", font_size=11))
                parts.append(svg.line(LEFT, self.y(loss), WIDTH, self.y(loss), stroke_opacity=0.12))
        parts.append(svg.text(0, HEIGHT - 2, "loss, nats/token", font_size=11))
        parts.append(svg.text(WIDTH, HEIGHT - 2, f"step {self.last:,}", text_anchor="end", font_size=11))
        return parts

    def _beside(self) -> list[str]:
        steps, losses = self.other
        if not steps:
            return []
        points = [(self.x(s), self.y(max(loss, self.low))) for s, loss in zip(steps, losses, strict=True)]
        words = svg.shorten(f"{self.name}: {losses[-1]:.2f} at step {steps[-1]:,}", 255, 11)
        swatch = svg.rect(112, HEIGHT - 10, 9, 9, NEXT)
        return [svg.path(points, NEXT, stroke_width=1.5), swatch, svg.text(126, HEIGHT - 2, words, font_size=11)]


def draw(curve: Curve, step: int, snapshot: Snapshot) -> Picture:
    """One moment of the run: the curve up to it, facts and kinds at the side, the sample below."""
    share, low, high = snapshot.facts
    side = [svg.text(0, 14, "facts recalled", font_weight="bold"), *_bar(28, "", share, 1.0, f"{share:.0%}")]
    side += [svg.line(90 + 180 * end, 24, 90 + 180 * end, 39, stroke_width=1.5) for end in (low, high)]
    side.append(svg.text(0, 62, "above the floor, nats/token", font_weight="bold"))
    scale = max(1.0, *snapshot.excess.values())
    for k, (kind, excess) in enumerate(snapshot.excess.items()):
        side += _bar(76 + 18 * k, kind, excess, scale, f"{excess:.2f}")
    top = max(HEIGHT, 76 + 18 * len(snapshot.excess)) + 26
    text = [svg.text(0, top, "what it writes", font_weight="bold")]
    lines = wrap(snapshot.sample, 100)
    lines = lines[:N_LINES] if len(lines) <= N_LINES else [*lines[: N_LINES - 1], lines[N_LINES - 1] + " …"]
    text += [svg.text(0, top + LINE * (k + 1), words, font_family=svg.MONO) for k, words in enumerate(lines)]
    parts = [*curve.draw(step), svg.group(side, transform=f"translate({SIDE} 0)"), *text]
    said = f"Step {step:,}: loss {curve.loss_at(step):.2f}, least possible {curve.floor:.2f} nats/token; "
    said += f"{share:.0%} of the facts recalled (95 %: {low:.0%} to {high:.0%})."
    height = top + LINE * N_LINES + 8
    if len(snapshot.attention):
        maps, depth, words = draw_attention(np.asarray(snapshot.attention) / 100, np.asarray(snapshot.copying) / 100)
        parts.append(svg.group(maps, transform=f"translate(0 {height + 14})"))
        height, said = height + 14 + depth, f"{said} {words}"
    return Picture(svg.drawing(TOTAL, height, parts, f"A training run at step {step}"), said)


def draw_attention(att: np.ndarray, copying: np.ndarray) -> tuple[list[str], int, str]:
    """(parts, height, sentence) of att (L, H, T, T), copying (L, H): a map of each head, and its mean weight on the
    token before."""
    before = np.diagonal(att, -1, 2, 3).mean(-1)  # (L, H)
    parts = [svg.text(0, 0, "where each head looks", font_weight="bold")]
    parts.append(svg.text(180, 0, f"reading “{PROBE}” from top to bottom; number: weight on the token before",
                          font_size=11))  # fmt: skip
    for k, (layer, head) in enumerate(np.ndindex(before.shape)):
        x, y = PITCH * (k % N_MAPS), 10 + (MAP + 34) * (k // N_MAPS)
        parts.append(svg.heat(x, y, MAP, MAP, att[layer, head], MODEL))
        parts.append(svg.rect(x, y, MAP, MAP, "none", stroke="currentColor", stroke_opacity=0.4))
        parts.append(svg.text(x, y + MAP + 12, f"{layer}.{head}", font_size=10, fill_opacity=0.7))
        parts.append(svg.text(x + MAP, y + MAP + 12, f"{before[layer, head]:.2f}", text_anchor="end", font_size=10))
    layer, head = np.unravel_index(before.argmax(), before.shape)
    said = f"Head {layer}.{head} looks most at the token before, with {before.max():.0%} of its weight"
    if copying.size:
        layer, head = np.unravel_index(copying.argmax(), copying.shape)
        said += f"; where a word comes back, head {layer}.{head} looks most at what followed it before: "
        said += f"{copying.max():.0%}"
    said += "."
    return parts, 10 + (MAP + 34) * math.ceil(before.size / N_MAPS), said


def _bar(y: float, name: str, value: float, scale: float, words: str) -> list[str]:
    width = max(180 * value / scale, 0)
    return [
        svg.text(84, y + 9, name, text_anchor="end", font_size=12),
        svg.rect(90, y, 180, 10, fill_opacity=0.1),
        svg.rect(90, y, width, 10, MODEL),
        svg.text(276, y + 9, words, font_size=12),
    ]


def wrap(text: str, n_cells: int) -> list[str]:
    """Lines of at most `n_cells` monospaced cells, broken at spaces where there are any; line ends stay."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.replace("\t", "    ").split(" "):
            while svg.cells(word) > n_cells:
                lines += [line] * bool(line) + [word[: n_cells // 2]]
                line, word = "", word[n_cells // 2 :]
            if line and svg.cells(f"{line} {word}") > n_cells:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return [line.replace(" ", "\u00a0") for line in lines]  # SVG would drop an indent

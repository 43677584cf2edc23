"""Training scrubber (lesson 06): go back and forth in a run; loss, sample, facts and kinds move together.

`Scribe` is an `eval_fn` for `train.fit` that keeps what is shown. The curve is of training batches, which begin inside
documents and so cannot quite reach the floor; the excess by kind is of whole documents, and can. Attention at the saved
steps is not shown yet.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import ipywidgets

from llmkit import evaluate, tasks
from llmkit.plots import MODEL, TRAIN, TRUTH
from llmkit.tokenizer import Tokenizer
from llmkit.train import Record
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture
from llmkit.world import KINDS, World

WIDTH, HEIGHT, LEFT, BOTTOM = 430, 220, 44, 42  # of the curve
SIDE, LINE, N_LINES, N_POINTS = 480, 18, 5, 240


class Snapshot(NamedTuple):
    """What is kept of one moment; plain values, so that `_asdict` is JSON and `Snapshot(**row)` reads it back."""

    sample: str
    facts: tuple[float, float, float]  # share recalled, and its 95 % interval
    excess: dict[str, float]  # nats/token above the floor, by kind


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
        self.snapshots.append(Snapshot(self.prompt + sample, (facts.value, facts.low, facts.high), excess))
        return {"facts": facts.value, **{f"excess/{kind}": value for kind, value in excess.items()}}


def training_scrubber(records: Sequence[Record], snapshots: Sequence[Snapshot], floor: float) -> Frame:
    """`records` of a run and a snapshot for each record that has `evals`; `floor` in nats/token."""
    steps = [record.step for record in records if record.evals is not None]
    if not steps or len(steps) != len(snapshots):
        raise ValueError(f"{len(snapshots)} snapshots for {len(steps)} evaluations: give those of this run")
    slider = ipywidgets.SelectionSlider(options=steps, value=steps[-1], description="step", layout={"width": "600px"})
    curve = Curve(records, floor)
    return Frame("Training scrubber", lambda step: draw(curve, step, snapshots[steps.index(step)]), {"step": slider})


class Curve:
    """Loss by step on a logarithmic scale: means of bins, so that long runs are drawn as fast as short ones."""

    def __init__(self, records: Sequence[Record], floor: float):
        size = math.ceil(len(records) / N_POINTS)
        bins = [records[i : i + size] for i in range(0, len(records), size)]
        self.steps = [bin[-1].step for bin in bins]
        self.losses = [sum(record.loss for record in bin) / len(bin) for bin in bins]
        self.floor, self.last = floor, records[-1].step
        self.low, self.high = 0.9 * min(floor, *self.losses), max(self.losses)

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
        parts = [svg.path(points, TRAIN, stroke_opacity=0.35), svg.path([*so_far, at], MODEL, stroke_width=2)]
        parts.append(svg.line(LEFT, self.y(self.floor), WIDTH, self.y(self.floor), TRUTH, stroke_dasharray="6 4",
                              stroke_width=1.5))  # fmt: skip
        parts.append(svg.text(WIDTH, self.y(self.floor) + 14, f"least possible: {self.floor:.2f}", text_anchor="end",
                              font_size=11))  # fmt: skip
        parts.append(svg.line(at[0], 6, at[0], HEIGHT - BOTTOM + 6, stroke_opacity=0.5))
        parts.append(svg.rect(at[0] - 4, at[1] - 4, 8, 8, MODEL, rx=4))
        side = {"x": at[0] + 8} if at[0] < WIDTH - 60 else {"x": at[0] - 8, "text_anchor": "end"}
        parts.append(svg.text(side.pop("x"), at[1] - 8, f"{self.loss_at(step):.2f}", font_weight="bold", **side))
        for loss in (0.2, 0.5, 1, 2, 5, 10):
            if self.low <= loss <= self.high:
                parts.append(svg.text(LEFT - 6, self.y(loss) + 4, f"{loss:g}", text_anchor="end", font_size=11))
                parts.append(svg.line(LEFT, self.y(loss), WIDTH, self.y(loss), stroke_opacity=0.12))
        parts.append(svg.text(0, HEIGHT - 2, "loss, nats/token", font_size=11))
        parts.append(svg.text(WIDTH, HEIGHT - 2, f"step {self.last:,}", text_anchor="end", font_size=11))
        return parts


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
    return Picture(svg.drawing(810, top + LINE * N_LINES + 8, parts, f"A training run at step {step}"), said)


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

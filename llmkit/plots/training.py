"""Figures of a training run: the loss beside the least possible one, per kind, and what is known when."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence

from IPython.display import Image, display
from matplotlib.figure import Figure

from llmkit.plots import MODEL, STRANGER, TRAIN, TRUTH
from llmkit.train import Record


def loss_curve(records: Sequence[Record], floor: float) -> Figure:
    """Training loss by step (faint: each batch; bold: smoothed) above the floor, the entropy of the text."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    steps, losses = [r.step for r in records], [r.loss for r in records]
    axes.plot(steps, losses, color=TRAIN, alpha=0.5, linewidth=0.8, label="each batch")
    axes.plot(steps, _smooth(losses), color=MODEL, linewidth=2, label="smoothed")
    axes.axhline(floor, color=TRUTH, linewidth=1.5, linestyle="--", label=f"least possible: {floor:.2f}")
    axes.set(xlabel="step", ylabel="loss (nats/token)", yscale="log", xlim=(0, None))
    axes.set_yticks([0.5, 1, 2, 4, 7], ["0.5", "1", "2", "4", "7"])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return figure


def loss_by_kind(losses: Mapping[str, float], floors: Mapping[str, float]) -> Figure:
    """A bar for each kind of document: the floor, and on top of it what the model still pays in excess."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    kinds = list(losses)
    excess = [losses[kind] - floors[kind] for kind in kinds]
    axes.bar(kinds, [floors[kind] for kind in kinds], color=TRUTH, label="least possible")
    axes.bar(kinds, excess, bottom=[floors[kind] for kind in kinds], color=MODEL, label="excess of the model")
    for x, kind in enumerate(kinds):
        axes.text(x, losses[kind] + 0.02, f"+{losses[kind] - floors[kind]:.2f}", ha="center")
    axes.set(ylabel="nats/token", ylim=(0, 1.15 * max(losses.values())))
    axes.legend(frameon=False)
    return figure


def knowledge(steps: Sequence[int], costs: Sequence[float], stranger: float, truth: float) -> Figure:
    """What biographies cost the model as it trains, between a stranger's cost and that of one who knows the town."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, costs, color=MODEL, marker="o", label="the model")
    axes.axhline(stranger, color=STRANGER, linestyle=":", label="a perfect reader who knows nobody")
    axes.axhline(truth, color=TRUTH, linestyle="--", label="a perfect reader who knows everybody")
    axes.set(xlabel="step", ylabel="nats per biography", ylim=(0, 1.3 * stranger), xlim=(0, None))
    axes.legend(frameon=False)
    return figure


class LiveLoss:
    """An `on_step` that redraws `loss_curve` in place, at most every `every_s` seconds and at the last step."""

    def __init__(self, steps: int, floor: float, every_s: float = 5.0):
        self.steps, self.floor, self.every_s = steps, floor, every_s
        self.records: list[Record] = []
        self.drawn, self.handle = 0.0, None

    def __call__(self, record: Record) -> None:
        self.records.append(record)
        if time.monotonic() - self.drawn < self.every_s and record.step < self.steps:
            return
        self.drawn = time.monotonic()
        picture = Image(png(loss_curve(self.records, self.floor)))
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _smooth(values: Sequence[float], weight: float = 0.95) -> list[float]:
    """Exponential moving average, without the bias towards its beginning."""
    out, mean, total = [], 0.0, 0.0
    for value in values:
        mean, total = weight * mean + (1 - weight) * value, weight * total + (1 - weight)
        out.append(mean / total)
    return out

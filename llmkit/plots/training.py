"""Figures of a training run: the text and its batches, the loss beside the least possible one, what is known when."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from llmkit.plots import DRAWN, MODEL, NEW, NEXT, STRANGER, TRAIN, TRUTH, VALIDATION
from llmkit.train import Record

RUNS = (MODEL, NEXT, NEW, DRAWN)  # runs laid over each other, in their order
LOSSES = (0.25, 0.5, 1, 2, 4, 7)


def _panel(height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, height), layout="constrained")
    return figure, figure.subplots()


# ---- before training ----


def mix(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """Bars side by side for each kind: `shares` by what is counted ("documents", "tokens"), then by kind."""
    figure, axes = _panel(2.6)
    for k, (counted, by_kind) in enumerate(shares.items()):
        places = np.arange(len(by_kind)) + 0.4 * k - 0.2
        bars = axes.bar(places, by_kind.values(), 0.38, color=(STRANGER, TRAIN)[k], label=counted)
        axes.bar_label(bars, [f"{value:.0%}" for value in by_kind.values()], fontsize=8)
    axes.set_xticks(range(len(by_kind)), by_kind)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(ylabel="share of all", ylim=(0, 1.12 * max(max(by_kind.values()) for by_kind in shares.values())))
    axes.legend(frameon=False)
    return figure


def attention_mask(mask, tokens: Sequence[str]) -> Figure:
    """Which places (columns) each place (rows) may look at: `mask` (T, T) of True and False, a token for each place."""
    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.asarray(mask), cmap="Blues", vmin=0, vmax=1.4)
    axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=7)
    axes.set_yticks(range(len(tokens)), tokens, fontsize=7)
    axes.set(xlabel="may be looked at", ylabel="looks")
    return figure


def learning_rates(schedules: Mapping[str, Callable[[int], float]], steps: int) -> Figure:
    """The factor of the peak learning rate by step, for each named schedule."""
    figure, axes = _panel(2.4)
    for (name, schedule), color in zip(schedules.items(), RUNS, strict=False):
        axes.plot(range(steps), [schedule(step) for step in range(steps)], color=color, label=name)
    axes.set(xlabel="step", ylabel="share of the peak", xlim=(0, steps), ylim=(0, 1.05))
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.06, 0))
    return figure


# ---- a run, and several ----


def loss_curve(records: Sequence[Record], floor: float) -> Figure:
    """Training loss by step (faint: each batch; bold: smoothed) above the floor, the entropy of the text."""
    figure, axes = _panel()
    steps, losses = [r.step for r in records], [r.loss for r in records]
    axes.plot(steps, losses, color=TRAIN, alpha=0.5, linewidth=0.8, label="each batch")
    axes.plot(steps, _smooth(losses), color=MODEL, linewidth=2, label="smoothed")
    return _finish_losses(figure, floor)


def loss_curves(runs: Mapping[str, Sequence[Record]], floor: float) -> Figure:
    """Smoothed losses of up to four runs by name, and the floor."""
    figure, axes = _panel()
    for (name, records), color in zip(runs.items(), RUNS, strict=False):
        axes.plot([r.step for r in records], _smooth([r.loss for r in records], reach=2), color=color, label=name)
    return _finish_losses(figure, floor)


def _finish_losses(figure: Figure, floor: float) -> Figure:
    axes = figure.axes[0]
    axes.axhline(floor, color=TRUTH, linewidth=1.5, linestyle="--", label=f"least possible: {floor:.2f}")
    axes.set(xlabel="step", ylabel="loss (nats/token)", yscale="log", xlim=(0, None))
    axes.set_yticks(LOSSES, [f"{loss:g}" for loss in LOSSES])
    axes.minorticks_off()
    low, high = axes.dataLim.intervaly
    axes.set_ylim(0.85 * min(low, floor), 1.15 * high)
    axes.legend(frameon=False)
    return figure


def differences(by_name: Mapping[str, Sequence[float]], what: str) -> Figure:
    """A dot for each pair of runs: how much they differ, under each name; 0 is no difference."""
    figure, axes = _panel()
    for place, values in enumerate(by_name.values()):
        axes.plot([place] * len(values), values, "o", color=MODEL, alpha=0.7)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(by_name)), by_name)
    axes.set_ylabel(what)
    return figure


# ---- after training ----


def loss_by_kind(losses: Mapping[str, float], floors: Mapping[str, float]) -> Figure:
    """A bar for each kind of document: the floor, and on top of it what the model still pays in excess."""
    figure, axes = _panel()
    kinds = list(losses)
    excess = [losses[kind] - floors[kind] for kind in kinds]
    axes.bar(kinds, [floors[kind] for kind in kinds], color=TRUTH, label="least possible")
    axes.bar(kinds, excess, bottom=[floors[kind] for kind in kinds], color=MODEL, label="excess of the model")
    for x, kind in enumerate(kinds):
        axes.text(x, losses[kind] + 0.02, f"+{losses[kind] - floors[kind]:.2f}", ha="center")
    axes.set(ylabel="nats/token", ylim=(0, 1.15 * max(losses.values())))
    axes.legend(frameon=False)
    return figure


def knowledge(
    steps: Sequence[int],
    costs: Sequence[float],
    facts: Sequence[Sequence[float]],
    language: Sequence[float],
    stranger: float,
    truth: float,
) -> Figure:
    """Above: what biographies cost the model as it trains, and the knowledge in them: the nats between a stranger's
    cost and that of one who knows the town. Below, shares learned: of `facts` (recalled, low, high) and of language."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    above.axhline(stranger, color=STRANGER, linestyle=":", label="a perfect reader who knows nobody")
    above.plot(steps, costs, color=MODEL, marker="o", label="the model")
    above.axhline(truth, color=TRUTH, linestyle="--", label="a perfect reader who knows everybody")
    above.axhspan(truth, stranger, color=STRANGER, alpha=0.15, linewidth=0)
    above.fill_between(steps, np.clip(costs, truth, stranger), stranger, color=MODEL, alpha=0.3, linewidth=0)
    above.text(0.01, (truth + stranger) / 2, "knowledge of people", transform=above.get_yaxis_transform(), va="center")
    above.set(ylabel="nats per biography", ylim=(0, 1.1 * max(stranger, *costs)), xlim=(0, None))
    above.legend(frameon=False)
    recalled, low, high = zip(*facts, strict=True)
    below.plot(steps, language, color=NEW, marker="s", label="language: excess on stories that is gone")
    below.plot(steps, recalled, color=MODEL, marker="o", label="knowledge: facts recalled")
    below.fill_between(steps, low, high, color=MODEL, alpha=0.2, linewidth=0)
    below.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    below.set(xlabel="step", ylabel="learned", ylim=(-0.03, 1.03))
    below.legend(frameon=False, loc="center left")
    return figure


def train_and_validation(
    runs: Mapping[str, Sequence[tuple[int, float, float]]], yardsticks: Mapping[str, float], unit: str = "bits/byte"
) -> Figure:
    """A panel for each run: (step, loss on its training text, loss on text held out), with what others pay as lines."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axes, (name, points) in zip(panels, runs.items(), strict=True):
        steps, training, validation = zip(*points, strict=True)
        for other, value in yardsticks.items():
            axes.axhline(value, color=STRANGER, linestyle=":", linewidth=1)
            axes.annotate(other, (0.99, value), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                          fontsize=8)  # fmt: skip
        axes.plot(steps, training, color=TRAIN, marker="o", label="text it trains on")
        axes.plot(steps, validation, color=VALIDATION, marker="s", label="text held out")
        axes.set(title=name, xlabel="step", xlim=(0, None))
    panels[0].set_ylabel(unit)
    panels[0].legend(frameon=False, fontsize=8)
    return figure


# ---- while it runs ----


class LiveLoss:
    """An `on_step` that redraws `loss_curve` in place, at most every `every_s` seconds and at the last step."""

    def __init__(self, steps: int, floor: float, every_s: float = 8.0):
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


def _smooth(values: Sequence[float], reach: int = 10) -> list[float]:
    """Each value's mean with up to `reach` on either side, as many before as after, so that a fall stays where it is;
    at the end, where nothing comes after, with those before."""
    windows = [values[i - min(i, reach) : i + min(i, reach) + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]

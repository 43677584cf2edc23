"""Sampling laboratory (lessons 15, 00): a model's logits on their way to a token, each stage beside the truth.

    logits → softmax → ÷ temperature → top-k → top-p → min-p → 200 seeded draws

Rows are tokens, columns the stages of `llmkit.sampling`; a token is marked in the stage that cuts it. Where the prompt
begins a document of the town, the exact distribution of the next token stands beside the model's.

Shapes: V vocabulary.
"""

from functools import lru_cache
from typing import NamedTuple

import ipywidgets
import torch
from torch import Tensor

from llmkit import sampling
from llmkit.model import Transformer
from llmkit.plots import DRAWN, MODEL, TRUTH
from llmkit.tokenizer import Tokenizer
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture
from llmkit.world import ImpossiblePrefix, World

N_DRAWS, N_ROWS, N_TRUE_ROWS = 200, 12, 3
LABEL, COLUMN, BAR, ROW, TOP = 136, 96, 52, 24, 44


class Prompt(NamedTuple):
    """What the model and the town expect after a text."""

    text: str
    logits: Tensor  # (V,) float32
    truth: Tensor | None  # (V,) float64
    why: str  # why there is no truth


def sampling_lab(model: Transformer, tokenizer: Tokenizer, prompt: str, world: World | None = None, **start) -> Frame:
    """Turn temperature, top-k, top-p and min-p after any prompt; `start` sets where the controls begin."""
    read = lru_cache(maxsize=16)(lambda text: read_prompt(model, tokenizer, text, world))
    wide, late = {"description_width": "initial"}, {"continuous_update": False}
    controls = {
        "prompt": ipywidgets.Text(description="prompt", layout={"width": "700px"}, **late),
        "temperature": ipywidgets.FloatSlider(1.0, min=0, max=2, step=0.05, description="temperature", style=wide),
        "top_k": ipywidgets.IntSlider(0, min=0, max=50, description="top-k (0: off)", style=wide),
        "top_p": ipywidgets.FloatSlider(1.0, min=0, max=1, step=0.01, description="top-p (1: off)", style=wide),
        "min_p": ipywidgets.FloatSlider(0.0, min=0, max=0.5, step=0.01, description="min-p (0: off)", style=wide),
        "seed": ipywidgets.BoundedIntText(0, min=0, max=9999, description="seed", layout={"width": "160px"}),
    }
    for name, value in {"prompt": prompt, **start}.items():
        controls[name].value = value
    return Frame(
        "Sampling laboratory", lambda prompt, **dials: draw(read(prompt), tokenizer, stages(read(prompt), **dials)),
        controls,
    )  # fmt: skip


@torch.no_grad()
def read_prompt(model: Transformer, tokenizer: Tokenizer, text: str, world: World | None) -> Prompt:
    """One run of the model; ValueError if the text outgrows its context."""
    ids = [tokenizer.eos_id, *tokenizer.encode(text)]
    context = model.config.context_length
    if len(ids) > context:
        raise ValueError(f"The prompt has {len(ids)} tokens, the model's context only {context}: shorten it.")
    logits = model(torch.tensor([ids], device=model.tok_emb.weight.device))[0, -1].float().cpu()  # (V,)
    if world is None:
        return Prompt(text, logits, None, "No world was given, so there is no truth beside the model.")
    try:
        return Prompt(text, logits, torch.from_numpy(world.next_token_probs(ids, tokenizer)), "")
    except ImpossiblePrefix:
        return Prompt(text, logits, None, "No document of the town begins like this: here there is no truth.")


class Stage(NamedTuple):
    name: str
    probs: Tensor  # (V,), zero where a filter cut
    kept: Tensor  # (V,) bool


class Stages(NamedTuple):
    filters: list[Stage]
    draws: Tensor  # (V,) how often each token was drawn


def stages(
    prompt: Prompt, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, seed: int = 0
) -> Stages:
    """What is left after each filter, one after the other, and the draws from the last."""
    logits = prompt.logits
    steps = [("model", logits)]
    logits = sampling.scale_temperature(logits, temperature)
    steps.append((f"T = {temperature:g}", logits))
    logits = sampling.keep_top_k(logits, top_k) if top_k else logits
    steps.append((f"top-k {top_k or 'off'}", logits))
    logits = sampling.keep_top_p(logits, top_p) if top_p < 1 else logits
    steps.append((f"top-p {top_p:g}" if top_p < 1 else "top-p off", logits))
    logits = sampling.keep_min_p(logits, min_p) if min_p else logits
    steps.append((f"min-p {min_p:g}" if min_p else "min-p off", logits))
    filters = [Stage(name, logits.softmax(-1), logits > sampling.NEG_INF) for name, logits in steps]
    drawn = torch.multinomial(filters[-1].probs, N_DRAWS, True, generator=torch.Generator().manual_seed(seed))
    return Stages(filters, drawn.bincount(minlength=len(logits)))


def entropy(probs: Tensor) -> float:
    """(V,) -> nats."""
    return float(torch.special.entr(probs).sum())


def distance(p: Tensor, q: Tensor) -> float:
    """Total variation: the share of probability that is in the wrong place."""
    return float((p.double() - q.double()).abs().sum() / 2)


def draw(prompt: Prompt, tokenizer: Tokenizer, result: Stages) -> Picture:
    """The table of stages as a Picture."""
    table = Table(prompt, tokenizer, result)
    last = result.filters[-1].probs
    shares = result.draws / N_DRAWS
    kept = int(result.filters[-1].kept.sum())
    said = [f"{kept:,} token{'s' * (kept != 1)} kept, entropy {entropy(last):.2f} nats."]
    said.append(f"The {N_DRAWS} draws are {distance(shares, last):.3f} (total variation) from their theory.")
    if prompt.truth is not None:
        before, after = distance(result.filters[0].probs, prompt.truth), distance(last, prompt.truth)
        said.append(f"From the truth: the model {before:.3f}, what is drawn from {after:.3f}.")
    return Picture(table.draw(), " ".join([*said, prompt.why]).strip())


class Table:
    """Tokens down, stages across. A bar as wide as BAR is `scale`."""

    def __init__(self, prompt: Prompt, tokenizer: Tokenizer, result: Stages):
        self.prompt, self.tokenizer, self.result, self.truth = prompt, tokenizer, result, prompt.truth
        model = result.filters[0].probs
        ids = set(model.topk(min(N_ROWS, len(model))).indices.tolist())
        if self.truth is not None:
            likely = self.truth.topk(min(N_TRUE_ROWS, len(self.truth)))
            ids |= {i for i, p in zip(likely.indices.tolist(), likely.values.tolist(), strict=True) if p > 0}
        self.ids = sorted(ids, key=lambda i: -float(model[i]))
        columns = [stage.probs[self.ids] for stage in result.filters] + [result.draws[self.ids] / N_DRAWS]
        columns += [self.truth[self.ids]] if self.truth is not None else []
        self.scale = max(float(column.max()) for column in columns)
        self.ticks = [0.0] * len(self.ids)  # where the truth stands in each row: numbers are written beyond it
        if self.truth is not None:
            self.ticks = (BAR * self.truth[self.ids] / self.scale).tolist()
        self.foot = TOP + ROW * len(self.ids)
        self.width, self.height = LABEL + COLUMN * 7, self.foot + 3 * ROW

    def draw(self) -> str:
        parts = [*self._labels(), *self._truth()]
        before = None
        for k, stage in enumerate(self.result.filters):
            parts += self._stage(self._x(k + (k > 0)), stage, before)
            before = stage
        parts += self._draws(self._x(6), before)
        label = f"Next token after {svg.visible(self.prompt.text)}: stages from logits to draws"
        return svg.drawing(self.width, self.height, parts, label)

    def _x(self, column: int) -> float:
        return LABEL + float(COLUMN * column)

    def _labels(self) -> list[str]:
        parts = [svg.text(LABEL - 8, 14, "token", text_anchor="end", font_weight="bold")]
        parts.append(svg.text(0, 14, "logit", font_weight="bold"))
        for row, i in enumerate(self.ids):
            label = svg.visible_bytes(self.tokenizer.token_bytes(i))
            label = label if len(label) <= 11 else label[:10] + "…"
            y = TOP + ROW * row + 16
            parts.append(svg.text(0, y, f"{float(self.prompt.logits[i]):.1f}", font_size=11))
            parts.append(svg.text(LABEL - 8, y, label, text_anchor="end", font_family=svg.MONO))
            parts.append(svg.line(0, y + 8, self.width, y + 8, stroke_opacity=0.15))
        for k, name in enumerate(("all others", "kept", "entropy (nats)")):
            parts.append(svg.text(LABEL - 8, self.foot + ROW * k + 16, name, text_anchor="end", font_size=12))
        return parts

    def _head(self, x: float, name: str, note: str) -> list[str]:
        return [svg.text(x, 14, name, font_weight="bold"), svg.text(x, 32, note, font_size=11)]

    def _foot(self, x: float, probs: Tensor, kept: str) -> list[str]:
        others = max(float(probs.sum() - probs[self.ids].sum()), 0.0)
        cells = (share(others), kept, f"{entropy(probs):.2f}")
        return [svg.text(x, self.foot + ROW * k + 16, cell, font_size=12) for k, cell in enumerate(cells)]

    def _bar(self, x: float, row: int, p: float, colour: str, words: str) -> list[str]:
        y, width = TOP + ROW * row + 4, BAR * p / self.scale
        return [svg.rect(x, y, width, 15, colour), svg.text(x + max(width, self.ticks[row]) + 4, y + 12, words,
                                                            font_size=11)]  # fmt: skip

    def _stage(self, x: float, stage: Stage, before: Stage | None) -> list[str]:
        n_cut = int(before.kept.sum() - stage.kept.sum()) if before else 0
        note = f"cuts {n_cut:,}" if n_cut else "probability" if before is None else ""
        parts = self._head(x, stage.name, note)
        kept = stage.kept[self.ids].tolist()
        kept_before = before.kept[self.ids].tolist() if before else kept
        for row, p in enumerate(stage.probs[self.ids].tolist()):
            y = TOP + ROW * row
            if kept[row]:
                parts += self._bar(x, row, p, MODEL, share(p))
                if self.ticks[row]:
                    at = x + self.ticks[row]
                    parts.append(svg.line(at, y + 1, at, y + 22, TRUTH, stroke_width=2))
            elif kept_before[row]:
                parts.append(svg.rect(x, y + 2, 50, 19, "none", stroke="currentColor", rx=3))
                parts.append(svg.text(x + 25, y + 16, "✕ cut", font_size=11, text_anchor="middle"))
        return parts + self._foot(x, stage.probs, f"{int(stage.kept.sum()):,}")

    def _truth(self) -> list[str]:
        x = self._x(1)
        if self.truth is None:
            return self._head(x, "truth", "unknown here")
        parts = self._head(x, "truth", "exact")
        for row, p in enumerate(self.truth[self.ids].tolist()):
            parts += self._bar(x, row, p, TRUTH, share(p))
        return parts + self._foot(x, self.truth, f"{int((self.truth > 0).sum()):,} possible")

    def _draws(self, x: float, last: Stage) -> list[str]:
        parts = self._head(x, f"{N_DRAWS} draws", "bar; theory: line")
        for row, i in enumerate(self.ids):
            if last.kept[i]:
                n, y = int(self.result.draws[i]), TOP + ROW * row
                theory = BAR * float(last.probs[i]) / self.scale
                width = BAR * n / N_DRAWS / self.scale
                parts.append(svg.rect(x, y + 4, width, 15, DRAWN))
                parts.append(svg.line(x + theory, y + 1, x + theory, y + 22, MODEL, stroke_width=2))
                parts.append(svg.text(x + max(width, theory) + 4, y + 16, str(n), font_size=11))
        others = N_DRAWS - int(self.result.draws[self.ids].sum())
        parts.append(svg.text(x, self.foot + 16, str(others), font_size=12))
        parts.append(svg.text(x, self.foot + ROW + 16, f"{int((self.result.draws > 0).sum())} seen", font_size=12))
        parts.append(svg.text(x, self.foot + 2 * ROW + 16, f"{entropy(self.result.draws / N_DRAWS):.2f}", font_size=12))
        return parts


def share(p: float) -> str:
    """A probability in three characters or so; never 0 unless it is."""
    return f"{p:.3f}" if p >= 0.0005 else "0" if p == 0 else "<.001"

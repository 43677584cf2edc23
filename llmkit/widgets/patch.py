"""Ablate and patch (lessons 03, 04): choose heads and MLPs, take their values away or from another prompt, and see.

What a part is needed for shows when it is set to zero or to its mean; what it carries, when its value comes from a
second prompt that differs in one thing (`activations.ablated`, `activations.patched`). The drawing compares the next
token before and after; "Each part alone" does it for every head and MLP in turn.

Shapes: L layers, H heads, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import NamedTuple

import ipywidgets
import torch
from torch import Tensor

from llmkit import activations
from llmkit.generate import generate
from llmkit.model import Transformer
from llmkit.plots import MINUS, MODEL, NEXT, PLUS, STRANGER
from llmkit.tokenizer import Tokenizer
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture
from llmkit.widgets.tokens import labels, read

MAX_TOKENS, N_NEW, N_TOP = 64, 6, 3
WIDTH, LEFT, COLUMN, ROW, SIDE = 820, 60, 44, 24, 380
ZERO, MEAN, SECOND = "zero", "mean", "second prompt"
ALL, DIFFER, LAST = "every token", "where the prompts differ", "the last token"


class Outcome(NamedTuple):
    """What the model says at the end of the prompt, and how it goes on."""

    logits: Tensor  # (V,)
    text: str


class Bench:
    """A model, a prompt and a second one, and the outcomes of changing some parts. A part is (layer, head or None)."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, prompt: str, second: str, reference: Tensor | None):
        self.model, self.tokenizer, device = model, tokenizer, model.tok_emb.weight.device
        room = min(MAX_TOKENS, model.config.context_length - N_NEW)
        self.idx, self.other = (
            torch.tensor([read(model, tokenizer, text, room)], device=device) for text in (prompt, second)
        )
        self.reference = self.idx if reference is None else reference.to(device)
        self.before = self.run(nullcontext(), text=True)
        self.source = self.run(nullcontext(), text=True, idx=self.other)
        self.captured = activations.capture(model, self.other)
        self.seen = lru_cache(maxsize=64)(self._after)

    @torch.no_grad()
    def run(self, change, text: bool = False, idx: Tensor | None = None) -> Outcome:
        """The outcome inside a context manager that changes the model."""
        idx = self.idx if idx is None else idx
        with change:
            logits = self.model(idx)[0, -1].float().cpu()  # (V,)
            if not text:
                return Outcome(logits, "")
            new = generate(self.model, idx, N_NEW, temperature=0.0, eos_id=self.tokenizer.eos_id)
        ids = [i for i in new[0, idx.shape[1] :].tolist() if i != self.tokenizer.eos_id]
        return Outcome(logits, self.tokenizer.decode(ids))

    def change(self, parts: Sequence[tuple], value: str, at: str):
        """The context manager that gives the parts another value. ValueError where the prompts cannot be compared."""
        heads = [part for part in parts if part[1] is not None]
        mlps = [layer for layer, head in parts if head is None]
        if value != SECOND:
            reference = self.reference if value == MEAN else None
            return activations.ablated(self.model, heads, mlps, value, reference)
        n, m = self.idx.shape[1], self.other.shape[1]
        if n != m:
            raise ValueError(f"The prompts have {n} and {m} tokens: to patch, make them equally long, token by token.")
        places = {ALL: range(n), LAST: [n - 1], DIFFER: (self.idx != self.other)[0].nonzero()[:, 0].tolist()}[at]
        return activations.patched(self.model, self.captured, heads, mlps, positions=places)

    def _after(self, parts: tuple, value: str, at: str) -> Outcome:
        return self.run(self.change(parts, value, at), text=True)

    def answers(self) -> tuple[int, int]:
        """The prompt's first choice, and the second prompt's, or its own next best where they agree."""
        first, best = int(self.before.logits.argmax()), int(self.source.logits.argmax())
        return first, best if best != first else int(self.before.logits.topk(2).indices[1])

    def gap(self, outcome: Outcome) -> float:
        """The logit of the first answer minus that of the other."""
        first, other = self.answers()
        return float(outcome.logits[first] - outcome.logits[other])

    def alone(self, value: str, at: str) -> Tensor:
        """(L, H + 1): how the gap changes if one head, or (last column) MLP, is changed and nothing else."""
        c = self.model.config
        gaps = [[self.gap(self.run(self.change([(layer, head)], value, at))) for head in (*range(c.n_head), None)]
                for layer in range(c.n_layer)]  # fmt: skip
        return torch.tensor(gaps) - self.gap(self.before)


def patch_bench(
    model: Transformer, tokenizer: Tokenizer, prompt: str, second: str, reference: Tensor | None = None
) -> Frame:
    """Choose parts and what becomes of them. "mean" is over the tokens of `reference` (B, T), or of the prompt."""
    bench = lru_cache(maxsize=8)(lambda prompt, second: Bench(model, tokenizer, prompt, second, reference))
    effects, c, wide = {}, model.config, {"description_width": "initial"}
    options = [(f"{layer}.{head}" if head is not None else f"MLP {layer}", (layer, head))
               for layer in range(c.n_layer) for head in (*range(c.n_head), None)]  # fmt: skip
    long = {"continuous_update": False, "layout": {"width": "700px"}}
    controls = {
        "prompt": ipywidgets.Text(prompt, description="prompt", **long),
        "second": ipywidgets.Text(second, description="second", **long),
        "parts": ipywidgets.SelectMultiple(options=options, description="parts", rows=6),
        "value": ipywidgets.Dropdown(options=[ZERO, MEAN, SECOND], value=SECOND, description="becomes", style=wide),
        "at": ipywidgets.Dropdown(options=[ALL, DIFFER, LAST], description="at", style=wide),
    }
    sweep = ipywidgets.Button(description="Each part alone")

    def show(prompt, second, parts, value, at):
        return draw(bench(prompt, second), parts, value, at, effects.get((prompt, second, value, at)))

    frame = Frame("Ablate and patch", show, controls, [sweep])

    def try_all(_):
        s = frame.state
        try:
            effects[s["prompt"], s["second"], s["value"], s["at"]] = bench(s["prompt"], s["second"]).alone(
                s["value"], s["at"]
            )
        except Exception as error:
            return frame.explain(error)
        frame.redraw("Each part was tried alone.")

    sweep.on_click(try_all)
    return frame


def draw(bench: Bench, parts: tuple, value: str, at: str, effects: Tensor | None) -> Picture:
    """The parts with what each does alone, the next token before and after, and how the text goes on."""
    after = bench.seen(tuple(parts), value, at) if parts else bench.before
    first, other = labels(bench.tokenizer, bench.answers())
    before_gap, after_gap = bench.gap(bench.before), bench.gap(after)
    n_layer = bench.model.config.n_layer
    drawn = [*part_grid(bench, parts, effects, f"{first} − {other}")]
    drawn.append(svg.group(next_tokens(bench, after), transform=f"translate({SIDE} 0)"))
    y = max(58 + ROW * n_layer, 48 + 20 * (2 * N_TOP + 2)) + 20
    for k, (name, text) in enumerate(
        (("before", bench.before.text), ("after", after.text), ("second", bench.source.text))
    ):
        drawn.append(svg.text(0, y + 20 * k, f"{name} …", font_weight="bold"))
        words = svg.shorten(svg.visible(text).replace("␣", "\u00a0"), WIDTH - 90)
        drawn.append(svg.text(72, y + 20 * k, words, font_family=svg.MONO))
    names = ", ".join(f"{layer}.{head}" if head is not None else f"MLP {layer}" for layer, head in parts) or "nothing"
    said = f"Changed: {names}. Logit of {first} minus that of {other}: {before_gap:.2f} before, {after_gap:.2f} after."
    if effects is not None:
        row, column = divmod(int(effects.abs().argmax()), effects.shape[1])
        part = f"MLP {row}" if column == effects.shape[1] - 1 else f"head {row}.{column}"
        said += f" Alone, {part} does most: {float(effects[row, column]):+.2f}."
    return Picture(svg.drawing(WIDTH, y + 48, drawn, "Ablating and patching parts of a model"), said)


def part_grid(bench: Bench, chosen: tuple, effects: Tensor | None, gap: str) -> list[str]:
    """Layers down, heads and the MLP across; the chosen framed, tinted by what each does alone."""
    c = bench.model.config
    column = min(COLUMN, (SIDE - LEFT - 24) / (c.n_head + 1))
    parts, words = [svg.text(0, 14, f"each part alone: change of {gap}", font_weight="bold", font_size=12)], []
    if effects is not None:
        most = float(effects.abs().max()) or 1.0
        parts.append(svg.heat(LEFT, 38, column * (c.n_head + 1), ROW * c.n_layer, 0.8 * effects / most, PLUS, MINUS))
    for layer in range(c.n_layer):
        words.append(svg.text(LEFT - 6, 54 + ROW * layer, f"layer {layer}", text_anchor="end"))
        for k, head in enumerate((*range(c.n_head), None)):
            x, y = LEFT + column * k, 38 + ROW * layer
            on = (layer, head) in chosen
            parts.append(svg.rect(x + 1, y + 1, column - 2, ROW - 2, "none", stroke=NEXT if on else "currentColor",
                                  stroke_width=3 if on else 1, stroke_opacity=1 if on else 0.25))  # fmt: skip
            if layer == 0:
                name = "MLP" if head is None else f"head {head}" if column >= 40 else head
                words.append(svg.text(x + column / 2, 32, name, text_anchor="middle"))
            if effects is not None and column >= 30:
                value = f"{round(float(effects[layer, k]), 1) + 0.0:+.1f}"
                words.append(svg.text(x + column / 2, y + 16, value, text_anchor="middle"))
    if effects is None:
        words.append(svg.text(LEFT, 54 + ROW * c.n_layer, "press “Each part alone” for numbers", font_style="italic"))
    return [*parts, svg.group(words, font_size=11)]


def next_tokens(bench: Bench, after: Outcome) -> list[str]:
    """The likeliest tokens before and after: their probabilities and logits."""
    old, new = bench.before.logits.softmax(-1), after.logits.softmax(-1)  # (V,)
    ids = [*bench.answers(), *old.topk(N_TOP).indices.tolist(), *new.topk(N_TOP).indices.tolist()]
    ids = sorted(dict.fromkeys(ids), key=lambda i: -float(old[i] + new[i]))
    columns = ((100, "before"), (220, "after"), (350, "Δ logit"))
    parts = [svg.text(x, 14, name, font_weight="bold", font_size=12) for x, name in columns]
    parts.append(svg.text(92, 14, "next token", text_anchor="end", font_weight="bold", font_size=12))
    for row, (i, label) in enumerate(zip(ids, labels(bench.tokenizer, ids), strict=True)):
        y = 26 + 20 * row
        bold = "bold" if i in bench.answers() else None
        parts.append(svg.text(92, y + 13, label, text_anchor="end", font_family=svg.MONO, font_weight=bold))
        for x, probs, colour in ((100, old, STRANGER), (220, new, MODEL)):
            parts.append(svg.rect(x, y + 1, 70 * float(probs[i]), 15, colour))
            parts.append(svg.text(x + 70 * float(probs[i]) + 4, y + 13, f"{float(probs[i]):.3f}", font_size=11))
        delta = float(after.logits[i] - bench.before.logits[i])
        parts.append(svg.text(390, y + 13, f"{round(delta, 2) + 0.0:+.2f}", text_anchor="end", font_size=11))
    return parts

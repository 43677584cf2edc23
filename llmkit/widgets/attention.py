"""Attention cell, dismantled (lesson 02): one query, one key, and every step between them and the head's output.

    q · k  →  ÷ √D  →  mask  →  softmax  →  weighted sum of v

The steps can be switched off one by one. The loss stands beside: without the mask a model reads the very token that it
has to predict, and a loss below the least possible one is the sign of it.

Shapes: T tokens, D head_dim.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import ipywidgets
import torch
from torch import Tensor

from llmkit import activations
from llmkit.attention import causal_mask
from llmkit.logprobs import token_logprobs
from llmkit.model import Transformer
from llmkit.plots import KEY, MINUS, MODEL, NEXT, PLUS, QUERY, TRUTH, VALUE
from llmkit.tokenizer import Tokenizer
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture
from llmkit.widgets.tokens import axes, labels, read

MAX_TOKENS = 24
WIDTH, MAP, RIGHT, AXIS, ROW = 820, 250, 384, 84, 15
BARS, SCORE, WEIGHT = 356, 70, 66  # widths: the products' bars, and two columns of the table


class Cell(NamedTuple):
    """The tensors of one head on one text. `loss(mask, scaling, softmax)` is in nats/token, `floor` the least possible
    one; either may be left out. Give a floor to losses over many texts alone: on a single one a model can be lucky."""

    names: list[str]  # T labels
    q: Tensor  # (T, D)
    k: Tensor  # (T, D)
    v: Tensor  # (T, D)
    loss: Callable[[bool, bool, bool], float] | None = None
    floor: float | None = None


def attention_cell(cell: Cell, query: int | None = None, key: int = 0) -> Frame:
    """Choose a query and a key, and switch the mask, the scaling and the softmax off and on."""
    n = len(cell.names)
    if n > MAX_TOKENS:
        raise ValueError(f"the text has {n} tokens, the drawing room for {MAX_TOKENS}: shorten it")
    cell = cell._replace(loss=lru_cache(cell.loss) if cell.loss else None)
    controls = {
        "query": ipywidgets.IntSlider(n - 1 if query is None else query, 0, n - 1, description="query"),
        "key": ipywidgets.IntSlider(key, 0, n - 1, description="key"),
        "mask": ipywidgets.Checkbox(True, description="mask", indent=False, layout={"width": "90px"}),
        "scaling": ipywidgets.Checkbox(True, description="scaling", indent=False, layout={"width": "100px"}),
        "softmax": ipywidgets.Checkbox(True, description="softmax", indent=False, layout={"width": "100px"}),
    }
    return Frame("Attention cell", lambda **state: draw(cell, **state), controls)


def capture(model: Transformer, tokenizer: Tokenizer, text: str, layer: int, head: int) -> Cell:
    """A head of a model on a text, and what the model's loss on it becomes when that one head is changed. ValueError
    for models whose scores are more than q · k (ALiBi, sliding windows)."""
    idx = torch.tensor([read(model, tokenizer, text, MAX_TOKENS)], device=model.tok_emb.weight.device)
    acts = activations.capture(model, idx)
    group = model.config.n_head // model.config.n_kv_head
    q, k, v = acts.q[layer, 0, head], acts.k[layer, 0, head // group], acts.v[layer, 0, head // group]  # (T, D) each
    if not torch.allclose(weigh(q, k, True, True, True), acts.att[layer, 0, head], atol=1e-4):
        raise ValueError("this model's scores are not q · k alone, and the cell shows nothing else: take one with RoPE")

    @torch.no_grad()
    def loss(mask, scaling, softmax):
        out = weigh(q, k, mask, scaling, softmax) @ v  # (T, D)

        def change(place, at, value):  # of the heads' values (1, H, T, D)
            if place == "heads" and at == layer:
                value = value.clone()
                value[0, head] = out
                return value

        with activations.hooked(model, change):
            return -float(token_logprobs(model(idx)[:, :-1], idx[:, 1:]).mean())

    return Cell(labels(tokenizer, idx[0].tolist()), q.cpu(), k.cpu(), v.cpu(), loss)


def score(q: Tensor, k: Tensor, scaling: bool) -> Tensor:
    """(T, T), before mask and softmax."""
    return q @ k.T / (math.sqrt(q.shape[-1]) if scaling else 1.0)


def weigh(q: Tensor, k: Tensor, mask: bool, scaling: bool, softmax: bool) -> Tensor:
    """(T, T): what each query's output takes of each value. Without softmax, scores themselves are the weights."""
    scores = score(q, k, scaling)
    allowed = causal_mask(len(q), q.device) if mask else torch.ones_like(scores, dtype=torch.bool)
    return scores.masked_fill(~allowed, -torch.inf).softmax(-1) if softmax else scores.masked_fill(~allowed, 0.0)


def draw(cell: Cell, query: int, key: int, mask: bool, scaling: bool, softmax: bool) -> Picture:
    """All steps for one query and key: the map of weights, the products, the numbers on their way, the row."""
    weights, scores = weigh(cell.q, cell.k, mask, scaling, softmax), score(cell.q, cell.k, scaling)
    hidden = mask and key > query
    parts = [*_map(cell, weights, query, key), *_products(cell, query, key)]
    parts += _steps(cell, query, key, scores, weights, (mask, scaling, softmax), hidden)
    parts += _row(cell, query, key, scores, weights, mask)
    words, loss = _loss(cell, mask, scaling, softmax)
    names, below = cell.names, 22 + MAP + svg.mono_width(max(cell.names, key=svg.cells), 11) + 24
    parts.append(svg.group(loss, transform=f"translate(0 {svg.number(below)})"))
    height = max(below + 56 * bool(loss), 196 + ROW * len(names) + 30)
    said = f"Query {names[query]} ({query}), key {names[key]} ({key}): q · k = {float(cell.q[query] @ cell.k[key]):.2f}"
    said += ", hidden by the mask" if hidden else f", weight {float(weights[query, key]):.2f}"
    return Picture(svg.drawing(WIDTH, height, parts, "One attention head, step by step"), f"{said}. {words}".strip())


def unit(x: Tensor) -> Tensor:
    """Divided by its largest number, so that its colours fill their range."""
    return x / x.abs().max().clamp_min(1e-9)


def _map(cell: Cell, weights: Tensor, query: int, key: int) -> list[str]:
    """The weights of all queries and keys; the chosen row and cell framed."""
    size = MAP / len(cell.names)
    body = [svg.heat(0, 0, MAP, MAP, weights if float(weights.abs().max()) <= 1 else unit(weights), PLUS, MINUS)]
    body.append(svg.rect(0, query * size, MAP, size, "none", stroke=QUERY, stroke_width=2))
    body.append(svg.rect(key * size, 0, size, MAP, "none", stroke=KEY, stroke_width=2))
    body += axes(cell.names, MAP, query, key)
    head = svg.text(0, 12, "weights: queries down, keys across", font_weight="bold", font_size=12)
    return [head, svg.group(body, transform=f"translate({AXIS} 22)")]


def _products(cell: Cell, query: int, key: int) -> list[str]:
    """q, k, and their product in each dimension, as signed bars."""
    q, k = cell.q[query], cell.k[key]
    size = BARS / len(q)
    products = (q * k).tolist()
    most = max(map(abs, products)) or 1.0
    title = f"q and k in {len(q)} dimensions, and their products"
    parts = [svg.text(RIGHT, 12, title, font_weight="bold", font_size=12)]
    for y, name, vector, colour in ((20, "q", q, QUERY), (38, "k", k, KEY)):
        parts.append(svg.text(RIGHT, y + 12, name, font_weight="bold"))
        parts.append(svg.heat(RIGHT + 24, y, BARS, 15, unit(vector[None]), PLUS, MINUS))
        parts.append(svg.rect(RIGHT + 24, y, BARS, 15, "none", stroke=colour, stroke_width=1.5))
    parts.append(svg.text(RIGHT, 86, "q k", font_weight="bold", font_size=11))
    parts.append(svg.line(RIGHT + 24, 82, RIGHT + 24 + BARS, 82, stroke_opacity=0.4))
    for i, product in enumerate(products):
        height = 22 * abs(product) / most
        y = 82 - height if product > 0 else 82
        parts.append(svg.rect(RIGHT + 24 + size * i, y, size - 1, height, PLUS if product > 0 else MINUS))
    parts.append(svg.text(RIGHT + 24, 116, f"sum: q · k = {sum(products):.2f}",
                          font_size=11))  # fmt: skip
    return parts


def _steps(cell, query, key, scores, weights, switches, hidden) -> list[str]:
    """What becomes of the chosen score, step by step."""
    mask, scaling, softmax = switches
    product = float(cell.q[query] @ cell.k[key])
    masked = "−∞" if hidden and softmax else "0" if hidden else f"{float(scores[query, key]):.2f}"
    stages = (
        ("q · k", f"{product:.2f}", True),
        (f"÷ √{cell.q.shape[1]}", f"{float(scores[query, key]):.2f}", scaling),
        ("mask", masked, mask),
        ("softmax", f"{float(weights[query, key]):.2f}", softmax),
    )
    parts = []
    for k, (name, value, on) in enumerate(stages):
        x = RIGHT + 100.0 * k
        parts.append(svg.rect(x, 126, 78, 38, "none", stroke="currentColor", rx=5, stroke_opacity=1 if on else 0.3,
                              stroke_dasharray=None if on else "4 3"))  # fmt: skip
        parts.append(svg.text(x + 39, 141, name if on else f"{name}: off", text_anchor="middle", font_size=11))
        parts.append(svg.text(x + 39, 157, value, text_anchor="middle", font_weight="bold"))
        if k:
            parts.append(svg.text(x - 11, 149, "→", text_anchor="middle"))
    return parts


def _row(cell: Cell, query: int, key: int, scores: Tensor, weights: Tensor, mask: bool) -> list[str]:
    """The query's row as a table: scores, weights, values; below, the output: their weighted sum."""
    n, top, label = len(cell.names), 196, 84
    row, raw, out = weights[query], scores[query], weights[query] @ cell.v
    x_score, x_weight = RIGHT + label + SCORE / 2, RIGHT + label + SCORE + 22
    x_value = x_weight + WEIGHT + 34.0
    width = WIDTH - 2 - x_value
    heads = ((x_score - SCORE / 2, "score"), (x_weight, "weight"), (x_value, "× v"))
    parts = [svg.text(x, top - 8, name, font_size=11, font_weight="bold") for x, name in heads]
    most, heaviest = float(raw.abs().max()) or 1.0, max(float(row.abs().max()), 1e-9)
    words = []
    for k, name in enumerate(cell.names):
        y, hidden = top + ROW * k, mask and k > query
        weight, value = float(row[k]), float(raw[k])
        words.append(svg.text(RIGHT + label - 6, y + 11, name, text_anchor="end", font_family=svg.MONO, font_weight=
                              "bold" if k == key else None, fill_opacity=0.6 if hidden else None))  # fmt: skip
        size = 0.5 * SCORE * abs(value) / most
        parts.append(svg.rect(x_score - size if value < 0 else x_score, y + 2, size, ROW - 4,
                              MINUS if value < 0 else PLUS, fill_opacity=0.2 if hidden else 1))  # fmt: skip
        if hidden:
            words.append(svg.text(x_weight, y + 11, "hidden", fill_opacity=0.6))
        else:
            parts.append(svg.rect(x_weight, y + 2, WEIGHT * abs(weight) / heaviest, ROW - 4,
                                  MODEL if weight >= 0 else MINUS))  # fmt: skip
            words.append(svg.text(x_weight + WEIGHT * abs(weight) / heaviest + 3, y + 11, f"{weight:.2f}"))
    parts.append(svg.heat(x_value, top, width, ROW * n, unit(row[:, None] * cell.v), PLUS, MINUS))
    parts.append(svg.rect(x_value, top, width, ROW * n, "none", stroke=VALUE, stroke_opacity=0.8))
    parts.append(svg.heat(x_value, top + ROW * n + 8, width, ROW, unit(out[None]), PLUS, MINUS))
    parts.append(svg.rect(x_value, top + ROW * n + 8, width, ROW, "none", stroke="currentColor"))
    parts.append(svg.text(x_value - 6, top + ROW * n + 20, "sum: the output", text_anchor="end", font_size=11))
    frame = svg.rect(RIGHT, top + ROW * key, WIDTH - RIGHT - 1, ROW, "none", stroke=KEY, stroke_width=1.5)
    return [*parts, svg.group(words, font_size=10), frame]


def _loss(cell: Cell, *switches: bool) -> tuple[str, list[str]]:
    """(sentence, parts): the loss with these switches, with all of them on, and the least possible one."""
    if cell.loss is None:
        return "", []
    loss, whole = cell.loss(*switches), cell.loss(True, True, True)
    scale = 1.15 * max(loss, whole, cell.floor or 0)
    at = [AXIS + MAP * value / scale for value in (loss, whole, cell.floor or 0)]
    parts = [svg.text(AXIS - 8, 13, "loss", text_anchor="end", font_weight="bold")]
    parts += [svg.rect(AXIS, 2, at[0] - AXIS, 14, MODEL), svg.line(at[1], -2, at[1], 20, NEXT, stroke_width=2)]
    words = [svg.text(AXIS, 34, f"{loss:.2f} nats/token; all switches on: {whole:.2f}")]
    said = f"Loss {loss:.2f} nats/token; with everything on {whole:.2f}."
    if cell.floor is not None:
        parts.append(svg.line(at[2], -2, at[2], 20, TRUTH, stroke_width=2, stroke_dasharray="4 2"))
        words.append(svg.text(AXIS, 50, f"least possible: {cell.floor:.2f}"))
        said += f" Least possible {cell.floor:.2f}."
        if loss < cell.floor:
            said += " Less than possible: the future leaks into the prediction."
    return said, [*parts, svg.group(words, font_size=11)]

"""Head grid (lesson 02): every head of a model on any prompt, one of them large, and what each does.

What a head does is measured apart from the prompt, on random tokens written twice (`activations.head_scores`): nothing
there can be foreseen but by looking back, so a weight on the token before, on the earlier copy, or on what followed the
earlier copy (induction, arXiv 2209.11895) is the head's habit and not the text's.

Shapes: L layers, H heads, T tokens; att (L, H, T, T), a row for each query, adds up to one.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import ipywidgets
import numpy as np
import torch

from llmkit import activations
from llmkit.model import Transformer
from llmkit.plots import MODEL, NEXT
from llmkit.tokenizer import Tokenizer
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture
from llmkit.widgets.tokens import axes, follow, labels, read, strip

MAX_TOKENS, N_REPEATED = 48, 24
WIDTH, GRID, TALL, LARGE = 800, 330, 420, 320  # the drawing, the grid and its height at most, the large map
CAPTION, SMALLEST = 15, 62  # under a map of the grid that is at least so wide
LOOKS, LOOKED_AT = "where it looks", "who looks at it"


class Heads(NamedTuple):
    """One run of a model, and its heads' habits."""

    names: list[str]  # T labels
    att: np.ndarray  # (L, H, T, T)
    habits: Mapping[str, np.ndarray]  # (L, H) of 0 .. 1 each


def head_grid(
    model: Transformer, tokenizer: Tokenizer, prompt: str, habits: Mapping[str, np.ndarray] | None = None
) -> Frame:
    """Choose a head and a token of any prompt; both ways: where the token looks, and who looks at it.

    `habits`: scores (L, H) of your own, by name, in place of those on random tokens.
    """
    habits = habits or measure(model, tokenizer)
    run = lru_cache(maxsize=16)(lambda text: capture(model, tokenizer, text, habits))
    c, wide, late = model.config, {"description_width": "initial"}, {"continuous_update": False}
    names = [f"{layer}.{head}" for layer in range(c.n_layer) for head in range(c.n_head)]
    start = names[int(next(iter(habits.values())).argmax())]
    last = len(run(prompt).names) - 1
    box = ipywidgets.Text(prompt, description="prompt", layout={"width": "700px"}, **late)
    token = ipywidgets.IntSlider(last, 0, last, description="token")
    box.observe(lambda change: follow(token, lambda: len(run(change["new"]).names) - 1), names="value")
    controls = {
        "prompt": box,
        "head": ipywidgets.SelectionSlider(options=names, value=start, description="head", **late),
        "token": token,
        "way": ipywidgets.Dropdown(options=[LOOKS, LOOKED_AT], description="shown", style=wide),
    }
    return Frame("Head grid", lambda prompt, **chosen: draw(run(prompt), **chosen), controls)


def capture(model: Transformer, tokenizer: Tokenizer, text: str, habits: Mapping[str, np.ndarray]) -> Heads:
    """A run on a text; ValueError if it is too long."""
    ids = read(model, tokenizer, text, MAX_TOKENS)
    idx = torch.tensor([ids], device=model.tok_emb.weight.device)
    att = activations.capture(model, idx).att[:, 0].float().cpu().numpy()  # (L, H, T, T)
    return Heads(labels(tokenizer, ids), att, habits)


def measure(model: Transformer, tokenizer: Tokenizer, batch_size: int = 4) -> dict[str, np.ndarray]:
    """(L, H) of 0 .. 1 by kind: how much each head is of that kind, on repeated random tokens."""
    n, generator = min(N_REPEATED, (model.config.context_length - 1) // 2), torch.Generator().manual_seed(0)
    n_ids = min(tokenizer.eos_id, model.config.vocab_size)
    idx = activations.repeated_tokens(n_ids, n, batch_size, start=tokenizer.eos_id, generator=generator)
    att = activations.capture(model, idx.to(model.tok_emb.weight.device)).att
    scores = activations.head_scores(att, idx.to(att.device))
    kinds = {"previous": scores.previous_token, "same": scores.same_token, "induction": scores.induction}
    return {kind: score.float().cpu().numpy() for kind, score in kinds.items()}


def draw(run: Heads, head: str, token: int, way: str) -> Picture:
    """The grid, the chosen head large, the text tinted by the chosen token's weights."""
    at = tuple(map(int, head.split(".")))
    token = min(token, len(run.names) - 1)
    att = run.att[at]  # (T, T)
    weights = att[token] if way == LOOKS else att[:, token]
    maps, depth = grid(run, at)
    parts = [*maps, svg.group(large(run, at, token, way), transform=f"translate({WIDTH - LARGE - 2} 16)")]
    notes = [f"{w:.2f}" if w >= 0.05 else "" for w in weights]
    boxes, height = strip(run.names, weights, WIDTH, [token], notes)
    axis = svg.mono_width(max(run.names, key=svg.cells), 11) + 12
    below = max(16 + LARGE + axis, 24 + depth)
    parts.append(svg.group(boxes, transform=f"translate(1 {below})"))
    top = [k for k in np.argsort(-weights)[:3] if weights[k] >= 0.05]
    listed = ", ".join(f"{run.names[k]} ({k}) {weights[k]:.2f}" for k in top) or "nobody by more than 0.05"
    verb = "looks at" if way == LOOKS else "is looked at by"
    scores = ", ".join(f"{kind} {values[at]:.2f}" for kind, values in run.habits.items())
    said = f"Head {head}: {run.names[token]} ({token}) {verb} {listed}. Its habits: {scores}."
    return Picture(svg.drawing(WIDTH, below + height, parts, f"Attention of all heads on {' '.join(run.names)}"), said)


def grid(run: Heads, at: tuple[int, int]) -> tuple[list[str], float]:
    """(parts, height): layers down, heads across, one picture; a caption is the strongest habit and its score."""
    n_layer, n_head, n, _ = run.att.shape
    width, height = min(GRID / n_head - 6, 74.0), TALL / n_layer - 6 - CAPTION  # of a map
    captions = width >= SMALLEST and height >= SMALLEST / 2
    width, height = (width, min(width, height)) if captions else (min(GRID / n_head, TALL / n_layer) - 3,) * 2
    gap = 6 if captions else 3
    stride = max(1, round(n_layer * n_head * n * n / 100_000))  # of many heads, fewer cells each
    maps = run.att[:, :, ::stride, ::stride]
    n = maps.shape[-1]
    wide, tall = max(1, round(gap * n / width)), max(1, round((gap + CAPTION * captions) * n / height))  # in cells
    cells = np.zeros((n_layer * (n + tall), n_head * (n + wide)))
    for layer, head in np.ndindex(n_layer, n_head):
        cells[layer * (n + tall) :, head * (n + wide) :][:n, :n] = maps[layer, head]
    across, down = width / n, height / n  # of a cell
    parts = [svg.heat(1, 16, across * cells.shape[1], down * cells.shape[0], cells, MODEL)]
    parts.append(svg.text(0, 11, "all heads, layer.head" + ": strongest habit" * captions, font_size=11))
    frames, words = [], []
    for layer, head in np.ndindex(n_layer, n_head):
        x, y = 1 + across * (n + wide) * head, 16 + down * (n + tall) * layer
        chosen = (layer, head) == at
        frames.append(svg.rect(x, y, width, height, "none", stroke=NEXT if chosen else "currentColor",
                               stroke_width=3 if chosen else 1, stroke_opacity=1 if chosen else 0.3))  # fmt: skip
        if captions:
            kind, score = max(((k, v[layer, head]) for k, v in run.habits.items()), key=lambda named: named[1])
            words.append(svg.text(x, y + height + 11, f"{layer}.{head} {kind[:4]} {score:.2f}"))
    return [*parts, svg.group(frames), svg.group(words, font_size=9)], down * cells.shape[0]


def large(run: Heads, at: tuple[int, int], token: int, way: str) -> list[str]:
    """One head's map with its tokens: queries down, keys across."""
    size = LARGE / len(run.names)
    parts = [svg.text(0, -6, f"head {at[0]}.{at[1]}: queries down, keys across", font_size=11)]
    parts.append(svg.heat(0, 0, LARGE, LARGE, run.att[at], MODEL))
    x, y, w, h = (0, token * size, LARGE, size) if way == LOOKS else (token * size, 0, size, LARGE)
    parts.append(svg.rect(x, y, w, h, "none", stroke=NEXT, stroke_width=2))
    return parts + axes(run.names, LARGE, token, token)

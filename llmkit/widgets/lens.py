"""Logit lens (lesson 04): what the model would say after each layer, who wrote it, and what the truth is.

Every cell is `activations.logit_lens` of the residual stream there (arXiv 2303.08112). For one token, its rank's path
through the layers and its logit as a sum of shares: embedding, each head, each MLP (`activations.attribution`).

Shapes: L layers, H heads, T tokens, V vocabulary.
"""

import math
from functools import cache, lru_cache

import ipywidgets
import torch
from torch import Tensor

from llmkit import activations
from llmkit.model import Transformer
from llmkit.plots import MINUS, MODEL, NEXT, PLUS, TRUTH
from llmkit.tokenizer import Tokenizer
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture
from llmkit.widgets.sampling import share
from llmkit.widgets.tokens import follow, labels, read
from llmkit.world import ImpossiblePrefix, World

MAX_TOKENS, WINDOW, N_TOP = 64, 12, 6
WIDTH, LEFT, COLUMN, ROW = 820, 84, 61, 22
FIRST, FOLLOWS, TRUE = "the model's first choice", "what follows in the text", "the truth's first choice"


class Reading:
    """One run of a model on a text, read with the lens."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, text: str, world: World | None = None):
        self.model, self.tokenizer, self.world = model, tokenizer, world
        self.ids = read(model, tokenizer, text, MAX_TOKENS)
        self.names = labels(tokenizer, self.ids)
        self.idx = torch.tensor([self.ids], device=model.tok_emb.weight.device)
        acts = activations.capture(model, self.idx)
        lens = activations.logit_lens(model, acts.resid[:, 0])  # (L + 1, T, V)
        self.probs = lens.float().softmax(-1).cpu()
        self.truth, self.shares = cache(self._truth), cache(self._shares)

    def _truth(self, position: int) -> Tensor | None:
        """(V,), exact; None where the town, or no world, could have begun so."""
        try:
            return self.world and torch.from_numpy(
                self.world.next_token_probs(self.ids[: position + 1], self.tokenizer)
            )
        except ImpossiblePrefix:
            return None

    def _shares(self, position: int, token: int) -> activations.Attribution:
        return activations.attribution(self.model, self.idx, position, token)

    def watched(self, position: int, watch: str) -> int:
        """The token whose path is shown; the model's first choice where there is no other."""
        if watch == FOLLOWS and position + 1 < len(self.ids):
            return self.ids[position + 1]
        truth = self.truth(position) if watch == TRUE else None
        return int((self.probs[-1, position] if truth is None else truth).argmax())


def logit_lens(model: Transformer, tokenizer: Tokenizer, prompt: str, world: World | None = None) -> Frame:
    """Choose a layer and a token of any prompt; the truth stands beside where the prompt begins a document."""
    run = lru_cache(maxsize=16)(lambda text: Reading(model, tokenizer, text, world))
    last, n_layer, wide = len(run(prompt).ids) - 1, model.config.n_layer, {"description_width": "initial"}
    box = ipywidgets.Text(prompt, description="prompt", continuous_update=False, layout={"width": "700px"})
    token = ipywidgets.IntSlider(last, 0, last, description="token", continuous_update=False)
    box.observe(lambda change: follow(token, lambda: len(run(change["new"]).ids) - 1), names="value")
    controls = {
        "prompt": box,
        "token": token,
        "layer": ipywidgets.IntSlider(n_layer, 0, n_layer, description="layers", continuous_update=False),
        "watch": ipywidgets.Dropdown(options=[FIRST, FOLLOWS, TRUE], description="watch", style=wide),
    }
    return Frame("Logit lens", lambda prompt, **chosen: draw(run(prompt), **chosen), controls)


def draw(reading: Reading, token: int, layer: int, watch: str) -> Picture:
    """The map, and of its chosen cell: the likeliest tokens, the watched token's path, and the shares of its logit."""
    position = min(token, len(reading.ids) - 1)
    watched, truth = reading.watched(position, watch), reading.truth(position)
    probs, n_layer = reading.probs[:, position], len(reading.probs) - 1  # (L + 1, V)
    name, best = labels(reading.tokenizer, [watched, int(probs[layer].argmax())])
    ranks = (1 + (probs > probs[:, watched, None]).sum(-1)).tolist()  # (L + 1,)
    shares = reading.shares(position, watched)
    y = 76 + ROW * (n_layer + 1)
    parts = lens_map(reading, position, layer)
    for x, panel in ((0, top_tokens(reading, position, layer)), (296, path(ranks, layer, name)),
                     (530, attribution(shares, name))):  # fmt: skip
        parts.append(svg.group(panel, transform=f"translate({x} {y})"))
    said = f"After {layer} of {n_layer} layers, {reading.names[position]} ({position}) would go on with {best}, "
    said += f"probability {float(probs[layer].max()):.2f}"
    said += f" (in truth {float(truth[probs[layer].argmax()]):.2f}). " if truth is not None else ". "
    said += f"Rank of {name} after 0 to {n_layer} layers: {', '.join(map(str, ranks))}. Its logit "
    sums = {"embedding": shares.embedding, "heads": shares.heads, "MLPs": shares.mlps, "biases": shares.bias}
    kept = {part: float(x.sum()) for part, x in sums.items() if part != "biases" or x.any()}
    said += f"{float(shares.logit):.2f} = {' + '.join(f'{part} {x:.2f}' for part, x in kept.items())}."
    height = y + max(40 + 20 * N_TOP, 54 + 17 * (n_layer + 2))
    return Picture(svg.drawing(WIDTH, height, parts, f"Logit lens on {' '.join(reading.names)}"), said)


def lens_map(reading: Reading, position: int, layer: int) -> list[str]:
    """Layers down, tokens across: the likeliest next token, tinted by its probability; some tokens about the chosen."""
    first = max(0, min(position - WINDOW // 2, len(reading.ids) - WINDOW))
    places = range(first, min(first + WINDOW, len(reading.ids)))
    best = reading.probs[:, first : places.stop].max(-1)  # (L + 1, window)
    parts, words = [], []
    for column, place in enumerate(places):
        x = LEFT + COLUMN * (column + 0.5)
        weight = "bold" if place == position else None
        words.append(svg.text(x, 28, reading.names[place][:7], text_anchor="middle", font_weight=weight))
        words.append(svg.text(x, 12, place, text_anchor="middle", font_size=9, fill_opacity=0.6))
    parts.append(svg.heat(LEFT, 36, COLUMN * len(places), ROW * len(best.values), 0.75 * best.values, MODEL))
    for row, ids in enumerate(best.indices.tolist()):
        y = 36 + ROW * row
        name = "embedding" if row == 0 else "the end" if row == len(best.values) - 1 else f"after layer {row - 1}"
        parts.append(svg.text(LEFT - 6, y + 15, name, text_anchor="end", font_size=11))
        for column, label in enumerate(labels(reading.tokenizer, ids)):
            words.append(svg.text(LEFT + COLUMN * (column + 0.5), y + 15, label[:7], text_anchor="middle"))
    parts.append(svg.rect(LEFT + COLUMN * (position - first), 36 + ROW * layer, COLUMN, ROW, "none", stroke=NEXT,
                          stroke_width=2.5))  # fmt: skip
    return [*parts, svg.group(words, font_size=11, font_family=svg.MONO)]


def top_tokens(reading: Reading, position: int, layer: int) -> list[str]:
    """The likeliest tokens of the chosen cell, and what the truth gives them."""
    probs, truth = reading.probs[layer, position], reading.truth(position)
    top = probs.topk(min(N_TOP, len(probs))).indices.tolist()
    parts = [svg.text(0, 0, "likeliest here", font_weight="bold"), svg.text(110, 0, "lens", font_weight="bold")]
    parts.append(svg.text(196, 0, "truth" if truth is not None else "no truth", font_weight="bold"))
    for row, (i, label) in enumerate(zip(top, labels(reading.tokenizer, top), strict=True)):
        y = 10 + 20 * row
        parts.append(svg.text(100, y + 13, label, text_anchor="end", font_family=svg.MONO))
        columns = [(110, float(probs[i]), MODEL)] + ([(196, float(truth[i]), TRUTH)] if truth is not None else [])
        for x, p, colour in columns:
            parts.append(svg.rect(x, y + 1, 44 * p, 15, colour))
            parts.append(svg.text(x + 44 * p + 4, y + 13, share(p), font_size=11))
    return parts


def path(ranks: list[int], layer: int, name: str) -> list[str]:
    """The watched token's rank after each layer, 1 on top, on a logarithmic scale."""
    width, height = 190, 17 * 6
    most = math.log(max(*ranks, 10))
    points = [
        (22 + width * k / max(len(ranks) - 1, 1), 20 + height * math.log(rank) / most) for k, rank in enumerate(ranks)
    ]
    parts = [svg.text(0, 0, f"rank of {name}", font_weight="bold"), svg.path(points, MODEL, stroke_width=2)]
    for k, ((x, y), rank) in enumerate(zip(points, ranks, strict=True)):
        parts.append(svg.rect(x - 3, y - 3, 6, 6, NEXT if k == layer else MODEL, rx=3))
        if k == 0:  # left of the line, which is steep here
            parts.append(svg.text(x - 6, y + 4, rank, text_anchor="end", font_size=10))
        else:
            parts.append(svg.text(x, y + 16 if rank < 4 else y - 7, rank, text_anchor="middle", font_size=10))
    parts.append(svg.text(22, 20 + height + 24, "embedding", text_anchor="middle", font_size=10))
    parts.append(svg.text(22 + width, 20 + height + 24, "the end", text_anchor="middle", font_size=10))
    return parts


def attribution(shares: activations.Attribution, name: str) -> list[str]:
    """Who wrote the logit: layers down; heads, their MLP and the layer's sum across."""
    parts_of = torch.cat([shares.heads[0], shares.mlps[0, :, None]], dim=1).float().cpu()  # (L, H + 1)
    n_layer, n_head = len(parts_of), parts_of.shape[1] - 1
    column, left = 196 / (n_head + 1), 54
    parts = [svg.text(0, 0, f"shares of the logit of {name}", font_weight="bold")]
    most = float(parts_of.abs().max()) or 1.0
    parts.append(svg.heat(left, 26, 196, 17 * n_layer, 0.8 * parts_of / most, PLUS, MINUS))
    names = [*(f"head {k}" if column >= 36 else k for k in range(n_head)), "MLP"]
    words = [svg.text(left + column * (k + 0.5), 20, name, text_anchor="middle") for k, name in enumerate(names)]
    for row, values in enumerate(parts_of.tolist()):
        y = 26 + 17 * row + 12
        words.append(svg.text(left - 6, y, f"layer {row}", text_anchor="end"))
        words.append(svg.text(left + 202, y, tenth(sum(values))))
        if column >= 28:
            words += [svg.text(left + column * (k + 0.5), y, tenth(x), text_anchor="middle")
                      for k, x in enumerate(values)]  # fmt: skip
    y = 26 + 17 * n_layer + 15
    rest = (("embedding", shares.embedding), ("biases", shares.bias)) if shares.bias.any() else (
        ("embedding", shares.embedding),)  # fmt: skip
    for k, (what, value) in enumerate((*rest, ("sum = the logit", shares.logit))):
        bold = "bold" if what.startswith("sum") else None
        words.append(svg.text(left + 190, y + 15 * k, what, text_anchor="end", font_weight=bold))
        words.append(svg.text(left + 202, y + 15 * k, tenth(float(value)), font_weight=bold))
    return [*parts, svg.group(words, font_size=10)]


def tenth(x: float) -> str:
    """With one decimal, and no minus before a zero."""
    return f"{round(x, 1) + 0.0:.1f}"

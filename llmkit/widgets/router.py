"""Router board (lesson 08): the tokens of a text on their way to the experts of one layer.

    probs = softmax(router(x) + noise) → the k largest of probs + bias → those for whom there is room → weights

Each expert has a lane with the tokens that come to it, a bar of its load beside its room, and the probability that the
chosen token gives it; the line tells the layer's balance loss. The dials act on the layer shown. What comes into that
layer is what the model made of the text with its own settings, so that lanes change by what was turned and by nothing
else.

Shapes: L layers, N tokens, E experts, k active experts.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import ipywidgets
import torch
from torch import Tensor

from llmkit.config import MoEConfig
from llmkit.model import Transformer
from llmkit.moe import MoE, Routing, route, routings
from llmkit.plots import MODEL, NEXT, TRUTH
from llmkit.tokenizer import Tokenizer
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture
from llmkit.widgets.tokens import follow, labels, read, strip

MAX_TOKENS, NO_LIMIT, ROOMS = 48, "no limit", (2.0, 1.5, 1.25, 1.0, 0.75, 0.5)
NO_BIAS, OWN_BIAS, BALANCED = "none", "the model's", "balanced on this text"
BALANCE_STEPS, BALANCE_RATE = 60, 0.03
WIDTH, LOAD, PROB, CHIPS = 820, 52, 158, 264  # of the drawing, and where its columns begin
BAR_LOAD, BAR_PROB, ROW, FONT = 84, 60, 20, 11  # longest bars, a line of a lane, and the text of its chips


class Run(NamedTuple):
    """What the routers of a model make of a text."""

    names: list[str]  # N labels
    probs: Tensor  # (L, N, E)
    bias: Tensor  # (L, E)
    config: MoEConfig


class Board(NamedTuple):
    """One layer's routing with the dials as they stand."""

    routing: Routing
    room: int | None  # tokens that an expert takes

    @property
    def load(self) -> Tensor:
        """(E,) tokens that come to each expert, those that find no room included."""
        return self.routing.experts.flatten().bincount(minlength=self.routing.probs.shape[1])

    @property
    def balance(self) -> float:
        """E * sum over e of f_e P_e, the layer's share of `moe.load_balance_loss` with by_layer: k at an even load."""
        n, n_expert = self.routing.probs.shape
        return float(n_expert * (self.load / n * self.routing.probs.mean(0)).sum())


def router_board(models: Transformer | Mapping[str, Transformer], tokenizer: Tokenizer, text: str, **start) -> Frame:
    """Turn k, capacity, noise and bias on any text; `models`: one, or several of one shape by name, such as a run's
    saved steps. `start` sets where the dials begin. ValueError for a model without experts."""
    models = {"model": models} if isinstance(models, Transformer) else dict(models)
    configs = [model.config for model in models.values()]
    if any(config.moe is None for config in configs):
        raise ValueError("The router board needs a model with experts, one whose config has a MoEConfig as moe.")
    if len({(config.n_layer, config.moe.n_expert) for config in configs}) > 1:
        raise ValueError("The router board compares models of one shape: give those with as many layers and experts.")
    n_layer, n_expert, k = configs[0].n_layer, configs[0].moe.n_expert, configs[0].moe.n_active
    rooms = [NO_LIMIT, *sorted({*ROOMS, configs[0].moe.capacity_factor or 1.0}, reverse=True)]
    run = lru_cache(maxsize=32)(lambda name, text: capture(models[name], tokenizer, text))
    names, wide, late = list(models), {"description_width": "initial"}, {"continuous_update": False}
    biases = [NO_BIAS, BALANCED]
    if any(len(set(layer.bias.tolist())) > 1 for model in models.values() for layer in layers(model)):
        biases.append(OWN_BIAS)
    last = len(run(names[0], text).names) - 1
    box = ipywidgets.Text(text, description="text", layout={"width": "700px"}, **late)
    token = ipywidgets.IntSlider(last, 0, last, description="token")
    box.observe(lambda change: follow(token, lambda: len(run(names[0], change["new"]).names) - 1), names="value")
    controls = {
        "text": box,
        "model": ipywidgets.SelectionSlider(options=names, value=names[-1], description="model", **late),
        "layer": ipywidgets.IntSlider(0, 0, n_layer - 1, description="layer"),
        "token": token,
        "k": ipywidgets.IntSlider(k, 1, min(n_expert, max(k, 4)), description="k"),
        "capacity": ipywidgets.SelectionSlider(options=rooms, value=configs[0].moe.capacity_factor or NO_LIMIT,
                                               description="capacity", style=wide),
        "noise": ipywidgets.FloatSlider(0.0, min=0, max=4, step=0.25, description="noise", style=wide),
        "bias": ipywidgets.Dropdown(options=biases, value=biases[-1] if OWN_BIAS in biases else NO_BIAS,
                                    description="bias", style=wide),
    }  # fmt: skip
    if len(models) == 1:
        controls.pop("model")
    for name, value in start.items():
        controls[name].value = value
    return Frame("Router board", lambda text, layer, token, model=names[0], **dials: draw(
        run(model, text), rerouted(run(model, text), layer, **dials), layer, token), controls)  # fmt: skip


def layers(model: Transformer) -> list[MoE]:
    return [block.mlp for block in model.blocks]


@torch.no_grad()
def capture(model: Transformer, tokenizer: Tokenizer, text: str) -> Run:
    """A run on a text; ValueError if it is too long."""
    ids = read(model, tokenizer, text, MAX_TOKENS)
    model(torch.tensor([ids], device=model.tok_emb.weight.device))
    probs = torch.stack([routing.probs.float().cpu() for routing in routings(model)])
    bias = torch.stack([layer.bias.float().cpu() for layer in layers(model)])
    return Run(labels(tokenizer, ids), probs, bias, model.config.moe)


def rerouted(run: Run, layer: int, k: int, capacity: float | str, noise: float, bias: str) -> Board:
    """A layer's routing with other dials than the model's; noise is normal, drawn from a fixed seed."""
    factor = None if capacity == NO_LIMIT else capacity
    config = replace(run.config, n_active=k, capacity_factor=factor)
    logits = run.probs[layer].clamp_min(1e-30).log()  # (N, E): the router's, but for a constant a token
    if noise:
        logits = logits + noise * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    push = {NO_BIAS: None, OWN_BIAS: run.bias[layer]}[bias] if bias != BALANCED else balancing(logits.softmax(-1), k)
    routing = route(logits, config, push)
    room = None if factor is None else math.ceil(factor * routing.experts.numel() / config.n_expert)
    return Board(routing, room)


def balancing(probs: Tensor, k: int) -> Tensor:
    """(N, E) -> (E,): a bias found by the rule of auxiliary-loss-free balancing, on this text alone, in steps that
    become smaller: up where an expert gets less than its share, down where it gets more."""
    bias = torch.zeros(probs.shape[1])
    for step in range(BALANCE_STEPS):
        load = (probs + bias).topk(k).indices.flatten().bincount(minlength=len(bias)).float()
        bias += BALANCE_RATE * (1 - step / BALANCE_STEPS) * (load.mean() - load).sign()
    return bias


def draw(run: Run, board: Board, layer: int, token: int) -> Picture:
    """The text, and below it a lane for each expert."""
    token, routing = min(token, len(run.names) - 1), board.routing
    pairs = zip(routing.experts.tolist(), routing.kept.tolist(), strict=True)
    notes = ["·".join(f"{e}" if room else f"({e})" for e, room in zip(*pair, strict=True)) for pair in pairs]
    tints = (routing.weights * routing.kept).sum(-1) / routing.weights.sum(-1)
    boxes, height = strip(run.names, (0.5 * tints).tolist(), WIDTH, [token], notes)
    room = "" if board.room is None else ", in brackets where there was no room"
    parts = [svg.text(0, 12, f"the text; below each token its experts{room}", font_size=12)]
    parts.append(svg.group(boxes, transform="translate(1 20)"))
    lanes, depth = Lanes(run, board, token).draw()
    parts.append(svg.group(lanes, transform=f"translate(0 {svg.number(height + 38)})"))
    label = f"Layer {layer}: {len(run.names)} tokens and their experts"
    return Picture(svg.drawing(WIDTH, height + 38 + depth, parts, label), say(run, board, layer, token))


class Lanes:
    """A lane for each expert: its number, load, probability for the chosen token, and its tokens."""

    def __init__(self, run: Run, board: Board, token: int):
        self.run, self.routing, self.room, self.token = run, board.routing, board.room, token
        self.load = board.load.tolist()
        self.share = board.routing.experts.numel() / len(self.load)
        self.scale = BAR_LOAD / max(*self.load, board.room or 0, self.share)  # pixels a token
        self.widths = [svg.mono_width(name, FONT) + 6 for name in run.names]

    def draw(self) -> tuple[list[str], float]:
        parts, y = self._head(), 36.0
        for expert in range(len(self.load)):
            chips, n_lines = self._chips(expert, y)
            parts += [*self._bars(expert, y), *chips]
            y += ROW * n_lines + 6
            parts.append(svg.line(0, y - 3, WIDTH, y - 3, stroke_opacity=0.15))
        for at, colour, dashes in ((self.share, "currentColor", "5 4"), (self.room, TRUTH, None)):
            if at is not None:
                x = LOAD + self.scale * at
                parts.append(svg.line(x, 32, x, y - 4, colour, stroke_width=1.5, stroke_dasharray=dashes))
        return parts, y

    def _head(self) -> list[str]:
        chosen = svg.shorten(self.run.names[self.token], 60, 12)
        heads = ((0, "expert, load"), (PROB, f"p for {chosen}"), (CHIPS, "its tokens, tinted by weight"))
        parts = [svg.text(x, 11, words, font_size=12, font_weight="bold") for x, words in heads]
        limits = f"fair share {self.share:.1f}" + ("" if self.room is None else f", room {self.room}")
        return [*parts, svg.text(0, 25, limits, font_size=FONT)]

    def _bars(self, expert: int, y: float) -> list[str]:
        n, p = self.load[expert], float(self.routing.probs[self.token, expert])
        taken = n if self.room is None else min(n, self.room)
        row = (self.routing.experts[self.token] == expert).nonzero().flatten().tolist()
        parts = [svg.text(0, y + 14, f"{expert}", font_weight="bold")]
        parts.append(svg.rect(LOAD, y + 3, self.scale * taken, 13, MODEL))
        parts.append(svg.rect(LOAD + self.scale * taken, y + 3, self.scale * (n - taken), 13, TRUTH))
        parts.append(svg.text(LOAD - 4, y + 14, str(n), font_size=FONT, text_anchor="end"))
        parts.append(svg.rect(PROB, y + 3, BAR_PROB * p, 13, NEXT if row else "currentColor",
                              fill_opacity=1.0 if row else 0.35))  # fmt: skip
        parts.append(svg.text(PROB + BAR_PROB * p + 3, y + 14, f"{p:.2f}", font_size=FONT,
                              font_weight="bold" if row else None))  # fmt: skip
        return parts

    def _chips(self, expert: int, y: float) -> tuple[list[str], int]:
        """The lane's tokens in the order of the text, and how many lines they fill."""
        at, line, boxes, words = float(CHIPS), 0, [], []
        for token, choice in (self.routing.experts == expert).nonzero().tolist():
            width = self.widths[token]
            if at + width > WIDTH - 1:
                at, line = float(CHIPS), line + 1
            top, kept = y + ROW * line + 1, bool(self.routing.kept[token, choice])
            weight = float(self.routing.weights[token, choice])
            if kept:
                boxes.append(svg.rect(at, top, width, 17, MODEL, fill_opacity=round(0.1 + 0.6 * weight, 2)))
            else:
                boxes.append(svg.rect(at, top, width, 17, "none", stroke=TRUTH, stroke_dasharray="3 2"))
            if token == self.token:
                boxes.append(svg.rect(at, top, width, 17, "none", stroke=NEXT, stroke_width=2.5))
            through = None if kept else "line-through"
            words.append(svg.text(at + 3, top + 13, self.run.names[token], text_decoration=through))
            at += width + 3
        return [svg.group(boxes), svg.group(words, font_size=FONT, font_family=svg.MONO)], line + 1


def say(run: Run, board: Board, layer: int, token: int) -> str:
    """The picture in words."""
    load, routing = board.load.double(), board.routing
    n, most, idle = int(load.sum()), int(load.max()), int((load == 0).sum())
    spread = math.exp(float(torch.special.entr(load / n).sum()))
    words = [f"Layer {layer}: expert {int(load.argmax())} is the busiest, with {most} of {n} places, "
             f"{most * len(load) / n:.1f} times its share; {idle} of {len(load)} get nothing; the load is spread as "
             f"over {spread:.1f} equal experts. The balance loss is {board.balance:.2f}; an even load has "
             f"{routing.experts.shape[1]}."]  # fmt: skip
    if board.room is not None:
        lost, whole = int((~routing.kept).sum()), int((~routing.kept).all(-1).sum())
        words.append(f"Room for {board.room} each: {lost} dropped, and {whole} tokens pass without any expert.")
    chosen = zip(*(part[token].tolist() for part in (routing.experts, routing.weights, routing.kept)), strict=True)
    listed = " and ".join(f"expert {e} with weight {w:.2f}" + ("" if kept else " (no room)") for e, w, kept in chosen)
    return " ".join([*words, f"{run.names[token]} ({token}) goes to {listed}."])

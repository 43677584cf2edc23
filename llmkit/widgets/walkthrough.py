"""Token to logits (lesson 04): one token of a prompt, followed through every tensor of a model.

    x = tok_emb[idx];   x = x + attn(norm1(x));   x = x + mlp(norm2(x))   (L times);   logits = lm_head(norm_f(x))

Each stop is a line of the model's own code (`llmkit.model`, `llmkit.attention`): what it computes, its shape, and the
chosen token's numbers in it.

Shapes: B batch (here 1), T tokens, C d_model, H heads, K key/value heads, D head_dim, V vocabulary.
"""

from functools import lru_cache
from typing import NamedTuple

import ipywidgets
import torch
from torch import Tensor

from llmkit import activations
from llmkit.model import Transformer
from llmkit.plots import MINUS, MODEL, NEXT, PLUS
from llmkit.tokenizer import Tokenizer
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture
from llmkit.widgets.sampling import share
from llmkit.widgets.tokens import follow, labels, read, strip

MAX_TOKENS, N_NUMBERS = 48, 10
WIDTH, NAME, STRIP, ROW = 820, 150, 380, 24


class Stop(NamedTuple):
    """One tensor on the way; `values` are the chosen token's, (n,) or (rows, n)."""

    stage: str
    name: str
    code: str
    shape: str  # axes and sizes of the whole tensor
    values: Tensor
    tells: str  # what the line does, in a sentence


class Journey:
    """One run of a model on a text; `stops(token)` are the tensors that the token passes."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, text: str):
        self.model, self.tokenizer = model, tokenizer
        self.ids = read(model, tokenizer, text, MAX_TOKENS)
        self.names = labels(tokenizer, self.ids)
        self.acts = activations.capture(model, torch.tensor([self.ids], device=model.tok_emb.weight.device))
        self.stops = lru_cache(maxsize=64)(self._stops)

    def size(self, axes: str) -> str:
        c = self.model.config
        sizes = dict(B=1, T=len(self.ids), S=len(self.ids), C=c.d_model, H=c.n_head, K=c.n_kv_head, D=c.head_dim,
                     V=c.vocab_size)  # fmt: skip
        return f"({', '.join(axes)}) = ({', '.join(str(sizes[axis]) for axis in axes)})"

    @torch.no_grad()
    def _stops(self, token: int) -> list[Stop]:
        model, acts, stream = self.model, self.acts, self.acts.resid[:, 0, token]  # (L + 1, C)
        own = self.names[token]
        placed = " + positions" if model.config.positions in ("learned", "sinusoidal") else ""
        stops = [
            Stop("start", "id", "idx", self.size("BT"), torch.tensor([float(self.ids[token])]),
                 f"The tokenizer's number for {own} is {self.ids[token]}: a name, not a quantity."),
            Stop("start", "embedding", f"x = tok_emb[idx]{placed}", self.size("BTC"), stream[0],
                 f"Row {self.ids[token]} of the table: all that the model knows of {own} before it has looked around."),
        ]  # fmt: skip
        for layer in range(len(model.blocks)):
            stops += self._layer(layer, token)
        last, logits = model.norm_f(stream[-1]), acts.logits[0, token].float()  # (C,), (V,)
        probs = logits.softmax(-1)
        likely = ", ".join(f"{name} {p:.2f}" for name, p, _ in self.likeliest(token)[:5])
        stops += [
            Stop("end", "normed", "norm_f(x)", self.size("BTC"), last,
                 "The stream once more brought to one size: only its direction counts."),
            Stop("end", "logits", "lm_head(norm_f(x))", self.size("BTV"), logits,
                 "A score for every token of the vocabulary: the stream times each row of the table."),
            Stop("end", "probabilities", "softmax(logits)", self.size("BTV"), probs, f"After {own} come {likely}."),
        ]  # fmt: skip
        return [stop._replace(values=stop.values.float().cpu()) for stop in stops]

    def likeliest(self, token: int) -> list[tuple[str, float, float]]:
        """Name, probability and logit of the tokens that may well come next."""
        logits = self.acts.logits[0, token].float().cpu()  # (V,)
        probs, ids = logits.softmax(-1).topk(min(8, len(logits)))
        return list(zip(labels(self.tokenizer, ids.tolist()), probs.tolist(), logits[ids].tolist(), strict=True))

    def _layer(self, layer: int, token: int) -> list[Stop]:
        block, acts, stage = self.model.blocks[layer], self.acts, f"layer {layer}"
        x, mlp = acts.resid[layer, 0, token], acts.mlps[layer, 0, token]  # (C,) each
        att, out = acts.att[layer, 0, :, token], acts.heads[layer, 0, :, token]  # (H, T), (H, D)
        writes = block.attn.out(out.flatten())  # (C,)
        head, key = divmod(int(att.argmax()), att.shape[1])
        looks = f"Head {head} looks hardest: {float(att.max()):.2f} of its weight is on {self.names[key]} ({key})."
        return [
            Stop(stage, "normed", "norm1(x)", self.size("BTC"), block.norm1(x),
                 "The stream brought to one size, so that attention sees directions."),
            Stop(stage, "queries", "q", self.size("BHTD"), acts.q[layer, 0, :, token],
                 "What each head asks for at this token, its position turned in."),
            Stop(stage, "keys", "k", self.size("BKTD"), acts.k[layer, 0, :, token],
                 "What the token answers to, for the tokens after it and for itself."),
            Stop(stage, "values", "v", self.size("BKTD"), acts.v[layer, 0, :, token],
                 "What it hands over to whoever looks at it."),
            Stop(stage, "weights", "softmax(q kᵀ / √D)", self.size("BHTS"), att, looks),
            Stop(stage, "heads", "att v", self.size("BHTD"), out,
                 "Each head's mean of the values, weighed by where it looks: news from other tokens."),
            Stop(stage, "attention writes", "out(heads)", self.size("BTC"), writes,
                 "All heads together, in the stream's own coordinates."),
            Stop(stage, "stream", "x = x + attention", self.size("BTC"), x + writes,
                 "Added, not replaced: what was there stays readable."),
            Stop(stage, "normed", "norm2(x)", self.size("BTC"), block.norm2(x + writes),
                 "Brought to one size again, for the MLP."),
            Stop(stage, "MLP writes", "mlp(norm2(x))", self.size("BTC"), mlp,
                 "Computed from this token alone: no other is seen here."),
            Stop(stage, "stream", "x = x + mlp", self.size("BTC"), acts.resid[layer + 1, 0, token],
                 f"What layer {layer} leaves to {'the end' if block is self.model.blocks[-1] else 'the next'}."),
        ]  # fmt: skip


def walkthrough(model: Transformer, tokenizer: Tokenizer, prompt: str) -> Frame:
    """Step one token of any prompt through the model."""
    run = lru_cache(maxsize=16)(lambda text: Journey(model, tokenizer, text))
    last = len(run(prompt).ids) - 1
    box = ipywidgets.Text(prompt, description="prompt", continuous_update=False, layout={"width": "700px"})
    token = ipywidgets.IntSlider(last, 0, last, description="token")
    box.observe(lambda change: follow(token, lambda: len(run(change["new"]).ids) - 1), names="value")
    n_stops = len(run(prompt).stops(last))
    step = ipywidgets.IntSlider(1, 0, n_stops - 1, description="step", layout={"width": "500px"})
    controls = {"prompt": box, "token": token, "step": step}
    return Frame("Token to logits", lambda prompt, token, step: draw(run(prompt), token, step), controls)


def draw(journey: Journey, token: int, step: int) -> Picture:
    """The stops of the present stage, the present one framed; below, its code, shape and numbers."""
    token = min(token, len(journey.ids) - 1)
    stops = journey.stops(token)
    here = stops[step]
    boxes, depth = strip(journey.names, [0.0] * len(journey.names), WIDTH - 4, [token])
    parts = [
        svg.group(boxes, transform="translate(2 2)"),
        svg.group(_map(stops, step), transform=f"translate(0 {depth})"),
    ]
    top, rows = depth + 46, [stop for stop in stops if stop.stage == here.stage]
    for row, stop in enumerate(rows):
        parts += _row(stop, top + ROW * row, stop is here)
    if here.stage == "end":
        parts.append(svg.group(_bars(journey, token), transform=f"translate(0 {top + ROW * 3 + 16})"))
    below = top + ROW * 11 + 26
    flat = here.values.flatten()
    numbers = ", ".join(f"{x:.3g}" for x in flat[:N_NUMBERS].tolist()) + (", …" if len(flat) > N_NUMBERS else "")
    parts.append(svg.text(0, below, f"{here.name}: {here.shape}", font_weight="bold"))
    parts.append(svg.text(0, below + 20, here.tells))
    parts.append(svg.text(0, below + 40, numbers, font_family=svg.MONO, font_size=12))
    label = f"{here.stage}, {here.name} of {journey.names[token]}"
    said = f"Step {step} of {len(stops) - 1}: {here.stage}, {here.code}, shape {here.shape}. {here.tells}"
    return Picture(svg.drawing(WIDTH, below + 48, parts, label), said)


def _map(stops: list[Stop], step: int) -> list[str]:
    """The stages in order, the present one filled."""
    stages = list(dict.fromkeys(stop.stage for stop in stops))
    width, parts = min(90.0, WIDTH / len(stages)), []
    for k, stage in enumerate(stages):
        on = stage == stops[step].stage
        parts.append(svg.rect(k * width + 1, 8, width - 8, 20, NEXT if on else "none", stroke="currentColor", rx=4,
                              fill_opacity=0.6, stroke_opacity=1 if on else 0.4))  # fmt: skip
        words = stage if width >= 60 else stage.removeprefix("layer ")
        parts.append(svg.text(k * width + (width - 6) / 2, 22, words, text_anchor="middle", font_size=11))
    return parts


def _row(stop: Stop, y: float, here: bool) -> list[str]:
    """Name, numbers as tints (a line for each head), and the size of the vector."""
    values = stop.values if stop.values.dim() == 2 else stop.values[None]
    unit = values / values.abs().max().clamp_min(1e-9)
    parts = [svg.text(NAME - 8, y + 14, stop.name, text_anchor="end", font_weight="bold" if here else None)]
    parts.append(svg.heat(NAME, y + 1, STRIP, ROW - 5, unit if values.numel() > 1 else [[0]], PLUS, MINUS))
    parts.append(svg.rect(NAME, y + 1, STRIP, ROW - 5, "none", stroke=NEXT if here else "currentColor",
                          stroke_width=2.5 if here else 1, stroke_opacity=1 if here else 0.3))  # fmt: skip
    size = f"{int(values[0, 0])}" if values.numel() == 1 else f"length {float(values.norm()):.1f}"
    parts.append(svg.text(NAME + STRIP + 10, y + 14, stop.code, font_family=svg.MONO, font_size=12))
    parts.append(svg.text(WIDTH - 4, y + 14, size, text_anchor="end", font_size=11))
    return parts


def _bars(journey: Journey, token: int) -> list[str]:
    """The likeliest next tokens: logit, probability."""
    parts = []
    for row, (name, p, logit) in enumerate(journey.likeliest(token)):
        y = 20 * row
        parts.append(svg.text(NAME - 8, y + 14, name, text_anchor="end", font_family=svg.MONO))
        parts.append(svg.text(NAME, y + 14, f"logit {logit:.1f}", font_size=11))
        parts.append(svg.rect(NAME + 74, y + 2, (STRIP - 74) * p, 15, MODEL))
        parts.append(svg.text(NAME + 80 + (STRIP - 74) * p, y + 14, share(p), font_size=11))
    return parts

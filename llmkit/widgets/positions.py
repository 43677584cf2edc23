"""Position dial (lesson 05): RoPE's pairs as clocks, ALiBi's slopes, the score against distance, and where it breaks.

A RoPE pair turns by a fixed angle a token, so at distance d between query and key it stands at d times that angle. Over
texts of the trained length a fast pair has been all the way round; a slow one has seen only part of its circle, and a
hand beyond that part is one that the model has never met. The curve is the score of a query and a key alike in every
pair, mean over pairs of cos(angle): what distance alone does to it.

Shapes: D head_dim, H heads.
"""

import math
from typing import NamedTuple

import ipywidgets
import torch
from torch import Tensor

from llmkit.config import RopeScaling
from llmkit.plots import MODEL, NEXT, STRANGER, TRAIN, TRUTH
from llmkit.positions import alibi_slopes, attention_factor, inverse_frequencies
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture

ROPE, ALIBI, NONE = "RoPE", "ALiBi", "none"
WIDTH, CURVE, LEFT, CLOCK, BEYOND, N_POINTS = 820, 190, 44, 46, 16, 200
BASES, FACTORS = (100, 1_000, 10_000, 100_000, 1_000_000), (1, 2, 4, 8, 16)


class Dial(NamedTuple):
    """Where a dial stands; the trained length in tokens."""

    head_dim: int
    n_head: int
    trained: int
    base: float
    scaling: str
    factor: int
    distance: int

    @property
    def stretched(self) -> RopeScaling | None:
        if self.scaling == NONE or self.factor == 1:
            return None
        return RopeScaling(self.scaling, self.factor, self.trained if self.scaling == "yarn" else None)

    @property
    def turns(self) -> tuple[Tensor, Tensor]:
        """Each pair's angle a token, (D/2,), as trained and as stretched."""
        return (inverse_frequencies(self.head_dim, self.base),
                inverse_frequencies(self.head_dim, self.base, self.stretched))  # fmt: skip

    def unseen(self, distance: int) -> Tensor:
        """(D/2,) bool: pairs at an angle that no text of the trained length has shown."""
        trained, stretched = self.turns
        most = trained * (self.trained - 1)  # the largest distance in a text of the trained length
        return (distance * stretched) % (2 * math.pi) > most * (1 + 1e-9)

    def score(self, distances: Tensor) -> Tensor:
        """(n,) distances -> (n,): of a query and a key that are alike, 1 at distance 0 without stretching."""
        _, stretched = self.turns
        return torch.outer(distances, stretched).cos().mean(-1) * attention_factor(self.stretched) ** 2


def position_dial(head_dim: int = 32, n_head: int = 4, trained: int = 256, base: float = 10_000) -> Frame:
    """Turn base, scaling and distance, for a model with these sizes trained on texts of `trained` tokens."""
    wide = {"description_width": "initial"}
    bases = sorted({*BASES, base})
    controls = {
        "scheme": ipywidgets.Dropdown(options=[ROPE, ALIBI], description="scheme", style=wide),
        "base": ipywidgets.SelectionSlider(options=bases, value=base, description="base", style=wide),
        "scaling": ipywidgets.Dropdown(options=[NONE, "linear", "ntk", "yarn"], description="scaling", style=wide),
        "factor": ipywidgets.SelectionSlider(options=FACTORS, value=4, description="factor", style=wide),
        "distance": ipywidgets.IntSlider(trained // 2, 0, BEYOND * trained, description="distance",
                                         layout={"width": "500px"}),
    }  # fmt: skip
    return Frame(
        "Position dial",
        lambda scheme, **state: (draw_rope if scheme == ROPE else draw_alibi)(Dial(head_dim, n_head, trained, **state)),
        controls,
    )


def draw_rope(dial: Dial) -> Picture:
    """The clocks at the chosen distance, and the score against distance, stretched and not."""
    trained, stretched = dial.turns
    unseen, n_pairs = dial.unseen(dial.distance), dial.head_dim // 2
    parts, per_row = [svg.text(0, 12, f"{n_pairs} pairs at distance {dial.distance:,}, fastest first; "
                               "shaded: angles that training showed", font_size=12)], WIDTH // (CLOCK + 4)  # fmt: skip
    for i in range(n_pairs):
        clock = _clock(float(dial.distance * stretched[i]), float(trained[i] * (dial.trained - 1)), bool(unseen[i]))
        x, y = (CLOCK + 4) * (i % per_row), 20 + (CLOCK + 6) * (i // per_row)
        parts.append(svg.group(clock, transform=f"translate({x} {y})"))
    top = 20 + (CLOCK + 6) * math.ceil(n_pairs / per_row) + 24
    distances = _distances(dial)
    lines = [(dial.score(distances), MODEL, 2.0)]
    if dial.stretched:
        lines.insert(0, (dial._replace(scaling=NONE).score(distances), STRANGER, 1.0))
    limits = (-0.5, 1.1 * attention_factor(dial.stretched) ** 2)
    at = float(dial.score(torch.tensor([float(dial.distance)])))
    parts.append(svg.text(0, top - 6, "score of a query and a key that are alike, by distance"
                          + " (grey: not stretched)" * bool(dial.stretched), font_size=12))  # fmt: skip
    parts.append(svg.group(_curve(dial, distances, lines, limits, at), transform=f"translate(0 {top})"))
    n_unseen, neighbours = int(unseen.sum()), float(stretched[0])
    said = f"At distance {dial.distance:,} the score is {at:.2f}; {n_unseen} of {n_pairs} pairs stand at an angle that "
    said += f"texts of {dial.trained:,} tokens never showed. From one token to the next the fastest pair turns "
    said += f"{neighbours:.2f} radians."
    longest = _reach(dial)
    said += f" Every angle is known up to distance {longest:,}." if longest else ""
    return Picture(svg.drawing(WIDTH, top + CURVE + 26, parts, f"RoPE at distance {dial.distance}"), said)


def draw_alibi(dial: Dial) -> Picture:
    """Each head's penalty against distance, and by what it multiplies a weight at the chosen one."""
    slopes, distances = alibi_slopes(dial.n_head).double(), _distances(dial)
    lines = [(-slope * distances, MODEL, 2.0) for slope in slopes]
    parts = [svg.text(0, 12, "what ALiBi takes from the score, by distance, for each head", font_size=12)]
    parts.append(svg.group(_curve(dial, distances, lines, (-12.0, 0.5), None), transform="translate(0 18)"))
    top = 18 + CURVE + 44
    parts.append(svg.text(0, top, f"a weight at distance {dial.distance:,} is multiplied by", font_size=12))
    factors = (-slopes * dial.distance).exp().tolist()
    for head, (slope, factor) in enumerate(zip(slopes.tolist(), factors, strict=True)):
        y = top + 10 + 18 * head
        parts.append(svg.text(LEFT + 106, y + 12, f"head {head}, slope {slope:.3g}", text_anchor="end", font_size=11))
        parts.append(svg.rect(LEFT + 112, y + 1, 300 * factor, 13, MODEL))
        parts.append(svg.text(LEFT + 118 + 300 * factor, y + 12, f"{factor:.2g}", font_size=11))
    said = f"At distance {dial.distance:,} the heads' weights are multiplied by "
    said += (
        f"{', '.join(f'{factor:.2g}' for factor in factors)}: nothing turns, so no angle is new, but steep heads see "
    )
    said += "only what is near, at any length. Base, scaling and factor do nothing here."
    label = f"ALiBi at distance {dial.distance}"
    return Picture(svg.drawing(WIDTH, top + 16 + 18 * dial.n_head, parts, label), said)


def _reach(dial: Dial) -> int:
    """The largest distance up to which no pair stands at an unseen angle; 0 if there is no end to it."""
    trained, stretched = dial.turns
    most = trained * (dial.trained - 1)
    limits = (most / stretched)[most < 2 * math.pi]
    return math.floor(float(limits.min()) + 1e-6) if len(limits) else 0


def _clock(angle: float, most: float, unseen: bool) -> list[str]:
    """A circle with its hand; the sector up to `most` radians shaded."""
    r, c = CLOCK / 2 - 2, CLOCK / 2
    colour = TRUTH if unseen else "currentColor"

    def rim(a):
        return c + r * math.sin(a), c - r * math.cos(a)

    if most >= 2 * math.pi:
        parts = [svg.rect(c - r, c - r, 2 * r, 2 * r, TRAIN, rx=r, fill_opacity=0.3)]
    else:
        x, y = rim(most)
        d = f"M{c} {c}V{c - r}A{r} {r} 0 {int(most > math.pi)} 1 {svg.number(x)} {svg.number(y)}Z"
        parts = [f'<path d="{d}" fill="{TRAIN}" fill-opacity="0.45"/>']
    x, y = rim(angle)
    parts.append(svg.rect(c - r, c - r, 2 * r, 2 * r, "none", stroke="currentColor", rx=r, stroke_opacity=0.5))
    parts.append(svg.line(c, c, x, y, colour, stroke_width=2.5))
    return [*parts, svg.text(CLOCK - 2, 9, "✕", text_anchor="end", font_size=10, fill=colour)] if unseen else parts


def _distances(dial: Dial) -> Tensor:
    return torch.logspace(0, math.log10(BEYOND * dial.trained), N_POINTS, dtype=torch.float64).round().unique()


def _curve(dial: Dial, distances: Tensor, lines: list, limits: tuple[float, float], at: float | None) -> list[str]:
    """Lines over a logarithmic axis of distances, the trained length and the chosen distance marked."""
    low, high = limits
    span = math.log(float(distances[-1]))

    def x(distance):
        return LEFT + (WIDTH - LEFT - 8) * math.log(max(distance, 1)) / span

    def y(value):
        return CURVE * (high - min(max(value, low), high)) / (high - low)

    parts = [svg.rect(x(dial.trained), 0, x(distances[-1]) - x(dial.trained), CURVE, fill_opacity=0.06)]
    parts.append(svg.text(WIDTH - 8, -6, "shaded: longer than in training", text_anchor="end", font_size=11))
    for value in (0.0, 0.5, 1.0) if high > 0.9 else (0.0, -4.0, -8.0, -12.0):
        parts.append(svg.line(LEFT, y(value), WIDTH - 8, y(value), stroke_opacity=0.25))
        parts.append(svg.text(LEFT - 6, y(value) + 4, f"{value:.1f}", text_anchor="end", font_size=11))
    for values, colour, width in lines:
        points = [(x(d), y(v)) for d, v in zip(distances.tolist(), values.tolist(), strict=True) if v >= low]
        parts.append(svg.path(points, colour, stroke_width=width))
    parts.append(svg.line(x(dial.distance), 0, x(dial.distance), CURVE, NEXT, stroke_width=2))
    if at is not None:
        parts.append(svg.rect(x(dial.distance) - 4, y(at) - 4, 8, 8, NEXT, rx=4))
    for distance in sorted({1, 10, 100, dial.trained, BEYOND * dial.trained}):
        anchor = "end" if distance == BEYOND * dial.trained else "middle"
        parts.append(svg.text(x(distance), CURVE + 16, f"{distance:,}", text_anchor=anchor, font_size=11))
    return parts

"""Run clinic (lesson 06): the training scrubber for runs that went wrong; which fault is it?

A run is shown without its name beside the healthy one: loss above the floor, the gradient's norm below it, and at the
side, for the step chosen, what it wastes on documents never seen, kind by kind, how far each part of the model has
moved from where it started, and what the model writes. A guess is answered: a right one with what gives this fault
away, a wrong one with what the guessed fault would look like instead.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ipywidgets

from llmkit.plots import MODEL, NEXT
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture
from llmkit.widgets.training import BOTTOM, HEIGHT, LEFT, LINE, SIDE, TOTAL, WIDTH, Curve, wrap

NO_GUESS, REVEAL = "what is wrong?", "(tell me)"
NORMS, N_LINES = 92, 2  # height of the gradient's norms; lines of what the model writes


class Shot(NamedTuple):
    """What is kept of one moment of a run."""

    step: int
    excess: Mapping[str, float]  # nats/token above the floor on documents never trained on, by kind
    moved: Mapping[str, float]  # by part of the model: distance from its first weights, over their length
    sample: str


class Case(NamedTuple):
    """A run: `losses` and `grad_norms` by `steps`, `shots` at some of them; `sign`: what gives its fault away."""

    fault: str
    sign: str
    steps: Sequence[int]
    losses: Sequence[float]
    grad_norms: Sequence[float]
    shots: Sequence[Shot]


class Point(NamedTuple):
    """As much of a record as a curve needs."""

    step: int
    loss: float


def run_clinic(healthy: Case, cases: Sequence[Case], floor: float) -> Frame:
    """`cases` under the names run A, run B, …, guesses in alphabetical order; `floor` in nats/token.

    ValueError if a case has not the shots of `healthy`, which it is compared with step by step.
    """
    steps = [shot.step for shot in healthy.shots]
    for case in cases:
        if [shot.step for shot in case.shots] != steps:
            raise ValueError(f"{case.fault!r} has not the snapshots of the healthy run, at steps {steps}")
    named = {f"run {chr(ord('A') + k)}": case for k, case in enumerate(cases)}
    run = ipywidgets.Dropdown(options=list(named), description="run")
    step = ipywidgets.SelectionSlider(options=steps, value=steps[-1], description="step", layout={"width": "360px"})
    faults = sorted(case.fault for case in cases)
    guess = ipywidgets.Dropdown(options=[NO_GUESS, *faults, REVEAL], description="guess", layout={"width": "380px"})
    run.observe(lambda _: setattr(guess, "value", NO_GUESS), names="value")
    signs = {case.fault: case.sign for case in cases}

    def show(run, step, guess):
        case, k = named[run], steps.index(step)
        said = f"R{run[1:]}, step {step:,}: {answer(case, guess, signs)}"
        return draw(run, case, healthy, k, floor, said)

    return Frame("Run clinic", show, {"run": run, "step": step, "guess": guess})


def answer(case: Case, guess: str, signs: Mapping[str, str]) -> str:
    """The sentence about a guess."""
    if guess == NO_GUESS:
        return f"first loss {case.losses[0]:.2f}, last {case.losses[-1]:.2f}. Find what is wrong, then choose a guess."
    if guess == REVEAL:
        return f"it is: {case.fault}. {case.sign}"
    if guess == case.fault:
        return f"yes, {case.fault}. {case.sign}"
    return f"no. Of “{guess}” one would see this: {signs[guess]}"


def draw(name: str, case: Case, healthy: Case, k: int, floor: float, said: str) -> Picture:
    """A run beside the healthy one, at shot number `k` of both."""
    shot, other = case.shots[k], healthy.shots[k]
    runs = [[Point(*pair) for pair in zip(run.steps, run.losses, strict=True)] for run in (case, healthy)]
    curve = Curve(runs[0], floor, "healthy run", runs[1])
    parts = [*curve.draw(shot.step), svg.group(_norms(case, healthy), transform=f"translate(0 {HEIGHT + 14})")]
    kinds, y = _bars("wasted on new documents, nats/token", shot.excess, other.excess, "{:.2f}")
    moved, depth = _bars("moved, in lengths of the first weights", shot.moved, other.moved, "{:.1f}")
    parts.append(svg.group(kinds, transform=f"translate({SIDE} 0)"))
    parts.append(svg.group(moved, transform=f"translate({SIDE} {y + 12})"))
    top = max(HEIGHT + 14 + NORMS, y + 12 + depth) + 24
    parts.append(svg.text(0, top, f"what {name} writes", font_weight="bold"))
    parts += [svg.text(0, top + LINE * (i + 1), words, font_family=svg.MONO)
              for i, words in enumerate(wrap(shot.sample, 100)[:N_LINES])]  # fmt: skip
    drawing = svg.drawing(TOTAL, top + LINE * N_LINES + 8, parts, f"{name} beside the healthy run, step {shot.step}")
    return Picture(drawing, said)


def _norms(case: Case, healthy: Case) -> list[str]:
    """The gradient's norm by step, logarithmic, of both runs."""
    both = [case.grad_norms, healthy.grad_norms]
    low, high = (math.log(f(max(f(norms), 1e-6) for norms in both)) for f in (min, max))
    bottom, span = NORMS - BOTTOM + 14, max(high - low, 1e-9)
    parts = [svg.text(0, NORMS - 2, "norm of the gradient (orange: the healthy run)", font_size=11)]
    for norms, colour, steps in ((both[1], NEXT, healthy.steps), (both[0], MODEL, case.steps)):
        scaled = [bottom * (1 - (math.log(max(norm, 1e-6)) - low) / span) for norm in norms]
        x = [LEFT + (WIDTH - LEFT) * step / case.steps[-1] for step in steps]
        parts.append(svg.path(list(zip(x, scaled, strict=True)), colour, stroke_width=1.5))
    for value, y in ((high, 4), (low, bottom + 4)):
        parts.append(svg.text(LEFT - 6, y, f"{math.exp(value):.2g}", text_anchor="end", font_size=11))
    return parts


def _bars(title: str, values: Mapping[str, float], healthy: Mapping[str, float], form: str) -> tuple[list[str], int]:
    """(parts, height): a bar for each value, and a tick where the healthy run stands."""
    scale = max(*values.values(), *healthy.values(), 1e-9)
    parts = [svg.text(0, 14, title, font_weight="bold")]
    for i, (name, value) in enumerate(values.items()):
        y, tick = 26 + 18 * i, 90 + 180 * healthy[name] / scale
        parts.append(svg.text(84, y + 9, name, text_anchor="end", font_size=12))
        parts += [svg.rect(90, y, 180, 10, fill_opacity=0.1), svg.rect(90, y, 180 * max(value, 0) / scale, 10, MODEL)]
        parts.append(svg.line(tick, y - 3, tick, y + 13, NEXT, stroke_width=2.5))
        parts.append(svg.text(276, y + 9, form.format(value), font_size=12))
    return parts, 26 + 18 * len(values)

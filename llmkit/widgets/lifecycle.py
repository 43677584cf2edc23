"""Lifecycle strip: the map of the course, and where on it a lesson is."""

from typing import NamedTuple

from llmkit.plots import MODEL
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture

BOX, GAP, HEIGHT = 86, 10, 66


class Stop(NamedTuple):
    """A stage of a model's life; lessons `first` to `last` are about it."""

    first: int
    last: int
    name: str
    makes: str

    @property
    def lessons(self) -> str:
        return f"{self.first:02}" if self.first == self.last else f"{self.first:02}–{self.last:02}"


STOPS = (
    Stop(0, 0, "start", "the map"),
    Stop(1, 1, "tokenizer", "text → ids"),
    Stop(2, 5, "network", "ids → logits"),
    Stop(6, 8, "pretraining", "knows"),
    Stop(9, 9, "evaluation", "is measured"),
    Stop(10, 11, "fine-tuning", "answers"),
    Stop(12, 12, "preference", "answers well"),
    Stop(13, 13, "reasoning", "thinks first"),
    Stop(14, 21, "use", "serves"),
    Stop(22, 22, "capstone", "all of it"),
)


def lifecycle_strip(lesson: str | int) -> Frame:
    """The strip for a lesson: its number, or a name that starts with it ("06_pretraining")."""
    here = int(str(lesson).partition("_")[0])
    if not any(stop.first <= here <= stop.last for stop in STOPS):
        raise ValueError(f"there is no lesson {lesson!r}: they go from 00 to {STOPS[-1].last}")
    return Frame("You are here", lambda: draw(here), {})


def draw(here: int) -> Picture:
    """The strip as a Picture; the stage of lesson `here` is filled, and named in the line."""
    parts, x = [], 1.0
    for k, stop in enumerate(STOPS):
        current, middle = stop.first <= here <= stop.last, x + BOX / 2
        fill, ink = (MODEL, "#ffffff") if current else ("none", None)
        parts.append(svg.rect(x, 1, BOX, 46, fill, stroke=MODEL if current else "currentColor", rx=6))
        if k:
            parts.append(svg.text(x - GAP / 2, 28, "›", text_anchor="middle", font_size=14))
        parts.append(svg.text(middle, 20, stop.name, text_anchor="middle", font_size=12, fill=ink,
                              font_weight="bold" if current else None))  # fmt: skip
        parts.append(svg.text(middle, 37, stop.makes, text_anchor="middle", font_size=10, fill=ink))
        mark = f"▲ lesson {here:02}" if current else stop.lessons
        parts.append(svg.text(middle, 62, mark, text_anchor="middle", font_size=10))
        x += BOX + GAP
    now = next(stop for stop in STOPS if stop.first <= here <= stop.last)
    after = STOPS[STOPS.index(now) + 1 :]
    said = f"Lesson {here:02}: {now.name}" + (f"; then {after[0].name}." if after else ", the last stage.")
    return Picture(svg.drawing(x - GAP + 1, HEIGHT, parts, f"Map of the course. {said}"), said)

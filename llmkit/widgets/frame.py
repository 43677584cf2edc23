"""The frame of every widget: controls, a drawing that is a pure function of their values, and a line of text.

    values of the controls -> Picture(svg, said)

On display it is one MIME bundle: the live widget where there is a kernel, a PNG where there is none (GitHub, exports,
notebooks that are not trusted), and a text. Only core ipywidgets are used, so it works offline and in every front end.

What is typed stays in the frame: keys.py.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import ipywidgets

from llmkit.widgets.keys import keyed
from llmkit.widgets.svg import escape, to_png, visible


class Picture(NamedTuple):
    """What a widget shows: an SVG, and in one or two sentences what is in it."""

    svg: str
    said: str


class Frame:
    """Controls by name above one drawing; `draw` gets their values as keyword arguments and returns a Picture.

    `extra` are widgets without a value of their own, such as buttons, that stand beside the controls.

    A ValueError of `draw` is a sentence for the learner: it takes the place of the line, and the drawing stays. Any
    other exception is shown there as well, and raised.
    """

    def __init__(
        self,
        title: str,
        draw: Callable[..., Picture],
        controls: Mapping[str, ipywidgets.Widget],
        extra: Sequence[ipywidgets.Widget] = (),
    ):
        self.title, self.draw, self.controls, self.extra = title, draw, dict(controls), tuple(extra)
        self.svg = self.said = ""
        self._drawing = ipywidgets.HTML()
        self._line = ipywidgets.HTML().add_class("llmkit-said")
        bar = ipywidgets.HBox([*self.controls.values(), *self.extra], layout={"flex_flow": "row wrap"})
        self.view = keyed([bar, self._drawing, self._line])
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self.redraw(self._change(name, change)), names="value")
        self.redraw()

    @property
    def state(self) -> dict:
        return {name: control.value for name, control in self.controls.items()}

    def redraw(self, change: str = "") -> None:
        """Draw the present state; the line starts with `change`."""
        try:
            self.show(self.draw(**self.state), change)
        except Exception as error:
            self.explain(error)
            if not isinstance(error, ValueError):
                raise

    def show(self, picture: Picture, change: str = "") -> None:
        self.svg = self._drawing.value = picture.svg
        self.say(f"{change} {picture.said}".strip())

    def say(self, words: str) -> None:
        """Put words into the line, and leave the drawing."""
        self.said = words
        self._line.value = f'<div style="line-height:1.5">{escape(words)}</div>'

    def explain(self, error: Exception) -> None:
        """Say what went wrong; for work begun by a button, whose exceptions ipywidgets lets nobody see."""
        self.say(str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")

    def _change(self, name: str, change: dict) -> str:
        label = self.controls[name].description or name.replace("_", " ")
        if isinstance(change["new"], tuple):  # of a list where several can be chosen; `draw` says which they are
            return f"{label}: {len(change['new'])} chosen."
        return f"{label}: {_value(change['old'])} → {_value(change['new'])}."

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2, "version_minor": 0, "model_id": self.view.model_id,
            },
            "image/png": base64.b64encode(to_png(self.svg)).decode(),
            "text/plain": f"{self.title}. {self.said}",
        }  # fmt: skip


def _value(value) -> str:
    if isinstance(value, str):
        words = visible(value).replace("␣", " ")
        return f"“{words}”" if len(words) <= 40 else f"“{words[:39]}…”"
    return f"{value:g}" if isinstance(value, float) else str(value)

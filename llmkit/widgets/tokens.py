"""A text as boxes, one a token, and as the axes of a map: what the widgets on a model's inside share."""

from collections.abc import Callable, Sequence

import ipywidgets

from llmkit.plots import MODEL, NEXT
from llmkit.tokenizer import Tokenizer
from llmkit.widgets import svg

EOS, N_CELLS = "‹eos›", 12
BOX, NOTE, GAP = 22, 13, 3


def labels(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """What stands in the box of each id, at most N_CELLS characters of it."""
    named = [EOS if i == tokenizer.eos_id else svg.visible_bytes(tokenizer.token_bytes(i)) for i in ids]
    return [name if len(name) <= N_CELLS else name[: N_CELLS - 1] + "…" for name in named]


def read(model, tokenizer: Tokenizer, text: str, longest: int) -> list[int]:
    """Ids of eos and a text; ValueError if they are more than the model's context or than `longest`, to be drawn."""
    ids = [tokenizer.eos_id, *tokenizer.encode(text)]
    room = min(longest, model.config.context_length)
    if len(ids) > room:
        raise ValueError(f"The text has {len(ids)} tokens, and there is room for {room}: shorten it.")
    return ids


def follow(slider: ipywidgets.IntSlider, last: Callable[[], int]) -> None:
    """Give a slider the range of another text; one that cannot be read is explained when it is drawn."""
    try:
        slider.max = last()
    except ValueError:
        return


def axes(names: Sequence[str], size: float, row: int, column: int) -> list[str]:
    """The frame of a square map, its tokens at the left and, turned, below; one row and one column in bold."""
    step = size / len(names)
    font, words = min(11.0, 0.9 * step), []
    for k, name in enumerate(names):
        middle = (k + 0.5) * step + font / 3
        left, below = ("bold" if k == chosen else None for chosen in (row, column))
        words.append(svg.text(-4, middle, name, text_anchor="end", font_weight=left))
        turned = f"translate({svg.number(middle)} {svg.number(size + 4)}) rotate(-90)"
        words.append(svg.text(0, 0, name, text_anchor="end", font_weight=below, transform=turned))
    frame = svg.rect(0, 0, size, size, "none", stroke="currentColor", stroke_opacity=0.4)
    return [frame, svg.group(words, font_size=font, font_family=svg.MONO)]


def strip(
    names: Sequence[str],
    tints: Sequence[float],
    width: float,
    framed: Sequence[int] = (),
    notes: Sequence[str] | None = None,
    colour: str = MODEL,
) -> tuple[list[str], float]:
    """(parts, height) of boxes in lines, tinted 0 .. 1, some framed, with a small note under each; hovering over a box
    tells its number, token and note."""
    x, y, boxes, words = 0.0, 0.0, [], []
    pitch = BOX + (NOTE if notes else 0) + 4
    for k, name in enumerate(names):
        note = notes[k] if notes else ""
        size = max(svg.mono_width(name), svg.text_width(note, 10)) + 6
        if x and x + size > width:
            x, y = 0.0, y + pitch
        told = f"<title>{svg.escape(f'{k}: {name} {note}')}</title>"
        boxes.append(svg.rect(x, y, size, BOX, colour, fill_opacity=round(0.75 * min(max(tints[k], 0), 1), 2)))
        boxes.append(f'<rect x="{svg.number(x)}" y="{svg.number(y)}" width="{svg.number(size)}" height="{BOX}" '
                     f'fill-opacity="0">{told}</rect>')  # fmt: skip
        if k in framed:
            boxes.append(svg.rect(x, y, size, BOX, "none", stroke=NEXT, stroke_width=2.5))
        words.append(svg.text(x + 3, y + 16, name, pointer_events="none"))
        if note:
            words.append(svg.text(x + size / 2, y + BOX + 11, note, font_size=10, font_family=svg.SANS,
                                  text_anchor="middle"))  # fmt: skip
        x += size + GAP
    return [svg.group(boxes), svg.group(words, font_family=svg.MONO)], y + pitch

"""SVG as strings: shapes, text that is escaped and measured, and the PNG of a drawing.

Ink is `currentColor`, so that a drawing is dark on light pages and light on dark ones; tints are transparent. Text is
laid out before any browser sees it: token text is monospaced and counted in cells, other text is measured as wide as
DejaVu Sans, the widest of the fonts asked for, so that nothing overlaps where another font is used.
"""

import base64
import html
import io
import re
import unicodedata
from functools import cache, lru_cache

import numpy as np
import resvg_py
from PIL import Image, ImageOps

SANS = "DejaVu Sans, Verdana, Segoe UI, sans-serif"
MONO = "DejaVu Sans Mono, Menlo, Consolas, monospace"
CELL = 0.61  # width of a monospaced character, in font sizes
INK, PAPER = "#1a1a1a", "#ffffff"  # of the picture, which has no page to take them from


_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # what XML forbids
_MARKS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_UNSEEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs")


@lru_cache(maxsize=10_000)
def escape(text: str | int) -> str:
    """Text that is nothing but text inside SVG and HTML: markup escaped, characters that XML forbids replaced."""
    return html.escape(_ILLEGAL.sub("\ufffd", str(text)))


def visible(text: str) -> str:
    """Text of a token with what cannot be seen made visible: space ␣, line end ⏎, tab ⇥, others by their number."""
    return "".join(map(_visible, text))


@lru_cache(maxsize=10_000)
def _visible(char: str) -> str:
    return _MARKS.get(char) or (f"U+{ord(char):04X}" if unicodedata.category(char) in _UNSEEN else char)


def visible_bytes(data: bytes) -> str:
    """The visible text of a token; bytes that are only part of a character in hexadecimal."""
    text = data.decode("utf-8", "surrogateescape")
    return "".join(f"{ord(char) - 0xDC00:02X}" if "\udc80" <= char <= "\udcff" else _visible(char) for char in text)


def cells(text: str) -> int:
    """How many monospaced cells a text fills: two for wide characters, none for marks on the one before."""
    return len(text) if text.isascii() else sum(map(_cells, text))


@lru_cache(maxsize=10_000)
def _cells(char: str) -> int:
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1


def mono_width(text: str, size: float = 13) -> float:
    return cells(text) * CELL * size


def text_width(text: str, size: float = 13) -> float:
    """Of a text in DejaVu Sans, from above: a little too wide is well, too narrow is an overlap."""
    narrow, wide = "iljtfrI.,:;'|! ()[]-/", "mwMW—%@"
    return size * sum(0.42 if c in narrow else 0.98 if c in wide else 0.66 * max(cells(c), 1) for c in text)


def shorten(text: str, width: float, size: float = 13) -> str:
    """The text, cut to fit a width (of proportional text), with … where it was cut."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"


def number(value: float) -> str:
    """A coordinate or opacity, in five digits."""
    return f"{value:.5g}"


def attributes(values: dict) -> str:
    """Of an SVG element; underscores stand for hyphens, None for an attribute that is left out."""
    written = [
        f' {_hyphenated(name)}="{number(value) if isinstance(value, float) else escape(value)}"'
        for name, value in values.items()
        if value is not None
    ]
    return "".join(written)


@cache
def _hyphenated(name: str) -> str:
    return name.replace("_", "-")


def text(x: float, y: float, words: str, **style) -> str:
    """Text whose baseline starts at (x, y), by default of size 13; `style` are SVG attributes, such as text_anchor."""
    return f"<text{attributes(dict(x=float(x), y=float(y)) | style)}>{escape(words)}</text>"


def rect(x: float, y: float, width: float, height: float, fill: str = "currentColor", **style) -> str:
    place = dict(x=float(x), y=float(y), width=float(max(width, 0)), height=float(max(height, 0)), fill=fill)
    return f"<rect{attributes(place | style)}/>"


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = "currentColor", **style) -> str:
    place = dict(x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), stroke=stroke)
    return f"<line{attributes(place | style)}/>"


def path(points: list[tuple[float, float]], stroke: str, **style) -> str:
    """A line through points."""
    d = "M" + "L".join(f"{number(x)},{number(y)}" for x, y in points)
    return f"<path{attributes(dict(d=d, fill='none', stroke=stroke) | style)}/>"


def heat(x: float, y: float, width: float, height: float, values, colour: str, below: str = "#D55E00") -> str:
    """A matrix of numbers in -1 .. 1 as tinted cells: 15 steps of `colour` above zero, of `below` under it, none at 0.

    One small picture instead of a rectangle a cell, so a thousand cells cost a kilobyte and follow the page's colour.
    Tints grow faster than numbers at first, so that small ones are seen on dark pages, too.
    """
    steps = np.rint(np.clip(np.nan_to_num(np.asarray(values, dtype=float)), -1, 1) * 15).astype(int)  # (rows, columns)
    cells = Image.fromarray(np.where(steps < 0, 15 - steps, steps).astype(np.uint8))
    cells.putpalette([*bytes.fromhex(colour[1:]) * 16, *bytes.fromhex(below[1:]) * 15])
    shades = bytes(round(255 * (k / 15) ** 0.75) for k in range(16))
    png = io.BytesIO()
    cells.save(png, "PNG", transparency=shades + shades[1:])
    place = dict(x=float(x), y=float(y), width=float(width), height=float(height), preserveAspectRatio="none")
    place["style"] = "image-rendering:pixelated"
    return f'<image{attributes(place)} href="data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"/>'


def group(parts: list[str], **style) -> str:
    """Parts that share attributes, so that each need not repeat them."""
    return f"<g{attributes(style)}>{''.join(parts)}</g>"


def drawing(width: float, height: float, parts: list[str], label: str) -> str:
    """A whole SVG with a name for screen readers. It shrinks to narrow pages and never grows."""
    head = f'xmlns="http://www.w3.org/2000/svg" width="{number(width)}" height="{number(height)}"'
    view = f'viewBox="0 0 {number(width)} {number(height)}" style="max-width:100%;height:auto"'
    aria = f'role="img" aria-label="{escape(label)}"'
    font = f'font-family="{SANS}" font-size="13" fill="currentColor"'
    return f"<svg {head} {view} {aria} {font}>{''.join(parts)}</svg>"


def render(svg: str, ink: str = INK, paper: str = PAPER, zoom: float = 1.25) -> Image.Image:
    """The drawing on a page. Text is in matplotlib's DejaVu fonts, and in the system's where those lack a character."""
    coloured = svg.replace("<svg ", f'<svg color="{ink}" ', 1)
    picture = resvg_py.svg_to_bytes(svg_string=coloured, background=paper, zoom=zoom, font_dirs=[_fonts()])
    return Image.open(io.BytesIO(bytes(picture))).convert("RGB")


def to_png(svg: str, ink: str = INK, paper: str = PAPER, zoom: float = 1.25, margin: float = 8) -> bytes:
    """The drawing as a PNG of its 64 most frequent colours, so that tints stay what they are. The paper has a margin,
    since its edge is seen where the page is dark."""
    whole = ImageOps.expand(render(svg, ink, paper, zoom), round(margin * zoom), paper)
    colours = np.array([rgb for _, rgb in sorted(whole.getcolors(whole.width * whole.height), reverse=True)])  # (n, 3)
    palette = colours[:64]
    nearest = ((colours[:, None] - palette) ** 2).sum(-1).argmin(-1)  # (n,)
    place, code = np.zeros(1 << 24, np.uint8), np.array([1 << 16, 1 << 8, 1])
    place[colours @ code] = nearest
    reduced, png = Image.fromarray(place[np.asarray(whole) @ code]), io.BytesIO()
    reduced.putpalette(palette.astype(np.uint8).tobytes())
    reduced.save(png, "PNG")
    return png.getvalue()


@cache
def _fonts() -> str:
    from matplotlib import get_data_path

    return f"{get_data_path()}/fonts/ttf"

"""What every widget must be: small, harmless with hostile text, and a picture where no kernel runs."""
import base64
import io
import re
import xml.etree.ElementTree as ET
from functools import cache

import numpy as np
import torch
from PIL import Image

from llmkit.config import preset
from llmkit.model import Transformer
from llmkit.tokenizer import Tokenizer
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame
from llmkit.world import World

SVG = "{http://www.w3.org/2000/svg}"
LOOKS = ((svg.INK, svg.PAPER), ("#eeeeee", "#111111"))  # ink and paper of a light page and of a dark one
LEAST = 3.5  # contrast of a text with what is under it; WCAG asks for 4.5, and for 3 if it is large
AROUND = 40  # how far outside a drawing cut-off text is looked for
HOSTILE = "<script>alert('x')</script> & \"q\" \u202e\x00 ]]> </svg><img src=x onerror=alert(1)>"


@cache
def town() -> World:
    return World(0)


@cache
def town_tokenizer() -> Tokenizer:
    return Tokenizer.train([d.text for d in town().documents(300, 1)], 400)


@cache
def random_model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(preset("nano", vocab_size=400)).eval()


def texts(picture: str) -> list[str]:
    """All that stands written in a drawing."""
    return [element.text or "" for element in ET.fromstring(picture).iter(f"{SVG}text")]


def assert_bundle(frame: Frame):
    """The three forms of a widget; the picture is one, has ink, and all of it is small."""
    bundle = frame._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == frame.view.model_id
    assert frame.title in bundle["text/plain"] and frame.said in bundle["text/plain"]
    png = base64.b64decode(bundle["image/png"])
    image = Image.open(io.BytesIO(png)).convert("L")
    dark, light = image.getextrema()
    assert light == 255 and dark < 60 and image.size[0] > 200
    assert len(png) < 50_000 and len(frame.svg) < 50_000


def assert_harmless(frame: Frame):
    """The drawing is one well-formed SVG without anything that could run, and has a name."""
    root = ET.fromstring(frame.svg)
    assert root.get("role") == "img" and root.get("aria-label")
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names <= {"svg", "g", "rect", "text", "line", "path", "circle", "image", "title"}
    links = [element.get("href") for element in root.iter(f"{SVG}image")]
    assert all(re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", link) for link in links)
    assert not [name for element in root.iter() for name in element.attrib if name.startswith("on")]
    line = frame.view.children[2].value
    assert re.findall(r"<(\w+)", line) == ["div"]


def assert_readable(picture: str):
    """Every text of a drawing stands out from what is under it on light pages and on dark ones, and none is cut off."""
    for text, contrasts, inside in readings(picture):
        assert inside, f"{text!r} is cut off at the edge"
        for ratio, (ink, paper) in zip(contrasts, LOOKS, strict=True):
            assert ratio >= LEAST, f"{text!r} is hard to read, {ratio:.1f} to 1 in {ink} on {paper}"


def readings(picture: str) -> list[tuple[str, list[float], bool]]:
    """(text, its contrast in each of LOOKS, whether all of it is inside the drawing), of each text that is not blank.

    Its pixels are found in a drawing of the texts alone, each in a colour of its own; there the drawing is compared
    with what it is without any text. A quarter of the pixels may have less contrast, such as those under a line.
    """
    names, rows, columns, numbers = _marks(picture)
    bare = re.sub(r"<text.*?</text>", "", picture)
    pages = [[pixels(drawn, *look) for drawn in (picture, bare)] for look in LOOKS]
    height, width = pages[0][0].shape[:2]
    inside, found = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width), []
    for number, name in enumerate(names, 1):
        if name.strip():
            here = (numbers == number) & inside
            at = rows[here], columns[here]
            contrasts = [contrast(whole[at], without[at]) for whole, without in pages]
            found.append((name, contrasts, bool(here.sum() == (numbers == number).sum() > 0)))
    return found


def _marks(picture: str) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """The texts, and of their pixels the row, the column and the number of the text, from 1 on."""
    root, names = ET.fromstring(picture), []
    for parent in [*root.iter()]:
        for child in [*parent]:
            if child.tag not in (f"{SVG}g", f"{SVG}text"):
                parent.remove(child)
    for element in root.iter():
        for name in ("opacity", "fill-opacity", "text-decoration"):
            element.attrib.pop(name, None)
        if element.tag == f"{SVG}text":
            names.append(element.text or "")
            element.set("fill", f"#{97 * len(names):06x}")
    width, height = (float(root.get(name)) + 2 * AROUND for name in ("width", "height"))
    root.attrib |= dict(width=f"{width}", height=f"{height}", viewBox=f"{-AROUND} {-AROUND} {width} {height}")
    codes = pixels(ET.tostring(root, encoding="unicode"), "#ffffff", "#ffffff") @ np.array([1 << 16, 1 << 8, 1])
    rows, columns = ((codes > 0) & (codes <= 97 * len(names)) & (codes % 97 == 0)).nonzero()
    return names, rows - 2 * AROUND, columns - 2 * AROUND, codes[rows, columns] // 97


def pixels(picture: str, ink: str, paper: str) -> np.ndarray:
    """(rows, columns, 3), two of each to a unit of the drawing."""
    return np.asarray(svg.render(picture, ink, paper, zoom=2)).astype(int)


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    """Of two lists of colours, (n, 3) of 0 .. 255, as WCAG 2 has it; 0 for none."""
    linear = [np.where(c <= 10, c / 3294.6, ((c / 255 + 0.055) / 1.055) ** 2.4) for c in (a, b)]
    light = np.sort([c @ [0.2126, 0.7152, 0.0722] + 0.05 for c in linear], axis=0)
    return float(np.quantile(light[1] / light[0], 0.25)) if len(a) else 0.0

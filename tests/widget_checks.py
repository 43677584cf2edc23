"""What every widget must be: small, harmless with hostile text, and a picture where no kernel runs."""
import base64
import io
import re
import xml.etree.ElementTree as ET
from functools import cache

import torch
from PIL import Image

from llmkit.config import preset
from llmkit.model import Transformer
from llmkit.tokenizer import Tokenizer
from llmkit.widgets.frame import Frame
from llmkit.world import World

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
    return [element.text or "" for element in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]


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
    links = [element.get("href") for element in root.iter("{http://www.w3.org/2000/svg}image")]
    assert all(re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", link) for link in links)
    assert not [name for element in root.iter() for name in element.attrib if name.startswith("on")]
    line = frame.view.children[2].value
    assert re.findall(r"<(\w+)", line) == ["div"]

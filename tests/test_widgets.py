"""Widgets without a browser: what they draw, what they say, what they leave where no kernel runs."""
import asyncio
import base64
import io
import json
import re
import xml.etree.ElementTree as ET

import ipywidgets
import pytest
import torch
from PIL import Image

from llmkit import sampling
from llmkit.config import preset
from llmkit.generate import generate
from llmkit.model import Transformer
from llmkit.tokenizer import Tokenizer
from llmkit.train import Record
from llmkit.widgets import svg
from llmkit.widgets.bpe import MAX_BYTES, Film, bpe_movie
from llmkit.widgets.bpe import draw as draw_bpe
from llmkit.widgets.continuation import continuation_box, judge, pages
from llmkit.widgets.frame import Frame, Picture
from llmkit.widgets.lifecycle import STOPS, lifecycle_strip
from llmkit.widgets.report import report_card
from llmkit.widgets.sampling import N_DRAWS, distance, entropy, read_prompt, sampling_lab, stages
from llmkit.widgets.training import Scribe, Snapshot, training_scrubber, wrap
from llmkit.world import World

HOSTILE = "<script>alert('x')</script> & \"q\" \u202e\x00 ]]> </svg><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def world():
    return World(0)


@pytest.fixture(scope="module")
def tokenizer(world):
    return Tokenizer.train([d.text for d in world.documents(300, 1)], 400)


@pytest.fixture(scope="module")
def model():
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
    image = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).convert("L")
    dark, light = image.getextrema()
    assert light == 255 and dark < 60 and image.size[0] > 200
    assert len(json.dumps(bundle)) < 60_000 and len(frame.svg) < 50_000


def assert_harmless(frame: Frame):
    """The drawing is one well-formed SVG without anything that could run, and has a name."""
    root = ET.fromstring(frame.svg)
    assert root.get("role") == "img" and root.get("aria-label")
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names <= {"svg", "g", "rect", "text", "line", "path", "circle"}
    assert not [name for element in root.iter() for name in element.attrib if name.startswith("on")]
    line = frame.view.children[2].value
    assert re.findall(r"<(\w+)", line) == ["div"]


# ---- drawing ----

def test_text_is_escaped_and_what_xml_forbids_is_replaced():
    assert svg.escape("<a href='x'>&\"\x00\ud800") == "&lt;a href=&#x27;x&#x27;&gt;&amp;&quot;\ufffd\ufffd"
    written = svg.drawing(50, 20, [svg.text(0, 9, HOSTILE)], HOSTILE)
    assert texts(written) == [HOSTILE.replace("\x00", "\ufffd")]


def test_what_cannot_be_seen_is_made_visible():
    assert svg.visible(" a\n\t\u202e") == "␣a⏎⇥U+202E"
    assert svg.visible_bytes("é".encode()[:1]) == "C3" and svg.visible_bytes(b"x\xff") == "xFF"
    assert svg.cells("aé日\u0301") == 4


def test_a_text_is_cut_to_its_width():
    assert svg.shorten("short", 100) == "short"
    cut = svg.shorten("a much longer text than fits", 100)
    assert cut.endswith("…") and svg.text_width(cut) <= 100


def test_a_picture_has_its_ink_and_its_paper():
    square = svg.drawing(10, 10, [svg.rect(0, 0, 5, 10)], "half")
    image = Image.open(io.BytesIO(svg.to_png(square, ink="#ff0000", paper="#000000", zoom=1))).convert("RGB")
    assert image.getpixel((2, 5)) == (255, 0, 0) and image.getpixel((8, 5)) == (0, 0, 0)


# ---- frame ----

def test_a_control_redraws_and_the_line_says_what_changed():
    slider = ipywidgets.FloatSlider(1.0, min=0, max=5, description="speed")
    frame = Frame("Test", lambda speed: Picture(f"<svg>{speed}</svg>", f"It runs at {speed}."), {"speed": slider})
    assert frame.said == "It runs at 1.0." and frame.state == {"speed": 1.0}
    slider.value = 2.5
    assert frame.svg == "<svg>2.5</svg>" and frame.said == "speed: 1 → 2.5. It runs at 2.5."
    shown = [child.value for child in frame.view.children[1:3]]
    assert shown[0] == frame.svg and frame.said in shown[1]


def test_a_value_error_is_a_sentence_and_the_drawing_stays():
    def draw(text):
        if not text:
            raise ValueError("Type something.")
        if text == "bug":
            raise KeyError("lost")
        return Picture(f"<svg>{text}</svg>", text)

    box = ipywidgets.Text("hello")
    frame = Frame("Test", draw, {"text": box})
    box.value = ""
    assert frame.said == "Type something." and frame.svg == "<svg>hello</svg>"
    with pytest.raises(KeyError):
        box.value = "bug"
    assert frame.said == "KeyError: 'lost'"


# ---- BPE movie ----

def test_the_film_shows_every_vocabulary_between_bytes_and_tokens(tokenizer):
    film = Film({"town": tokenizer}, "Once upon a time there")
    for merge in range(len(film.ranks) + 1):
        smaller = Tokenizer(tokenizer.merges[: film.at(merge) + 1])
        said = draw_bpe(film, merge).said
        assert f"{len(smaller.encode(film.text))} tokens with a vocabulary of {smaller.vocab_size - 9}" in said


def test_the_movie_names_the_merge_made_and_the_next(tokenizer):
    movie = bpe_movie(tokenizer, "the other")
    merge = movie.controls["merge"]
    merge.value = 0
    first, second = tokenizer.trace("the other")[1:3]
    left, right = (svg.visible_bytes(tokenizer.token_bytes(i)) for i in first.pair)
    assert f"next {left} and {right}." in movie.said
    merge.value = 1
    assert movie.said.startswith("merge: 0 → 1.") and f"merge {first.rank + 1} joined {left} and {right}" in movie.said
    assert f"×{tokenizer.merges[second.rank].count:,} in training" in " ".join(texts(movie.svg))


def test_bytes_of_characters_are_shown_with_the_character(tokenizer):
    movie = bpe_movie(tokenizer, "é😀")
    movie.controls["merge"].value = 0
    written = texts(movie.svg)
    assert {"C3", "A9", "F0", "9F", "98", "80", "é", "😀"} <= set(written)


def test_two_tokenizers_are_shown_at_the_same_vocabulary_size(tokenizer):
    small = Tokenizer(tokenizer.merges[:20])
    movie = bpe_movie({"large": tokenizer, "small": small}, "the other mother")
    movie.controls["merge"].value = movie.controls["merge"].max
    assert f"large: 16 bytes are {len(tokenizer.encode('the other mother'))} tokens" in movie.said
    assert f"small: 16 bytes are {len(small.encode('the other mother'))} tokens with a vocabulary of 276" in movie.said


def test_another_text_resets_the_slider(tokenizer):
    movie = bpe_movie(tokenizer, "the other mother")
    movie.controls["text"].value = "the"
    assert movie.controls["merge"].max == len(tokenizer.trace("the")) - 1
    movie.controls["text"].value = ""
    assert "0 bytes" in movie.said and movie.controls["merge"].max == 0


@pytest.mark.parametrize("text", [HOSTILE, "😀" * 90, "\n\n  \t", "日本語" * 20, "a" * 500], ids=range(5))
def test_the_movie_stands_any_text(tokenizer, text):
    movie = bpe_movie({"a<b>": tokenizer, "b&c": tokenizer}, text)
    movie.controls["merge"].value = 0
    assert_harmless(movie)
    assert_bundle(movie)
    if len(text.encode()) > MAX_BYTES:
        assert f"first {MAX_BYTES} bytes" in movie.said


# ---- sampling laboratory ----

def test_stages_end_where_filter_logits_ends(model, tokenizer, world):
    prompt = read_prompt(model, tokenizer, "One", world)
    result = stages(prompt, 0.7, top_k=20, top_p=0.9, min_p=0.1, seed=3)
    expected = sampling.filter_logits(prompt.logits, 0.7, 20, 0.9, 0.1).softmax(-1)
    torch.testing.assert_close(result.filters[-1].probs, expected)
    assert [int(stage.kept.sum()) for stage in result.filters] == sorted(
        (int(stage.kept.sum()) for stage in result.filters), reverse=True
    )
    assert int(result.draws.sum()) == N_DRAWS and not result.draws[expected == 0].any()
    torch.testing.assert_close(result.draws, stages(prompt, 0.7, 20, 0.9, 0.1, seed=3).draws)


def test_entropy_and_distance_by_hand():
    assert entropy(torch.tensor([0.5, 0.5, 0.0])) == pytest.approx(0.693147, abs=1e-6)
    assert distance(torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.75])) == 0.75


def test_the_laboratory_marks_what_each_stage_cuts(model, tokenizer, world):
    lab = sampling_lab(model, tokenizer, "One", world)
    assert not any("cut" in words for words in texts(lab.svg)) and "400 tokens kept" in lab.said
    lab.controls["top_k"].value = 5
    assert "top-k (0: off): 0 → 5. 5 tokens kept" in lab.said and "From the truth" in lab.said
    assert {"cuts 395", "✕ cut", "top-k 5"} <= set(texts(lab.svg))
    lab.controls["temperature"].value = 0
    assert "1 token kept, entropy 0.00" in lab.said and {"cuts 399", "T = 0"} <= set(texts(lab.svg))


def test_the_truth_stands_beside_the_model(model, tokenizer, world):
    story = world.documents(1, 3, kinds=("story",))[0].text
    ids = tokenizer.encode(story)[:12]
    lab = sampling_lab(model, tokenizer, tokenizer.decode(ids), world)
    truth = world.next_token_probs([tokenizer.eos_id, *ids], tokenizer)
    assert f"{truth.max():.3f}" in texts(lab.svg) and "exact" in texts(lab.svg)


def test_where_there_is_no_truth_the_laboratory_says_so(model, tokenizer, world):
    lab = sampling_lab(model, tokenizer, "The president of France", world)
    assert "No document of the town begins like this" in lab.said and "unknown here" in texts(lab.svg)
    assert "No world was given" in sampling_lab(model, tokenizer, "One").said


def test_a_prompt_that_is_too_long_gets_a_sentence(model, tokenizer, world):
    lab = sampling_lab(model, tokenizer, "One", world)
    before = lab.svg
    lab.controls["prompt"].value = "q " * 400
    assert "the model's context only 128" in lab.said and lab.svg == before


def test_the_laboratory_stands_hostile_prompts(model, tokenizer, world):
    lab = sampling_lab(model, tokenizer, HOSTILE, world, temperature=0.5, seed=7)
    assert_harmless(lab)
    assert_bundle(lab)


# ---- continuation box ----

@pytest.fixture
def box(model, tokenizer, world):
    return continuation_box({"nano": (model, tokenizer)}, world, "One", max_new_tokens=20)


def test_the_box_continues_the_prompt_and_judges_the_text(box, model, tokenizer):
    go, stop = box.extra
    assert box.said == "Press Continue." and texts(box.svg)[0] == "One"[: len(texts(box.svg)[0])]
    go.click()
    assert re.search(r"The text costs the model \d+\.\d nats. The town cannot write it: where the model", box.said)
    assert len(texts(box.svg)) > 10 and not go.disabled and stop.disabled
    box.controls["prompt"].value = "Two"
    assert box.said == "prompt: “One” → “Two”. Press Continue."
    assert "".join(texts(box.svg)) == "Two"


def test_the_verdict_is_the_truths(model, tokenizer, world):
    document = world.documents(1, 5, kinds=("bio",))[0]
    ids = tuple(tokenizer.encode(document.text))
    *_, page = pages(model, tokenizer, document.text, 1.0, 0)
    verdict = judge(page._replace(ended=True), model, tokenizer, world).verdict
    assert f"the truth {world.nats(document.text):.1f}: it is a document" in verdict
    half = judge(page._replace(ids=ids[:9], n_prompt=9), model, tokenizer, world)
    assert "the beginning of a document" in half.verdict and half.impossible is None
    wrong = judge(page._replace(ids=(*ids[:9], 0), n_prompt=10), model, tokenizer, world)
    assert wrong.impossible == 9 and "your prompt" in wrong.verdict
    unfinished = judge(page._replace(ids=ids[:9], n_prompt=9, ended=True), model, tokenizer, world)
    assert unfinished.impossible == 9 and "end there" in unfinished.verdict


def test_at_temperature_0_the_box_writes_what_generate_does(model, tokenizer):
    *_, page = pages(model, tokenizer, "One", 0.0, 12)
    idx = torch.tensor([[tokenizer.eos_id, *tokenizer.encode("One")]])
    expected = generate(model, idx, 12, temperature=0.0, eos_id=tokenizer.eos_id)[0, 1:].tolist()
    assert list(page.ids) + [tokenizer.eos_id] * page.ended == expected


def test_a_prompt_that_leaves_no_room_gets_a_sentence(box):
    box.controls["prompt"].value = "q " * 100
    box.extra[0].click()
    assert "outgrow the model's context of 128" in box.said and not box.extra[0].disabled


def test_a_run_can_be_stopped_on_an_event_loop(model, tokenizer):
    async def use():
        box = continuation_box({"nano": (model, tokenizer)}, prompt="One", max_new_tokens=100)
        go, stop = box.extra
        go.click()
        while go.disabled is False:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        stop.click()
        while go.disabled:
            await asyncio.sleep(0)
        return box.said

    said = asyncio.run(use())
    assert int(re.match(r"\d+", said)[0]) < 100 and "costs the model" in said


def test_the_box_stands_hostile_text(box):
    box.controls["prompt"].value = HOSTILE
    box.extra[0].click()
    assert_harmless(box)
    assert_bundle(box)


# ---- strip, report card, scrubber ----

def test_every_lesson_is_on_the_map_once():
    covered = [lesson for stop in STOPS for lesson in range(stop.first, stop.last + 1)]
    assert covered == list(range(23))


def test_the_strip_marks_where_the_lesson_is():
    strip = lifecycle_strip("06_pretraining")
    assert strip.said == "Lesson 06: pretraining; then evaluation." and "▲ lesson 06" in texts(strip.svg)
    assert_harmless(strip)
    assert_bundle(strip)
    assert lifecycle_strip(22).said.endswith("the last stage.")
    with pytest.raises(ValueError, match="no lesson 23"):
        lifecycle_strip(23)


def card(**scores):
    score = {name: {"value": v, "low": v - 0.1, "high": v + 0.1, "n": 100} for name, v in scores.items()}
    return {"scores": {f"{name}/{split}": value for name, value in score.items() for split in ("train", "test")}}


def test_the_report_card_has_a_row_for_each_stage():
    frame = report_card({"base": card(facts=0.8, sums=0.3), "<mine>": card(facts=0.5)})
    written = texts(frame.svg)
    assert {"80%", "30%", "50%", "<mine>", "base", "sft", "reasoning"} <= set(written)
    assert written.count("to come") == 4 and "base: best at facts 70% to 90%, worst at sums 20% to 40%." in frame.said
    frame.controls["split"].value = "test"
    assert frame.said.startswith("questions: “train” → “test”.")
    assert_harmless(frame)
    assert_bundle(frame)
    with pytest.raises(ValueError, match="none of the cards holds scores"):
        report_card({"base": {}})


def run(steps, evaluated):
    return [Record(s, 5.0 / s + 0.6, 1e-3, 1.0, s * 100, 1e3, 0.1 * s, None, {} if s in evaluated else None)
            for s in range(1, steps + 1)]


def test_the_scrubber_moves_everything_together():
    shots = [Snapshot("early words", (0.1, 0.05, 0.2), {"bio": 2.0}), Snapshot(HOSTILE, (0.9, 0.8, 0.95), {"bio": 0.1})]
    frame = training_scrubber(run(600, {100, 600}), shots, floor=0.55)
    assert frame.said.startswith("Step 600: loss 0.61, least possible 0.55") and "0.10" in texts(frame.svg)
    assert_harmless(frame)
    assert_bundle(frame)
    frame.controls["step"].value = 100
    assert "step: 600 → 100. Step 100: loss 0.65" in frame.said and "10% of the facts" in frame.said
    assert "early\u00a0words" in texts(frame.svg) and "2.00" in texts(frame.svg)
    with pytest.raises(ValueError, match="2 snapshots for 1 evaluations"):
        training_scrubber(run(10, {5}), shots, floor=0.5)


def test_the_scribe_keeps_what_the_scrubber_shows(model, tokenizer, world):
    scribe = Scribe(tokenizer, world, n_questions=4, n_documents=8)
    scribe.documents = {kind: [d for d in documents if len(tokenizer.encode(d.text)) < 128]
                        for kind, documents in scribe.documents.items()}  # nano's context is short
    numbers = scribe(model)
    shot = Snapshot(**json.loads(json.dumps(scribe.snapshots[0]._asdict())))
    assert shot.sample.startswith("One") and shot.facts[0] == numbers["facts"]
    assert shot.excess["story"] == numbers["excess/story"] > 1  # random weights


def test_lines_are_broken_at_spaces_and_no_longer_than_asked():
    assert wrap("one two three", 7) == ["one\u00a0two", "three"]
    assert [svg.cells(line) <= 10 for line in wrap("日本語" * 9 + "\n" + "x" * 35, 10)].count(False) == 0
    assert "".join(wrap("x" * 35, 10)) == "x" * 35

"""Widgets without a browser: what they draw, what they say, what they leave where no kernel runs."""
import io
import json
import re
from dataclasses import replace

import ipywidgets
import numpy as np
import pytest
from PIL import Image
from widget_checks import (
    HOSTILE,
    assert_bundle,
    assert_harmless,
    assert_readable,
    random_model,
    texts,
    town,
    town_tokenizer,
)

from llmkit.tokenizer import Tokenizer
from llmkit.train import Record
from llmkit.widgets import svg
from llmkit.widgets.bpe import MAX_BYTES, Film, bpe_movie
from llmkit.widgets.bpe import draw as draw_bpe
from llmkit.widgets.frame import Frame, Picture
from llmkit.widgets.lifecycle import STOPS, lifecycle_strip
from llmkit.widgets.report import report_card
from llmkit.widgets.training import PROBE, Curve, Scribe, Snapshot, training_scrubber, wrap


@pytest.fixture(scope="module")
def world():
    return town()


@pytest.fixture(scope="module")
def tokenizer():
    return town_tokenizer()


@pytest.fixture(scope="module")
def model():
    return random_model()


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
    image = Image.open(io.BytesIO(svg.to_png(square, ink="#ff0000", paper="#000000", zoom=1, margin=3))).convert("RGB")
    assert image.getpixel((5, 8)) == (255, 0, 0) and image.getpixel((11, 8)) == (0, 0, 0)
    assert image.size == (16, 16) and image.getpixel((1, 8)) == (0, 0, 0)  # the margin


@pytest.mark.parametrize(("complaint", "parts"), [
    ("hard to read", [svg.text(10, 30, "black", fill="#000000")]),  # on dark pages
    ("hard to read", [svg.rect(0, 0, 99, 40, "#ffffff"), svg.text(10, 30, "ink on white")]),
    ("hard to read", [svg.text(10, 30, "faint", fill_opacity=0.3)]),
    ("cut off", [svg.text(30, 30, "a text too long")]),
])
def test_text_that_cannot_be_read_is_seen(complaint, parts):
    on_blue = [svg.rect(0, 0, 99, 40, "#0072B2"), svg.text(10, 30, "white", fill="#ffffff")]
    assert_readable(svg.drawing(100, 40, on_blue, ""))
    with pytest.raises(AssertionError, match=complaint):
        assert_readable(svg.drawing(100, 40, parts, ""))


def test_a_matrix_is_drawn_cell_by_cell_with_its_sign():
    values = [[1.0, 0.0, -1.0], [9.0, np.nan, -0.5]]
    drawn = svg.drawing(30, 10, [svg.heat(0, 0, 30, 10, values, "#0000ff", "#ff0000")], "x")
    image = Image.open(io.BytesIO(svg.to_png(drawn, paper="#ffffff", zoom=1, margin=0))).convert("RGB")
    pixels = [image.getpixel((x, y)) for y in (2, 7) for x in (5, 15, 25)]
    assert pixels[:5] == [(0, 0, 255), (255, 255, 255), (255, 0, 0), (0, 0, 255), (255, 255, 255)]
    assert pixels[5][0] == 255 and 80 < pixels[5][1] < 110


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
    assert_readable(movie.svg)


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


# ---- strip, report card, scrubber ----

def test_every_lesson_is_on_the_map_once():
    covered = [lesson for stop in STOPS for lesson in range(stop.first, stop.last + 1)]
    assert covered == list(range(23))


def test_the_strip_marks_where_the_lesson_is():
    strip = lifecycle_strip("06_pretraining")
    assert strip.said == "Lesson 06: pretraining; then evaluation." and "▲ lesson 06" in texts(strip.svg)
    assert_harmless(strip)
    assert_bundle(strip)
    assert_readable(strip.svg)
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
    cards = {"base": card(facts=0.8)}
    frame = report_card(cards)
    cards["sft"] = card(answers=0.7)
    frame.redraw("sft is trained.")
    assert_readable(frame.svg)
    assert frame.said.startswith("sft is trained. base: best") and {"70%", "answers"} <= set(texts(frame.svg))
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


def test_attention_moves_with_the_step():
    early, late = np.zeros((2, 3, 4, 4), dtype=int), np.zeros((2, 3, 4, 4), dtype=int)
    early[..., 0] = late[..., 0] = 100  # every head rests on the first token
    late[1, 2] = np.eye(4, k=-1) * 90  # later, one looks at the token before
    copying = [[0, 5, 0], [0, 0, 40]]
    shots = [Snapshot("a", (0.1, 0, 1), {"bio": 2.0}, a.tolist(), c) for a, c in ((early, ()), (late, copying))]
    frame = training_scrubber(run(600, {100, 600}), shots, floor=0.55)
    assert "Head 1.2 looks most at the token before, with 90% of its weight; where a word comes back" in frame.said
    assert frame.said.endswith("head 1.2 looks most at what followed it before: 40%.")
    assert "0.90" in texts(frame.svg) and frame.svg.count("<image") == 6
    assert_readable(frame.svg)
    assert_harmless(frame)
    assert_bundle(frame)
    frame.controls["step"].value = 100
    assert "0.90" not in texts(frame.svg) and "33% of its weight" in frame.said  # the first token, once in three rows


def test_a_bad_run_stands_beside_the_good_one():
    bad = [replace(record, loss=8.0) for record in run(40, set())]
    bad[30] = replace(bad[30], loss=float("nan"))
    frame = training_scrubber(run(600, {600}), [Snapshot("a", (0.1, 0, 1), {"bio": 2.0})], 0.55, {"<lr × 30>": bad})
    frame.controls["beside"].value = "<lr × 30>"
    assert "<lr × 30>: 8.00 at step 30" in texts(frame.svg)
    assert_harmless(frame)
    nothing_finite = Curve(run(10, set()), 0.5, "dead", [replace(bad[0], loss=float("inf"))])
    assert nothing_finite.draw(5) == Curve(run(10, set()), 0.5).draw(5)


def test_a_loss_at_the_top_is_written_below_its_point():
    flat = [replace(record, loss=6.0) for record in run(40, set())]
    (y,) = re.findall(r'y="([\d.]+)"[^>]*>6\.00<', "".join(Curve(flat, 0.5).draw(40)))
    assert float(y) > 20


def test_the_scribe_keeps_what_the_scrubber_shows(model, tokenizer, world):
    scribe = Scribe(tokenizer, world, n_questions=4, n_documents=8)
    scribe.documents = {kind: [d for d in documents if len(tokenizer.encode(d.text)) < 128]
                        for kind, documents in scribe.documents.items()}  # nano's context is short
    numbers = scribe(model)
    shot = Snapshot(**json.loads(json.dumps(scribe.snapshots[0]._asdict())))
    assert shot.sample.startswith("One") and shot.facts[0] == numbers["facts"]
    assert shot.excess["story"] == numbers["excess/story"] > 1  # random weights
    attention, n = np.array(shot.attention), 1 + len(tokenizer.encode(PROBE))
    assert attention.shape == (4, 4, n, n) and abs(attention.sum(-1) - 100).max() <= n / 2
    ids = [tokenizer.eos_id, *tokenizer.encode(PROBE)]
    returns = [(t, max(s for s in range(t) if ids[s] == ids[t]) + 1) for t in range(n) if ids[t] in ids[:t]]
    expected = np.mean([attention[..., t, s] for t, s in returns], axis=0)
    assert abs(np.array(shot.copying) - expected).max() <= 1


def test_lines_are_broken_at_spaces_and_no_longer_than_asked():
    assert wrap("one two three", 7) == ["one\u00a0two", "three"]
    assert [svg.cells(line) <= 10 for line in wrap("日本語" * 9 + "\n" + "x" * 35, 10)].count(False) == 0
    assert "".join(wrap("x" * 35, 10)) == "x" * 35

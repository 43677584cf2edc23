"""The widgets that look inside a model, without a browser."""
import re

import numpy as np
import pytest
import torch
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

from llmkit import activations
from llmkit.config import preset
from llmkit.logprobs import token_logprobs
from llmkit.model import Transformer
from llmkit.widgets import attention, tokens
from llmkit.widgets.attention import Cell, attention_cell, weigh
from llmkit.widgets.heads import LOOKED_AT, LOOKS, Heads, capture, head_grid, measure
from llmkit.widgets.heads import draw as draw_heads
from llmkit.widgets.lens import FIRST, FOLLOWS, TRUE, Reading, logit_lens
from llmkit.widgets.lens import draw as draw_lens
from llmkit.widgets.walkthrough import Journey, walkthrough

PROMPT = "Mira gave the red kite to"


@pytest.fixture(scope="module")
def tokenizer():
    return town_tokenizer()


@pytest.fixture(scope="module")
def model():
    return random_model()


def ids_of(tokenizer, text):
    return torch.tensor([[tokenizer.eos_id, *tokenizer.encode(text)]])


# ---- boxes of tokens ----

def test_tokens_are_labelled_and_long_texts_refused(model, tokenizer):
    ids = tokens.read(model, tokenizer, "Mira\n", 20)
    assert tokens.labels(tokenizer, ids)[0] == "‹eos›" and "".join(tokens.labels(tokenizer, ids)[1:]) == "Mira⏎"
    with pytest.raises(ValueError, match="has 7 tokens, and there is room for 5"):
        tokens.read(model, tokenizer, "q q q ", 5)


def test_a_box_tells_its_note_and_lines_break():
    parts, height = tokens.strip(["<b>"] * 40, [0.5] * 40, 300, [2], ["0.50"] * 40)
    assert "".join(parts).count("<title>") == 40 and "&lt;b&gt; 0.50</title>" in "".join(parts)
    assert height >= 4 * (tokens.BOX + tokens.NOTE)


# ---- head grid ----

def test_the_grid_shows_the_models_attention(model, tokenizer):
    run = capture(model, tokenizer, PROMPT, {"previous": np.zeros((4, 4))})
    att = activations.capture(model, ids_of(tokenizer, PROMPT)).att[:, 0]
    np.testing.assert_allclose(run.att, att.numpy())
    picture = draw_heads(run, "2.3", 4, LOOKS)
    top = int(att[2, 3, 4].argmax())
    assert f"looks at {run.names[top]} ({top}) {att[2, 3, 4, top]:.2f}" in picture.said


def test_both_ways_of_a_token_are_told():
    att = np.zeros((1, 2, 3, 3))
    att[0, 1] = [[1, 0, 0], [0.3, 0.7, 0], [0.9, 0.1, 0]]
    run = Heads(["a", "b", "c"], att, {"previous": np.array([[0.25, 0.5]])})
    assert draw_heads(run, "0.1", 1, LOOKS).said.startswith("Head 0.1: b (1) looks at b (1) 0.70, a (0) 0.30. Its")
    assert "b (1) is looked at by b (1) 0.70, c (2) 0.10. Its habits: previous 0.50." in draw_heads(
        run, "0.1", 1, LOOKED_AT).said
    assert "c (2) is looked at by nobody" in draw_heads(run, "0.1", 2, LOOKED_AT).said


def test_the_head_grid_follows_prompts_and_begins_with_the_strongest_head(model, tokenizer):
    habits = {"mine": np.arange(16.0).reshape(4, 4) / 16}
    frame = head_grid(model, tokenizer, PROMPT, habits)
    assert frame.controls["head"].value == "3.3" and "Its habits: mine 0.94." in frame.said
    assert_readable(frame.svg)
    assert_harmless(frame)
    assert_bundle(frame)
    frame.controls["prompt"].value = "Mira"
    assert frame.controls["token"].max == len(tokenizer.encode("Mira"))
    before = frame.svg
    frame.controls["prompt"].value = "q " * 60
    assert "there is room for 48" in frame.said and frame.svg == before
    frame.controls["prompt"].value = HOSTILE[:24]
    assert_harmless(frame)


def test_habits_are_those_of_activations(model, tokenizer):
    habits = measure(model, tokenizer)
    assert list(habits) == ["previous", "same", "induction"]
    assert all(score.shape == (4, 4) and (0 <= score).all() and (score <= 1).all() for score in habits.values())


def test_a_large_model_fits():
    random = np.random.default_rng(0)
    att = np.tril(random.random((12, 12, 48, 48)) ** 4)
    run = Heads(["token"] * 48, att / att.sum(-1, keepdims=True), {"previous": random.random((12, 12))})
    assert len(draw_heads(run, "11.11", 47, LOOKS).svg) < 60_000


# ---- attention cell ----

@pytest.fixture(scope="module")
def cell(model, tokenizer):
    return attention.capture(model, tokenizer, PROMPT, 1, 3)


def test_the_cell_weighs_as_the_model_does(cell, model, tokenizer):
    acts = activations.capture(model, ids_of(tokenizer, PROMPT))
    weights = weigh(cell.q, cell.k, True, True, True)
    torch.testing.assert_close(weights, acts.att[1, 0, 3])
    torch.testing.assert_close(weights @ cell.v, acts.heads[1, 0, 3])


def test_its_loss_is_the_models_until_a_switch_is_turned(cell, model, tokenizer):
    idx = ids_of(tokenizer, PROMPT)
    with torch.no_grad():
        own = -float(token_logprobs(model(idx)[:, :-1], idx[:, 1:]).mean())
    assert cell.loss(True, True, True) == pytest.approx(own, abs=1e-5)
    assert len({round(cell.loss(*s), 5) for s in ((True, True, True), (False, True, True), (True, True, False))}) == 3


def test_each_switch_takes_its_step_away():
    q, k = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0]]), torch.tensor([[1.0, 3.0, 0, 0], [-1.0, 1.0, 0, 0]])
    scores = torch.tensor([[1.0, -1.0], [3.0, 1.0]])  # q k^T / sqrt(4)
    torch.testing.assert_close(weigh(q, k, False, True, False), scores)
    torch.testing.assert_close(weigh(q, k, False, False, False), 2 * scores)
    torch.testing.assert_close(weigh(q, k, True, True, False), scores.tril())
    torch.testing.assert_close(weigh(q, k, True, False, True)[0], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(weigh(q, k, False, True, True), scores.softmax(-1))


def test_the_cell_shows_the_steps_of_a_query_and_a_key(cell):
    frame = attention_cell(cell, query=3, key=1)
    product, weight = float(cell.q[3] @ cell.k[1]), float(weigh(cell.q, cell.k, True, True, True)[3, 1])
    assert f"q · k = {product:.2f}, weight {weight:.2f}." in frame.said
    assert {"q · k", "÷ √16", "mask", "softmax", f"{product / 4:.2f}", f"{weight:.2f}"} <= set(texts(frame.svg))
    frame.controls["scaling"].value = False
    assert "÷ √16: off" in texts(frame.svg) and f"{product / 4:.2f}" not in texts(frame.svg)
    frame.controls["key"].value = 5
    assert "hidden by the mask" in frame.said and {"−∞", "hidden"} <= set(texts(frame.svg))
    assert_readable(frame.svg)
    frame.controls["mask"].value = False
    assert "hidden" not in texts(frame.svg) and "mask: off" in texts(frame.svg)
    assert_harmless(frame)
    assert_bundle(frame)


def test_a_loss_below_the_least_possible_is_called_a_leak(cell):
    losses = {True: 1.5, False: 0.2}
    frame = attention_cell(cell._replace(loss=lambda mask, scaling, softmax: losses[mask], floor=1.1))
    assert "Loss 1.50" in frame.said and "leaks" not in frame.said
    frame.controls["mask"].value = False
    assert "Loss 0.20 nats/token; with everything on 1.50. Least possible 1.10." in frame.said
    assert "Less than possible: the future leaks" in frame.said


def test_a_cell_of_any_tensors_needs_no_loss():
    q = torch.zeros(2, 4)
    frame = attention_cell(Cell([HOSTILE, "b"], q, q, q))
    assert "weight 0.50" in frame.said and "loss" not in texts(frame.svg)
    assert_harmless(frame)
    with pytest.raises(ValueError, match="30 tokens, the drawing room for 24"):
        attention_cell(Cell(["a"] * 30, *[torch.zeros(30, 4)] * 3))


# ---- logit lens ----

def test_the_lens_ends_where_the_model_does(model, tokenizer):
    reading = Reading(model, tokenizer, PROMPT)
    with torch.no_grad():
        logits = model(ids_of(tokenizer, PROMPT))[0]
    torch.testing.assert_close(reading.probs[-1], logits.softmax(-1))
    assert reading.watched(2, FIRST) == int(logits[2].argmax()) and reading.watched(2, FOLLOWS) == reading.ids[3]
    assert reading.watched(len(reading.ids) - 1, FOLLOWS) == int(logits[-1].argmax())  # nothing follows the last


def test_rank_and_shares_are_told(model, tokenizer):
    reading = Reading(model, tokenizer, PROMPT)
    picture = draw_lens(reading, 3, 2, FOLLOWS)
    watched = reading.ids[4]
    ranks = [int((layer[3] > layer[3, watched]).sum()) + 1 for layer in reading.probs]
    assert f"Rank of {reading.names[4]} after 0 to 4 layers: {', '.join(map(str, ranks))}." in picture.said
    total, *shares = map(float, re.search(
        r"logit (-?[\d.]+) = embedding (-?[\d.]+) \+ heads (-?[\d.]+) \+ MLPs (-?[\d.]+)\.", picture.said).groups())
    assert sum(shares) == pytest.approx(total, abs=0.021)
    assert {"likeliest here", "no truth", "sum = the logit", "layer 3"} <= set(texts(picture.svg))


def test_the_truth_stands_beside_the_lens(model, tokenizer):
    story = town().documents(1, 3, kinds=("story",))[0].text[:40]
    frame = logit_lens(model, tokenizer, story, town())
    ids = [tokenizer.eos_id, *tokenizer.encode(story)]
    truth = town().next_token_probs(ids, tokenizer)
    frame.controls["watch"].value = TRUE
    assert f"Rank of {tokens.labels(tokenizer, [int(truth.argmax())])[0]} after" in frame.said
    assert "in truth" in frame.said and "truth" in texts(frame.svg)
    assert_readable(frame.svg)
    assert_harmless(frame)
    assert_bundle(frame)
    frame.controls["prompt"].value = HOSTILE[:24]
    assert "no truth" in texts(frame.svg)
    assert_harmless(frame)
    frame.controls["prompt"].value = "q " * 60
    assert "there is room for 64" in frame.said


# ---- token to logits ----

def test_every_stop_follows_from_those_before_it(model, tokenizer):
    journey, token = Journey(model, tokenizer, PROMPT), 4
    stops = journey.stops(token)
    assert [stop.stage for stop in stops[1:3]] == ["start", "layer 0"] and len(stops) == 2 + 11 * 4 + 3
    torch.testing.assert_close(stops[1].values, model.tok_emb.weight[journey.ids[token]].detach())
    with torch.no_grad():
        torch.testing.assert_close(stops[-1].values, model(journey.acts.idx)[0, token].softmax(-1))
        torch.testing.assert_close(stops[-3].values, model.norm_f(stops[-4].values))
    for layer in range(4):
        normed, q, k, v, att, heads, wrote, middle, normed2, mlp, after = (
            stop.values for stop in stops[2 + 11 * layer : 13 + 11 * layer])
        before = stops[1 + 11 * layer].values
        torch.testing.assert_close(middle, before + wrote)
        torch.testing.assert_close(after, middle + mlp)
        torch.testing.assert_close(att.sum(-1), torch.ones(4))
        assert q.shape == heads.shape == (4, 16) and k.shape == v.shape == (2, 16)


def test_a_token_is_stepped_through_the_model(model, tokenizer):
    frame = walkthrough(model, tokenizer, PROMPT)
    n = len(tokenizer.encode(PROMPT)) + 1
    assert f"Step 1 of 48: start, x = tok_emb[idx], shape (B, T, C) = (1, {n}, 64)." in frame.said
    frame.controls["step"].value = 6
    assert f"softmax(q kᵀ / √D), shape (B, H, T, S) = (1, 4, {n}, {n}). Head" in frame.said
    assert_harmless(frame)
    assert_bundle(frame)
    assert_readable(frame.svg)
    frame.controls["step"].value = 48
    probs = Journey(model, tokenizer, PROMPT).stops(n - 1)[-1].values
    assert f"{float(probs.max()):.3f}" in texts(frame.svg) and "probabilities" in texts(frame.svg)
    frame.controls["prompt"].value = HOSTILE[:24]
    assert_harmless(frame)
    frame.controls["prompt"].value = "q " * 60
    assert "there is room for 48" in frame.said


# ---- any model ----

@pytest.mark.parametrize("switches", [
    dict(norm="layer", mlp="gelu", bias=True, positions="learned", qk_norm=False, n_kv_head=4),  # GPT-2's
    dict(positions="alibi", sliding_window=6, tie_embeddings=False),
], ids=["gpt2", "alibi"])
def test_the_widgets_look_into_other_architectures(switches, tokenizer):
    torch.manual_seed(0)
    model = Transformer(preset("nano", vocab_size=400, **switches)).eval()
    att = activations.capture(model, ids_of(tokenizer, PROMPT)).att[:, 0]
    np.testing.assert_allclose(capture(model, tokenizer, PROMPT, {}).att, att.numpy())
    assert "Its habits: previous" in head_grid(model, tokenizer, PROMPT).said
    stops = Journey(model, tokenizer, PROMPT).stops(3)
    with torch.no_grad():
        torch.testing.assert_close(stops[-1].values, model(ids_of(tokenizer, PROMPT))[0, 3].softmax(-1))
        torch.testing.assert_close(stops[12].values, stops[1].values + stops[8].values + stops[11].values)
    said = logit_lens(model, tokenizer, PROMPT).said
    total, *shares = map(float, re.findall(r"-?\d+\.\d\d", said.split("Its logit ")[1]))
    assert sum(shares) == pytest.approx(total, abs=0.03)


def test_a_cell_refuses_scores_that_it_cannot_show(tokenizer):
    model = Transformer(preset("nano", vocab_size=400, positions="alibi"))
    with pytest.raises(ValueError, match="scores are not q · k alone"):
        attention.capture(model, tokenizer, PROMPT, 0, 0)

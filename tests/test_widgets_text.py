"""The sampling laboratory, the continuation box and the chat box, without a browser."""
import asyncio
import re

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

from llmkit import chat, sampling
from llmkit.generate import generate
from llmkit.widgets.chat import answer, chat_box
from llmkit.widgets.continuation import continuation_box, judge, pages, together
from llmkit.widgets.sampling import N_DRAWS, distance, entropy, read_prompt, sampling_lab, stages


@pytest.fixture(scope="module")
def world():
    return town()


@pytest.fixture(scope="module")
def tokenizer():
    return town_tokenizer()


@pytest.fixture(scope="module")
def model():
    return random_model()


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
    assert_readable(lab.svg)


# ---- continuation box ----

@pytest.fixture
def box(model, tokenizer, world):
    return continuation_box({"nano": (model, tokenizer)}, world, "One", max_new_tokens=20)


def test_the_box_continues_the_prompt_and_judges_the_text(box, model, tokenizer, world):
    go, stop = box.extra
    again = continuation_box({"nano": (model, tokenizer)}, world, "One", max_new_tokens=20)
    assert again.svg == box.svg and "model" in texts(box.svg) and "truth" in texts(box.svg)  # one is there at once
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


def test_two_checkpoints_write_side_by_side(model, tokenizer, world):
    box = continuation_box({"a": (model, tokenizer), "<b>": (model, tokenizer)}, world, "One", 0.0, 5)
    alone = box.svg
    box.controls["beside"].value = "<b>"
    assert {"a", "<b>"} <= set(texts(box.svg)) and box.svg != alone
    box.extra[0].click()
    *_, page = pages(model, tokenizer, "One", 0.0, 5)
    words = "".join(tokenizer.decode([i]) for i in page.ids).replace(" ", "")
    assert "".join(texts(box.svg)).replace("\u00a0", "").count(words) == 2
    assert re.match(r"a: 5 tokens.* <b>: 5 tokens", box.said)
    assert_readable(box.svg)
    assert_harmless(box)
    assert_bundle(box)


def test_steps_taken_together_end_with_the_longest():
    assert list(together([iter("ab"), iter("xyz")])) == [["a", "x"], ["b", "y"], ["b", "z"]]


# ---- chat box ----

def test_the_chat_box_sends_what_the_template_makes(model, tokenizer):
    messages = [{"role": "user", "content": "Who?"}]
    *_, turn = answer(model, tokenizer, messages, 0.0, 6)
    idx = torch.tensor([chat.prompt(messages, tokenizer)])
    end = tokenizer.special_tokens["<|end|>"]
    new = generate(model, idx, 6, temperature=0.0, eos_id=end)[0, idx.shape[1]:].tolist()
    assert turn.said == tokenizer.decode([i for i in new if i != end]) and turn.ended == (end in new)


def test_a_turn_ends_at_its_end_token(model, tokenizer, monkeypatch):
    ids = [*tokenizer.encode("Yes."), tokenizer.special_tokens["<|end|>"], 5]
    monkeypatch.setattr("llmkit.widgets.chat.stream", lambda *_, **__: iter(torch.tensor(ids)))
    *_, turn = answer(model, tokenizer, [{"role": "user", "content": "Well?"}], 1.0, 9)
    assert turn.said == "Yes." and turn.ended


def test_a_conversation_goes_on_and_can_begin_anew(model, tokenizer):
    box = chat_box({"nano": (model, tokenizer)}, "Who?", max_new_tokens=8)
    send, _, anew = box.extra
    assert box.said == "Press Send."
    send.click()
    assert re.fullmatch(r"nano: \d tokens, .+ turn( not ended)?\.", box.said) and "Who?" in texts(box.svg)
    box.controls["message"].value = "And\u00a0you?"
    send.click()
    assert {"Who?", "And\u00a0you?"} <= set(texts(box.svg))
    assert_readable(box.svg)
    anew.click()
    assert box.said == "A new conversation. Press Send." and texts(box.svg) == ["nano"]


def test_two_checkpoints_answer_the_same_message(model, tokenizer):
    box = chat_box({"a": (model, tokenizer), "b": (model, tokenizer)}, HOSTILE, max_new_tokens=4)
    box.controls["beside"].value = "b"
    box.extra[0].click()
    assert re.match(r"a: 4 tokens.* b: 4 tokens", box.said) and texts(box.svg)[0] == "a" and "b" in texts(box.svg)
    assert_harmless(box)
    assert_bundle(box)


def test_a_conversation_too_long_for_the_model_gets_a_sentence(model, tokenizer):
    box = chat_box({"nano": (model, tokenizer)}, "q " * 100)
    box.extra[0].click()
    assert "outgrow the model's context of 128" in box.said and not box.extra[0].disabled
    box.controls["message"].value = "q"
    box.extra[0].click()
    assert box.said.startswith("nano: 60 tokens")  # the message that did not fit is not kept


def test_a_new_conversation_forgets_the_answer_under_way(model, tokenizer):
    async def use():
        box = chat_box({"nano": (model, tokenizer)}, "Who?", max_new_tokens=100)
        send, _, anew = box.extra
        send.click()
        while not send.disabled:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        anew.click()
        while send.disabled:
            await asyncio.sleep(0)
        return box

    box = asyncio.run(use())
    assert box.said == "A new conversation. Press Send." and texts(box.svg) == ["nano"]

"""The bench for ablating and patching, without a browser."""
import copy
from functools import cache

import pytest
import torch
from widget_checks import HOSTILE, assert_bundle, assert_harmless, assert_readable, random_model, texts, town_tokenizer

from llmkit import activations
from llmkit.widgets.patch import ALL, DIFFER, LAST, MEAN, SECOND, ZERO, Bench, patch_bench

PROMPT, OTHER = "Mira gave the red kite to", "Mira gave the bed kite to"
EVERYTHING = tuple((layer, head) for layer in range(4) for head in (0, 1, 2, 3, None))


@cache
def loud_model():
    """Random as the others, but with parts that say something."""
    model = copy.deepcopy(random_model())
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.mul_(8)
            block.attn.out.weight.mul_(8)
            block.mlp.down.weight.mul_(30)
    return model


@pytest.fixture(scope="module")
def bench():
    bench = Bench(loud_model(), town_tokenizer(), PROMPT, OTHER, None)
    assert bench.idx.shape == bench.other.shape, "the two words must be as many tokens"
    return bench


@pytest.fixture
def frame():
    return patch_bench(loud_model(), town_tokenizer(), PROMPT, OTHER)


def test_parts_become_what_activations_makes_of_them(bench):
    model = loud_model()
    with activations.ablated(model, heads=[(1, 2)], mlps=[3]), torch.no_grad():
        zeroed = model(bench.idx)[0, -1]
    torch.testing.assert_close(bench.seen(((1, 2), (3, None)), ZERO, ALL).logits, zeroed)
    place = (bench.idx != bench.other)[0].nonzero().flatten().tolist()
    with activations.patched(model, activations.capture(model, bench.other), heads=[(0, 1)], positions=place):
        with torch.no_grad():
            moved = model(bench.idx)[0, -1]
    torch.testing.assert_close(bench.seen(((0, 1),), SECOND, DIFFER).logits, moved)
    assert not torch.equal(moved, bench.before.logits)


def test_patching_everything_at_the_last_token_gives_the_second_prompts_answer_but_for_the_embedding(bench):
    after = bench.seen(EVERYTHING, SECOND, LAST)  # the last token is the same, so its embedding is, too
    torch.testing.assert_close(after.logits, bench.source.logits)
    assert bench.gap(bench.before) == pytest.approx(
        float(bench.before.logits[bench.answers()[0]] - bench.before.logits[bench.answers()[1]]))


def test_each_part_alone_is_each_part_chosen_by_itself(bench):
    effects = bench.alone(SECOND, DIFFER)
    assert effects.shape == (4, 5)
    one = bench.gap(bench.seen(((2, 3),), SECOND, DIFFER)) - bench.gap(bench.before)
    assert float(effects[2, 3]) == pytest.approx(one, abs=1e-6)
    mlp = bench.gap(bench.seen(((0, None),), SECOND, DIFFER)) - bench.gap(bench.before)
    assert float(effects[0, 4]) == pytest.approx(mlp, abs=1e-6) and mlp != 0


def test_the_frame_tells_the_change(frame, bench):
    before = f"{bench.gap(bench.before):.2f}"
    assert "Changed: nothing. Logit of" in frame.said and f"{before} before, {before} after." in frame.said
    frame.controls["parts"].value = ((0, None), (1, 2))
    after = bench.gap(bench.seen(((0, None), (1, 2)), SECOND, ALL))
    assert frame.said.startswith("parts: 2 chosen. Changed: MLP 0, 1.2.")
    assert f"{before} before, {after:.2f} after." in frame.said
    for value in (ZERO, MEAN):
        frame.controls["value"].value = value
        assert f"{bench.gap(bench.seen(((0, None), (1, 2)), value, ALL)):.2f} after." in frame.said
    assert_harmless(frame)
    assert_bundle(frame)
    assert_readable(frame.svg)


def test_the_button_tries_each_part(frame, bench):
    assert "press “Each part alone” for numbers" in texts(frame.svg)
    frame.extra[0].click()
    effects = bench.alone(SECOND, ALL)
    assert frame.said.startswith("Each part was tried alone.") and float(effects[0, 4]) != 0
    assert f"{round(float(effects[0, 4]), 1) + 0.0:+.1f}" in texts(frame.svg)
    assert f"does most: {float(effects.flatten()[effects.abs().argmax()]):+.2f}." in frame.said
    frame.controls["value"].value = ZERO  # numbers of another question are not shown
    assert "does most" not in frame.said


def test_prompts_of_unequal_length_get_a_sentence(frame):
    frame.controls["second"].value = HOSTILE[:20]
    frame.controls["parts"].value = ((0, 0),)
    assert "to patch, make them equally long" in frame.said
    frame.extra[0].click()
    assert "to patch, make them equally long" in frame.said
    frame.controls["value"].value = ZERO
    assert "Changed: 0.0." in frame.said
    assert_harmless(frame)

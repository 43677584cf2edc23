"""The router board, without a browser."""
import copy
import re
from functools import cache

import pytest
import torch
from widget_checks import HOSTILE, assert_bundle, assert_harmless, assert_readable, random_model, texts, town_tokenizer

from llmkit.config import MoEConfig, preset
from llmkit.model import Transformer
from llmkit.moe import expert_load, load_balance_loss, routings
from llmkit.widgets.router import (
    BALANCED,
    NO_BIAS,
    NO_LIMIT,
    OWN_BIAS,
    Run,
    balancing,
    capture,
    draw,
    rerouted,
    router_board,
)  # fmt: skip

TEXT = "One day Mira gave the red kite to Sam. Then 47 + 36 = 83."
OFF = dict(capacity=NO_LIMIT, noise=0.0, bias=NO_BIAS)


@cache
def random_moe(seed=0, **changes):
    torch.manual_seed(seed)
    moe = MoEConfig(**(dict(n_expert=6, n_active=2, d_expert=16) | changes))
    model = Transformer(preset("nano", vocab_size=400, n_layer=2, moe=moe)).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.router.weight.mul_(40)  # opinions
    return model


@pytest.fixture
def frame():
    return router_board(random_moe(), town_tokenizer(), TEXT)


def by_hand(rows, k=1, **config):
    """A run of one layer with these probabilities."""
    probs = torch.tensor([rows])
    moe = MoEConfig(probs.shape[-1], k, 8, **config)
    return Run([f"t{i}" for i in range(len(rows))], probs, torch.zeros(1, probs.shape[-1]), moe)


@pytest.mark.parametrize("changes", [{}, {"n_active": 1, "norm_weights": False}, {"capacity_factor": 0.75}])
def test_with_the_models_own_dials_the_board_is_the_models_own_routing(changes):
    model = random_moe(**changes)
    for block in model.blocks:
        block.mlp.bias.copy_(torch.linspace(-0.3, 0.3, 6))
    run = capture(model, town_tokenizer(), TEXT)
    own = dict(k=model.config.moe.n_active, capacity=changes.get("capacity_factor", NO_LIMIT), noise=0.0, bias=OWN_BIAS)
    boards = [rerouted(run, layer, **own) for layer in range(2)]
    loss = load_balance_loss(model, by_layer=True).item()
    assert sum(board.balance for board in boards) / 2 == pytest.approx(loss, rel=1e-5)
    for board, routing in zip(boards, routings(model), strict=True):
        assert torch.equal(board.routing.experts, routing.experts) and torch.equal(board.routing.kept, routing.kept)
        torch.testing.assert_close(board.routing.weights, routing.weights)
        torch.testing.assert_close(board.load / board.load.sum(), expert_load(routing))
    for block in model.blocks:
        block.mlp.bias.zero_()


def test_room_goes_to_those_who_come_first():
    run = by_hand([[0.9, 0.1]] * 3 + [[0.2, 0.8]])
    board = rerouted(run, 0, **OFF | dict(k=1, capacity=1.0))
    assert board.load.tolist() == [3, 1] and board.room == 2
    assert board.routing.kept.flatten().tolist() == [True, True, False, True]
    said = draw(run, board, 0, token=2).said
    assert "expert 0 is the busiest, with 3 of 4 places, 1.5 times its share" in said
    assert "Room for 2 each: 1 dropped, and 1 tokens pass without any expert." in said
    assert said.endswith("t2 (2) goes to expert 0 with weight 1.00 (no room).")


@pytest.mark.parametrize(("rows", "k", "loss"), [
    ([[0.9, 0.1], [0.1, 0.9]], 1, "1.00; an even load has 1."),
    ([[0.9, 0.1]] * 4, 1, "1.80; an even load has 1."),  # 2 * (1 * 0.9 + 0 * 0.1)
    ([[0.6, 0.3, 0.1]] * 4, 2, "2.70; an even load has 2."),  # 3 * (1 * 0.6 + 1 * 0.3 + 0 * 0.1)
])
def test_the_line_tells_the_balance_loss(rows, k, loss):
    run = by_hand(rows, k)
    for room in (NO_LIMIT, 0.5):  # what finds no room counts as well
        board = rerouted(run, 0, **OFF | dict(k=k, capacity=room))
        assert f"The balance loss is {loss}" in draw(run, board, 0, token=0).said


def test_the_balancing_bias_evens_the_load_and_leaves_the_weights():
    torch.manual_seed(0)
    rows = (2 * torch.randn(40, 4) + torch.tensor([3.0, 0, 0, 0])).softmax(-1)
    run = by_hand(rows.tolist(), k=1, norm_weights=False)
    before, after = (rerouted(run, 0, **OFF | dict(k=1, bias=bias)) for bias in (NO_BIAS, BALANCED))
    assert before.load.max() >= 25 and after.load.max() <= 14 and after.load.min() >= 6
    assert balancing(rows, 1).argmin() == 0
    torch.testing.assert_close(after.routing.weights, rows.gather(1, after.routing.experts))


def test_noise_is_the_same_each_time_and_moves_tokens():
    run = by_hand([[0.5, 0.3, 0.2]] * 30)
    noisy = [rerouted(run, 0, **OFF | dict(k=1, noise=1.0)) for _ in range(2)]
    assert torch.equal(noisy[0].routing.experts, noisy[1].routing.experts)
    assert rerouted(run, 0, **OFF | dict(k=1)).load.tolist() == [30, 0, 0] and noisy[0].load.min() > 0


def test_every_choice_has_its_chip_and_every_dropped_one_is_struck_through():
    frame = router_board(random_moe(), town_tokenizer(), "Mira gave the red kite to Sam.")  # no digits, as experts have
    names = capture(random_moe(), town_tokenizer(), "Mira gave the red kite to Sam.").names
    for k in (1, 2, 3):
        frame.controls["k"].value = k
        assert sum(texts(frame.svg).count(name) for name in set(names)) == (1 + k) * len(names)
    assert frame.svg.count("line-through") == 0
    frame.controls["capacity"].value = 0.5
    lost = int(re.search(r"(\d+) dropped", frame.said)[1])
    assert 3 * len(names) // 2 - 6 <= lost < 3 * len(names) and frame.svg.count("line-through") == lost


def test_the_dials_say_what_they_did(frame):
    assert frame.said.startswith("Layer 0: expert ") and set(frame.controls) == {
        "text", "layer", "token", "k", "capacity", "noise", "bias"}
    frame.controls["layer"].value = 1
    assert frame.said.startswith("layer: 0 → 1. Layer 1: expert ")
    frame.controls["token"].value = 3
    third = capture(random_moe(), town_tokenizer(), TEXT).names[3]
    assert f"{third} (3) goes to expert" in frame.said and "p for " in "".join(texts(frame.svg))
    frame.controls["bias"].value = BALANCED
    assert frame.said.startswith("bias: “none” → “balanced on this text”.")
    assert_bundle(frame)
    assert_harmless(frame)


def test_models_are_switched_and_a_bias_of_their_own_can_be_chosen():
    biased = copy.deepcopy(random_moe(1))
    biased.blocks[0].mlp.bias[4] = 5.0  # everybody's first choice
    frame = router_board({"step 0": random_moe(), "step 9": biased}, town_tokenizer(), TEXT)
    n = len(capture(biased, town_tokenizer(), TEXT).names)
    assert frame.controls["model"].value == "step 9" and frame.controls["bias"].value == OWN_BIAS
    assert f"expert 4 is the busiest, with {n} of {2 * n} places, 3.0 times its share" in frame.said
    frame.controls["model"].value = "step 0"
    assert frame.said.startswith("model: “step 9” → “step 0”.") and f"with {n} of" not in frame.said


def test_a_new_text_moves_the_end_of_the_token_dial(frame):
    frame.controls["text"].value = "Mira gave"
    shown = capture(random_moe(), town_tokenizer(), "Mira gave").names
    assert frame.controls["token"].max == len(shown) - 1 and f"{shown[-1]} ({len(shown) - 1}) goes to" in frame.said
    frame.controls["text"].value = "kite " * 60
    assert "room for 48: shorten it" in frame.said


def test_long_and_hostile_texts_stay_small_and_harmless():
    longest = router_board(random_moe(), town_tokenizer(), "abcdefgh " * 5 + "a", k=4, capacity=0.75)
    assert len(longest.svg) < 50_000
    hostile = router_board(random_moe(), town_tokenizer(), HOSTILE[:40])
    assert_harmless(hostile)
    assert_bundle(hostile)


def test_start_sets_the_dials():
    frame = router_board(random_moe(capacity_factor=1.1), town_tokenizer(), TEXT, layer=1, token=2)
    assert frame.controls["layer"].value == 1 and "(2) goes to" in frame.said
    assert frame.controls["capacity"].value == 1.1 and "Room for" in frame.said
    assert_readable(frame.svg)


def test_models_that_cannot_be_shown_are_refused():
    with pytest.raises(ValueError, match="needs a model with experts"):
        router_board(random_model(), town_tokenizer(), TEXT)
    with pytest.raises(ValueError, match="of one shape"):
        router_board({"a": random_moe(), "b": random_moe(n_expert=4)}, town_tokenizer(), TEXT)

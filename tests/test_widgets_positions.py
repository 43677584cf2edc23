"""The position dial, without a browser."""
import math

import pytest
import torch
from widget_checks import LOOKS, assert_bundle, assert_harmless, assert_readable, contrast, pixels, texts

from llmkit.config import RopeScaling
from llmkit.positions import RoPE, alibi_slopes, rotate
from llmkit.widgets.positions import ALIBI, NONE, Dial, position_dial


def dial(**changes):
    return Dial(head_dim=8, n_head=4, trained=100, base=10_000, scaling=NONE, factor=4, distance=50)._replace(**changes)


@pytest.mark.parametrize("scaling", [NONE, "linear", "ntk", "yarn"])
def test_the_score_is_that_of_rotated_queries_and_keys(scaling):
    """Query and key all ones: each pair's part of the product is 2 cos(angle)."""
    stretch = None if scaling == NONE else RopeScaling(scaling, 4, 100 if scaling == "yarn" else None)
    angles = RoPE(8, 400, 10_000, stretch).angles(slice(0, 400), 1)
    ones = torch.ones(1, 400, 1, 8)
    turned = rotate(ones, *angles)[0, :, 0]  # (400, 8)
    expected = turned @ turned[0] / 8
    torch.testing.assert_close(dial(scaling=scaling).score(torch.arange(400.0).double()).float(), expected,
                               atol=1e-5, rtol=1e-5)


def test_a_pair_is_new_beyond_the_trained_length_until_it_has_been_round():
    slow = dial(head_dim=4, base=1000)  # turns of 1 and 0.0316 radians a token: the slow one saw 3.13 radians
    assert slow.unseen(99).tolist() == [False, False] and slow.unseen(100).tolist() == [False, True]
    once_round = math.ceil(2 * math.pi / 1000**-0.5)
    assert slow.unseen(once_round - 1).tolist() == [False, True] and slow.unseen(once_round).tolist() == [False, False]


@pytest.mark.parametrize(("scaling", "unseen"), [(NONE, [2, 3]), ("linear", []), ("ntk", [2]), ("yarn", [])])
def test_stretching_brings_angles_back_into_what_was_seen(scaling, unseen):
    """Turns are 1, 0.1, 0.01, 0.001 radians; at distance 390 ntk divides pair 2 by 4^(2/3) alone: 1.55 > 0.99."""
    assert dial(scaling=scaling).unseen(390).nonzero().flatten().tolist() == unseen


def test_factor_1_stretches_nothing():
    assert dial(scaling="ntk", factor=1).stretched is None


def test_the_dial_tells_where_it_breaks():
    frame = position_dial(head_dim=16, trained=128)
    assert "0 of 8 pairs stand at an angle that texts of 128 tokens never showed" in frame.said
    assert "Every angle is known up to distance 127." in frame.said
    frame.controls["distance"].value = 400
    assert frame.said.startswith("distance: 64 → 400.") and "4 of 8 pairs" in frame.said
    assert texts(frame.svg).count("✕") == 4
    assert_readable(frame.svg)
    assert_harmless(frame)
    assert_bundle(frame)
    frame.controls["scaling"].value = "linear"
    assert "0 of 8 pairs" in frame.said and "fastest pair turns 0.25 radians" in frame.said
    assert "up to distance 508." in frame.said and texts(frame.svg).count("✕") == 0


def test_the_hand_of_a_clock_is_seen_on_its_sector_in_both_looks():
    frame = position_dial(head_dim=16, trained=128)
    frame.controls["distance"].value = 1  # the first hand is at 1 radian, and has been everywhere in training
    x, y = 10 * math.sin(1), 10 * math.cos(1)
    for look in LOOKS:
        page = pixels(frame.svg, *look)
        hand, sector = (page[[round(2 * (43 - s * y))], [round(2 * (23 + s * x))]] for s in (1, -1))
        assert contrast(hand, sector) >= 3


def test_alibi_shows_what_each_head_still_sees():
    frame = position_dial(n_head=4, trained=128)
    frame.controls["scheme"].value = ALIBI
    factors = (-64 * alibi_slopes(4).double()).exp().tolist()
    assert f"multiplied by {', '.join(f'{f:.2g}' for f in factors)}:" in frame.said
    assert "head 3, slope 0.00391" in texts(frame.svg)
    assert_readable(frame.svg)
    frame.controls["distance"].value = 0
    assert "multiplied by 1, 1, 1, 1:" in frame.said
    assert_harmless(frame)
    assert_bundle(frame)

"""positions: each scheme against its defining property, or values derived by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmkit.attention import document_mask
from llmkit.config import CHOICES, RopeScaling, preset
from llmkit.positions import (
    ALiBi,
    Learned,
    NoPositions,
    RoPE,
    Sinusoidal,
    alibi_slopes,
    attention_factor,
    distances,
    document_positions,
    inverse_frequencies,
    position_embedding,
    rotate,
    sinusoids,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- RoPE ----------------------------------------------------------------------------------------------------------


def test_rotate_is_multiplication_by_unit_complex_numbers():
    rope = RoPE(head_dim=8, context_length=32, theta=100.0)
    x = normal(1, 32, 3, 8)
    pairs = torch.complex(x[..., :4], x[..., 4:]).to(torch.complex128)  # (1, 32, 3, 4)
    frequencies = 100.0 ** (-2 * torch.arange(4, dtype=torch.float64) / 8)
    angle = torch.outer(torch.arange(32, dtype=torch.float64), frequencies)[None, :, None]
    expected = pairs * torch.polar(torch.ones_like(angle), angle)
    got = rotate(x, *rope.angles(slice(0, 32), 3))
    torch.testing.assert_close(got, torch.cat((expected.real, expected.imag), -1).float())


@pytest.mark.parametrize("scaling", [None, RopeScaling("yarn", 8.0, original_context=4)], ids=["plain", "yarn"])
def test_the_gradient_of_rotate(scaling):
    angles = RoPE(head_dim=6, context_length=4, scaling=scaling).double().angles(slice(0, 4), 2)
    x = torch.randn(2, 4, 2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotate(x, *angles), x)


def test_scores_depend_on_distance_only():
    rope = RoPE(head_dim=16, context_length=100)
    q, k = normal(1, 1, 1, 16, seed=1), normal(1, 1, 1, 16, seed=2)

    def score(m, n):
        at_m, at_n = rope.angles(torch.tensor([[m]]), 1), rope.angles(torch.tensor([[n]]), 1)
        return (rotate(q, *at_m) * rotate(k, *at_n)).sum()

    torch.testing.assert_close(score(10, 3), score(97, 90))
    assert abs(score(10, 3) - score(10, 4)) > 1e-3


def test_positions_may_differ_between_rows():
    rope = RoPE(head_dim=4, context_length=10)
    x = normal(2, 3, 1, 4, seed=2)
    ragged = rotate(x, *rope.angles(torch.tensor([[0, 1, 2], [5, 6, 7]]), 1))
    torch.testing.assert_close(ragged[:1], rotate(x[:1], *rope.angles(slice(0, 3), 1)))
    torch.testing.assert_close(ragged[1:], rotate(x[1:], *rope.angles(slice(5, 8), 1)))


@pytest.mark.parametrize("name", [n for n in CHOICES["positions"] if n != "learned"])
def test_the_tables_are_no_part_of_the_weights(name):
    scheme = position_embedding(preset("nano", positions=name))
    assert not scheme.state_dict() and not list(scheme.parameters())


# --- RoPE stretched ------------------------------------------------------------------------------------------------


def test_linear_scaling_squeezes_positions():
    plain, stretched = RoPE(8, 16), RoPE(8, 64, scaling=RopeScaling("linear", 4.0))
    assert torch.equal(stretched.cos[::4], plain.cos)
    assert torch.equal(stretched.sin[::4], plain.sin)


def test_ntk_scaling_keeps_the_fastest_pair_and_stretches_the_slowest():
    plain, ntk = inverse_frequencies(16, 10_000.0), inverse_frequencies(16, 10_000.0, RopeScaling("ntk", 8.0))
    assert ntk[0] == plain[0] == 1
    torch.testing.assert_close(ntk[-1], plain[-1] / 8)
    larger_theta = 10_000.0 * 8 ** (16 / 14)  # as it was first posted
    torch.testing.assert_close(ntk, inverse_frequencies(16, larger_theta))


def test_llama3_scaling_by_hand():
    # theta 4^8 and D 16: pair i turns by 4^-i. Over 2 pi * 16 tokens it turns 16 / 4^i times: 16, 4, 1, 1/4, ...
    # Above 4 turns it is kept, below 1 divided by 10; with beta_fast 7, 4 turns are half way from 1 to 7.
    def kept(i, **beta):
        scaling = RopeScaling("llama3", 10.0, original_context=round(2 * math.pi * 16), **beta)
        return (inverse_frequencies(16, 4.0**8, scaling) * 4.0 ** torch.arange(8))[i].item()

    assert [kept(i) for i in (0, 2, 3, 7)] == pytest.approx([1, 0.1, 0.1, 0.1], abs=0.01)
    assert kept(1, beta_fast=7.0) == pytest.approx((1 + 0.1) / 2, abs=0.01)


def test_yarn_scaling_by_hand():
    # The same pairs, trained on 2 pi * 64 tokens: pair i turns 64 / 4^i times, so 32 turns fall on i = 1/2, rounded
    # down to 0, and 1 turn on i = 3 (rounded up from just below). Between them the kept part falls from all to none.
    scaling = RopeScaling("yarn", 10.0, original_context=402)
    ratio = inverse_frequencies(16, 4.0**8, scaling) * 4.0 ** torch.arange(8)
    expected = [kept + (1 - kept) / 10 for kept in (1, 2 / 3, 1 / 3, 0, 0, 0, 0, 0)]
    torch.testing.assert_close(ratio, torch.tensor(expected, dtype=torch.float64))


def test_yarn_sharpens_attention_by_the_square_of_its_factor():
    scaling = RopeScaling("yarn", 16.0, original_context=32)
    assert attention_factor(scaling) == pytest.approx(0.1 * math.log(16) + 1)
    assert attention_factor(RopeScaling("yarn", 16.0, 32, attention_factor=1.5)) == 1.5
    assert attention_factor(RopeScaling("ntk", 16.0)) == attention_factor(None) == 1.0
    angles = RoPE(8, 40, scaling=scaling).angles(slice(0, 40), 1)
    x = normal(1, 40, 1, 8)
    torch.testing.assert_close(rotate(x, *angles).norm(dim=-1), attention_factor(scaling) * x.norm(dim=-1))


@given(
    kind=st.sampled_from(["linear", "ntk", "yarn", "llama3"]),
    factor=st.floats(1.0, 100.0),
    head_dim=st.sampled_from([4, 16, 64, 128]),
    theta=st.sampled_from([100.0, 10_000.0, 1e6]),
    original=st.integers(1, 100_000),
)
def test_every_pair_is_slowed_by_no_more_than_the_factor(kind, factor, head_dim, theta, original):
    scaling = RopeScaling(kind, factor, original if kind in ("yarn", "llama3") else None)
    plain, stretched = inverse_frequencies(head_dim, theta), inverse_frequencies(head_dim, theta, scaling)
    assert (stretched <= plain * (1 + 1e-9)).all() and (stretched >= plain / factor * (1 - 1e-9)).all()
    assert (stretched.diff() < 0).all()  # still from fast to slow
    if factor == 1:
        torch.testing.assert_close(stretched, plain)


# --- Positions in the embeddings -----------------------------------------------------------------------------------


def test_learned_positions_are_added():
    learned = Learned(context_length=6, d_model=4)
    with torch.no_grad():
        learned.weight.copy_(normal(6, 4))
    x = normal(2, 3, 4, seed=1)
    torch.testing.assert_close(learned.embed(x, slice(2, 5)), x + learned.weight[2:5])
    torch.testing.assert_close(learned.embed(x, torch.tensor([[0, 1, 2], [3, 4, 5]]))[1], x[1] + learned.weight[3:])
    learned.embed(x, slice(2, 5)).sum().backward()
    assert learned.weight.grad[:, 0].tolist() == [0, 0, 2, 2, 2, 0]


def test_sinusoids_by_hand():
    table = sinusoids(context_length=8, d_model=4)
    assert table.shape == (8, 4)
    expected = [math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]
    torch.testing.assert_close(table[3], torch.tensor(expected))


def test_a_shift_of_sinusoids_is_the_same_rotation_everywhere():
    table = sinusoids(context_length=50, d_model=6).double()
    turned = torch.linalg.lstsq(table[:40], table[7:47]).solution  # one matrix for all positions
    torch.testing.assert_close(table[:40] @ turned, table[7:47], atol=1e-5, rtol=0)


def test_sinusoidal_positions_stand_to_embeddings_as_in_the_paper():
    # there: unit embeddings (0.02 each, were they ours) and waves of mean square 1/2
    added = Sinusoidal(context_length=200, d_model=64).embed(torch.zeros(1, 200, 64), slice(0, 200))
    assert added.square().mean().sqrt().item() == pytest.approx(0.02 / math.sqrt(2), rel=1e-5)


def test_positions_restart_with_each_document():
    doc_ids = torch.tensor([[4, 4, 4, 1, 1, 7], [0, 2, 2, 2, 2, 2]])
    assert document_positions(doc_ids).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]]


@pytest.mark.parametrize("name", ["learned", "sinusoidal"])
def test_packed_documents_get_the_positions_of_each_alone(name):
    scheme = position_embedding(preset("nano", positions=name))
    with torch.no_grad():
        for weight in scheme.parameters():
            weight.normal_()
    x, doc_ids = normal(1, 7, 64), torch.tensor([[0, 0, 0, 5, 5, 5, 5]])
    packed = scheme.embed(x, slice(0, 7), doc_ids)
    torch.testing.assert_close(packed[:, :3], scheme.embed(x[:, :3], slice(0, 3)))
    torch.testing.assert_close(packed[:, 3:], scheme.embed(x[:, 3:], slice(0, 4)))


# --- ALiBi ---------------------------------------------------------------------------------------------------------


def test_alibi_slopes_by_hand():
    assert alibi_slopes(8).tolist() == [2.0**-h for h in range(1, 9)]
    assert alibi_slopes(1).tolist() == [2.0**-8]
    torch.testing.assert_close(alibi_slopes(3), torch.tensor([2.0**-4, 2.0**-8, 2.0**-2]))


def test_alibi_bias_by_hand():
    inf = math.inf
    bias = ALiBi(n_head=2).bias(slice(0, 3), None)  # slopes 1/16 and 1/256
    assert bias.shape == (1, 2, 3, 3)
    expected = torch.tensor([[0, -inf, -inf], [-1, 0, -inf], [-2, -1, 0]])
    assert torch.equal(bias[0, 0] * 16, expected) and torch.equal(bias[0, 1] * 256, expected)


def test_alibi_keeps_what_the_mask_hides_hidden():
    mask = document_mask(torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]]))
    bias = ALiBi(n_head=4).bias(slice(0, 4), mask)  # (2, 4, 4, 4)
    assert torch.equal(bias.isfinite(), mask.expand_as(bias))
    assert (bias[1, :, 3, 1] == -2 * alibi_slopes(4)).all()


def test_distances_of_a_continued_text_and_of_ragged_rows():
    assert distances(slice(3, 4), None, "cpu").tolist() == [[[[3, 2, 1, 0]]]]
    mask = torch.ones(2, 1, 1, 4, dtype=torch.bool)
    assert distances(torch.tensor([[3], [1]]), mask, "cpu").tolist() == [[[[3, 2, 1, 0]]], [[[1, 0, -1, -2]]]]


def test_no_positions_change_nothing():
    scheme, x = NoPositions(), normal(1, 2, 4)
    assert scheme.embed(x, slice(0, 2)) is x
    assert scheme.angles(slice(0, 2), 4) is None
    assert scheme.bias(slice(0, 2), None) is None


def test_a_mask_becomes_what_is_added_to_scores():
    added = NoPositions().bias(slice(0, 2), torch.tensor([[[[True, False], [True, True]]]]), torch.float64)
    assert added.tolist() == [[[[0.0, -math.inf], [0.0, 0.0]]]] and added.dtype == torch.float64

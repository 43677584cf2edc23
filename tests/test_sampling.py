"""Sampling: each filter by hand, extremes, errors, and draws that follow the probabilities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit import sampling
from llmkit.sampling import filter_logits, sample

NEG_INF = float("-inf")
PROBS = torch.tensor([0.5, 0.25, 0.15, 0.1])


def kept(logits):
    return logits.isfinite().nonzero().flatten().tolist()


def test_each_stage_by_hand():
    logits = PROBS.log()
    assert kept(sampling.keep_top_k(logits, 2)) == [0, 1]
    assert kept(sampling.keep_top_p(logits, 0.74)) == [0, 1]  # 0.5 is too little, 0.75 enough
    assert kept(sampling.keep_top_p(logits, 0.76)) == [0, 1, 2]
    assert kept(sampling.keep_min_p(logits, 0.29)) == [0, 1, 2]  # 0.15 / 0.5 = 0.3
    assert kept(sampling.keep_min_p(logits, 0.31)) == [0, 1]
    hot = sampling.scale_temperature(logits, 2.0).softmax(-1)
    torch.testing.assert_close(hot, PROBS.sqrt() / PROBS.sqrt().sum())


def test_filters_see_what_the_filter_before_them_left():
    logits = PROBS.log()
    # Among the top 2 the first has 2/3, so a nucleus of 0.6 is that one; without top-k it would need two.
    assert kept(filter_logits(logits, top_k=2, top_p=0.6)) == [0]
    assert kept(filter_logits(logits, top_p=0.6)) == [0, 1]
    # A temperature of 2 flattens before min-p looks: 0.1 / 0.5 = 0.2 becomes √0.2 = 0.45.
    assert kept(filter_logits(logits, min_p=0.4)) == [0, 1]
    assert kept(filter_logits(logits, temperature=2.0, min_p=0.4)) == [0, 1, 2, 3]


def test_survivors_keep_their_logits():
    logits = torch.randn(3, 9)
    out = filter_logits(logits, top_k=4, top_p=0.8, min_p=0.1)
    assert torch.equal(out[out.isfinite()], logits[out.isfinite()])


def test_ties_with_the_kth_logit_stay():
    assert kept(sampling.keep_top_k(torch.tensor([1.0, 2.0, 1.0, 0.0]), 2)) == [0, 1, 2]


def test_temperature_zero_is_greedy_even_among_ties():
    logits = torch.tensor([[1.0, 3.0, 3.0], [2.0, NEG_INF, 0.0]])
    out = filter_logits(logits, temperature=0, top_p=0.9)
    assert out.tolist() == [[NEG_INF, 3.0, NEG_INF], [2.0, NEG_INF, NEG_INF]]
    assert sample(logits, temperature=0).tolist() == [1, 0]


@settings(max_examples=200, deadline=None)
@given(
    row=st.lists(st.floats(width=32, allow_nan=False).filter(lambda x: x != math.inf), min_size=1, max_size=8),
    temperature=st.one_of(st.just(0), st.sampled_from([5e-324, 1e-320, 1e-38, 1e300]), st.floats(1e-300, 1e308)),
    top_k=st.one_of(st.none(), st.integers(1, 9)),
    top_p=st.one_of(st.none(), st.floats(0, 1)),
    min_p=st.one_of(st.none(), st.floats(0, 1)),
)
def test_never_nan_and_the_best_token_stays(row, temperature, top_k, top_p, min_p):
    if max(row) == NEG_INF:
        row = [*row, 0.0]
    logits = torch.tensor(row)
    probs = filter_logits(logits, temperature, top_k, top_p, min_p).softmax(-1)
    assert not probs.isnan().any()
    assert probs.sum().item() == pytest.approx(1, abs=1e-5)
    unfiltered = sampling.scale_temperature(logits, temperature).softmax(-1)
    assert unfiltered[probs.argmax()] == unfiltered.max()
    assert (probs[logits == NEG_INF] == 0).all()


def test_rows_do_not_touch_each_other():
    logits = torch.randn(2, 3, 33, generator=torch.Generator().manual_seed(1)) * 4
    whole = filter_logits(logits, 0.7, 20, 0.9, 0.02)
    for i in range(2):
        for j in range(3):
            assert torch.equal(whole[i, j], filter_logits(logits[i, j], 0.7, 20, 0.9, 0.02))
    assert filter_logits(logits[:0]).shape == (0, 3, 33)


def test_input_is_left_alone_and_half_precision_is_lifted():
    logits = torch.randn(2, 8)
    before = logits.clone()
    filter_logits(logits, 0.5, 3, 0.5, 0.5)
    assert torch.equal(logits, before)
    assert filter_logits(logits.bfloat16()).dtype == torch.float32
    assert filter_logits(logits.double()).dtype == torch.float64


def test_draws_follow_the_filtered_probabilities():
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0, 0.5])
    n = 40_000
    draws = sample(logits.expand(n, 5), 0.8, top_k=4, generator=torch.Generator().manual_seed(3))
    expected = filter_logits(logits, 0.8, top_k=4).softmax(-1) * n
    counts = draws.bincount(minlength=5)
    assert counts[3] == 0  # filtered out
    alive = expected > 0
    chi2 = ((counts - expected)[alive] ** 2 / expected[alive]).sum()
    assert chi2 < 16.3  # 3 degrees of freedom: exceeded once in a thousand


def test_the_generator_alone_decides():
    logits = torch.randn(4, 50)
    first = sample(logits, generator=torch.Generator().manual_seed(7))
    torch.rand(3)
    assert torch.equal(first, sample(logits, generator=torch.Generator().manual_seed(7)))
    assert sample(logits[0]).shape == ()
    assert sample(logits.view(2, 2, 50)).shape == (2, 2)


@pytest.mark.parametrize(
    "bad, named",
    [
        (dict(temperature=-0.1), "temperature"),
        (dict(temperature=float("nan")), "temperature"),
        (dict(temperature=float("inf")), "temperature"),
        (dict(temperature=None), "temperature"),
        (dict(temperature=True), "temperature"),
        (dict(top_k=0), "top_k"),
        (dict(top_k=-1), "top_k"),
        (dict(top_k=2.5), "top_k"),
        (dict(top_k=True), "top_k"),
        (dict(top_p=1.5), "top_p"),
        (dict(top_p=-0.1), "top_p"),
        (dict(top_p=float("nan")), "top_p"),
        (dict(min_p=2), "min_p"),
        (dict(min_p="0.1"), "min_p"),
        (dict(temperature=0, min_p=7), "min_p"),
    ],
)
def test_bad_parameters_are_named(bad, named):
    for function in (filter_logits, sample):
        with pytest.raises(ValueError, match=named):
            function(torch.zeros(1, 4), **bad)


@pytest.mark.parametrize("row", [[float("nan"), 0.0], [float("inf"), 0.0], [NEG_INF, NEG_INF]])
def test_a_row_without_a_distribution_is_an_error(row):
    for function in (filter_logits, sample):
        for temperature in (1.0, 0):
            with pytest.raises(ValueError, match="row of logits"):
                function(torch.tensor([[0.0, 0.0], row]), temperature)


@pytest.mark.parametrize("logits", [torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 0), torch.tensor(1.0)])
def test_bad_logits_are_named(logits):
    for function in (filter_logits, sample):
        for temperature in (1.0, 0):
            with pytest.raises(ValueError, match="logits must be"):
                function(logits, temperature)

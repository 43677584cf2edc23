"""attention: the definition against a hand-derived case, and the fused kernel against the definition."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from llmkit.attention import (
    Linear,
    attention,
    causal_mask,
    document_mask,
    fused_attention,
    sliding_window_mask,
)
from llmkit.positions import ALiBi


def qkv(b=2, h=4, k=2, t=7, s=7, d=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(b, n, m, d, generator=g, dtype=torch.float64) for n, m in ((h, t), (k, s), (k, s)))


def test_two_tokens_by_hand():
    # q2 . k1 / sqrt(1) = 0, q2 . k2 = ln 3: the second token looks 1/4 at the first, 3/4 at itself.
    q = torch.tensor([[[[5.0], [1.0]]]])
    k = torch.tensor([[[[0.0], [math.log(3)]]]])
    v = torch.tensor([[[[8.0], [4.0]]]])
    out, att = attention(q, k, v)
    torch.testing.assert_close(att[0, 0], torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
    torch.testing.assert_close(out[0, 0], torch.tensor([[8.0], [5.0]]))


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_fused_equals_the_definition(n_kv_head):
    q, k, v = qkv(k=n_kv_head)
    torch.testing.assert_close(fused_attention(q, k, v), attention(q, k, v)[0])
    mask = torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    mask |= torch.eye(7, dtype=torch.bool)
    torch.testing.assert_close(fused_attention(q, k, v, mask), attention(q, k, v, mask)[0])


@pytest.mark.parametrize("t", [1, 3, 8, 9])
def test_without_a_mask_the_queries_are_the_last(t):
    q, k, v = qkv(t=t, s=9)
    torch.testing.assert_close(fused_attention(q, k, v), attention(q, k, v)[0])


@given(
    n_kv_head=st.sampled_from([1, 2, 4]),
    s=st.integers(1, 12),
    t=st.integers(1, 12),
    window=st.none() | st.integers(1, 12),
    alibi=st.booleans(),
    seed=st.integers(0, 99),
)
def test_fused_equals_the_definition_under_every_mask(n_kv_head, s, t, window, alibi, seed):
    """MHA, GQA and MQA; the last t of s tokens, in two rows of different length; windows; ALiBi; and gradients."""
    t = min(t, s)
    positions = torch.arange(s - t, s) - torch.tensor([[0], [min(2, s - t)]])  # (2, T): the second row may be shorter
    mask = (torch.arange(s) <= positions[:, :, None])[:, None]  # (2, 1, T, S)
    mask = mask if window is None else sliding_window_mask(positions, mask, window)
    mask = ALiBi(n_head=4).bias(positions, mask, torch.float64) if alibi else mask
    inputs = [x.requires_grad_() for x in qkv(k=n_kv_head, t=t, s=s, seed=seed)]
    plain, fused = attention(*inputs, mask)[0], fused_attention(*inputs, mask)
    torch.testing.assert_close(fused, plain)
    for a, b in zip(*(torch.autograd.grad(out.square().sum(), inputs) for out in (fused, plain)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("n_kv_head", [1, 4])
def test_one_new_token_sees_every_key(n_kv_head):
    q, k, v = qkv(k=n_kv_head, t=1, s=9)
    out, att = attention(q, k, v)
    assert (att > 0).all()
    torch.testing.assert_close(fused_attention(q, k, v), out)


def test_one_new_token_in_the_layout_of_cudas_kernels(monkeypatch):
    """The memory-efficient one returns a view of (B, T, H, D) memory, so that heads and queries cannot be joined."""
    kernel, (q, k, v) = F.scaled_dot_product_attention, qkv(t=1, s=9)

    def efficient(*args, **kwargs):
        return kernel(*args, **kwargs).transpose(1, 2).contiguous().transpose(1, 2)

    meta = [x.to("meta") for x in (q.view(2, 2, 2, 8), k, v)]
    theirs, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(*meta, None, False)
    assert efficient(q.view(2, 2, 2, 8), k, v).stride() == theirs.stride()
    monkeypatch.setattr(F, "scaled_dot_product_attention", efficient)
    torch.testing.assert_close(fused_attention(q, k, v), attention(q, k, v)[0])


@pytest.mark.parametrize("shape", [(1, 9), (4, 1, 9), (1, 4, 1, 9), (2, 1, 1, 9), (2, 4, 1, 9)], ids=str)
def test_one_new_token_under_masks_of_any_shape(shape):
    q, k, v = qkv(t=1, s=9)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    torch.testing.assert_close(fused_attention(q, k, v, mask), attention(q, k, v, mask)[0])


def test_each_query_head_reads_its_own_group():
    q, k, v = qkv(h=4, k=2)
    out, _ = attention(q, k, v)
    v2 = v.clone()
    v2[:, 1] += 1.0
    changed = (attention(q, k, v2)[0] != out).flatten(2).any(-1)  # (B, H)
    assert changed.tolist() == [[False, False, True, True]] * 2


@pytest.mark.parametrize("fn", [lambda *a: attention(*a)[0], fused_attention], ids=["definition", "fused"])
@pytest.mark.parametrize("additive", [False, True], ids=["bool", "numbers"])
def test_a_row_that_may_look_nowhere_is_zero_not_nan(fn, additive):
    q, k, v = (x.requires_grad_() for x in qkv())
    mask = causal_mask(7).clone()
    mask[3] = False
    mask = torch.zeros(7, 7, dtype=torch.float64).masked_fill(~mask, -torch.inf) if additive else mask
    out = fn(q, k, v, mask)
    assert (out[:, :, 3] == 0).all() and out.isfinite().all()
    out.sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


def test_document_mask_is_causal_inside_each_document():
    mask = document_mask(torch.tensor([[7, 7, 2, 2, 2]]))[0, 0]
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert mask.int().tolist() == expected


def test_sliding_window_by_hand():
    mask = sliding_window_mask(slice(0, 5), None, window=2)
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]
    assert mask.shape == (1, 1, 5, 5) and mask[0, 0].int().tolist() == expected
    assert sliding_window_mask(slice(0, 5), None, window=5) is None
    one_token = sliding_window_mask(slice(4, 5), None, window=3)  # decoding: one query, five keys
    assert one_token.int().tolist() == [[[[0, 0, 1, 1, 1]]]]


def test_sliding_window_inside_documents():
    mask = document_mask(torch.tensor([[7, 7, 7, 2, 2]]))
    narrowed = sliding_window_mask(slice(0, 5), mask, window=2)[0, 0]
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    assert narrowed.int().tolist() == expected


@pytest.mark.parametrize("bias", [False, True])
def test_linear_is_nn_linear(bias):
    ours, theirs, x = Linear(3, 5, bias), torch.nn.Linear(3, 5, bias), torch.randn(2, 3)
    assert [name for name, _ in ours.named_parameters()] == ["weight", "bias"][: 1 + bias]
    with torch.no_grad():
        for p in ours.parameters():
            p.normal_()
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    ours.compute_dtype = torch.bfloat16
    assert ours(x).dtype == torch.bfloat16
    torch.testing.assert_close(ours(x).float(), theirs(x), atol=0.05, rtol=0.05)

"""Each hand-written gradient against autograd's of the plain definition."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from llmkit.attention import attention, document_mask, sliding_window_mask
from llmkit.kernels import BLOCK, MANY, block_causal_attention, cross_entropy, linear, n_scores, rms_norm, swiglu
from llmkit.positions import ALiBi, NoPositions


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


def assert_same(ours, plain, inputs):
    torch.testing.assert_close(ours, plain)
    weights = randn(*ours.shape, seed=1).detach()
    grads = (torch.autograd.grad((out * weights).sum(), inputs) for out in (ours, plain))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("rows", [3, 2 * MANY])
def test_linear(rows, with_bias, by_columns):
    x, weight, bias = (randn(*shape).detach().float() for shape in ((2, rows, 8), (5, 8), (5,)))
    weight = weight.t().contiguous().t() if by_columns else weight
    inputs = [t.requires_grad_() for t in (x, weight, bias)][: 2 + with_bias]
    ours, plain = linear(*inputs), F.linear(*inputs)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    grads = [torch.autograd.grad(out.square().sum(), inputs) for out in (ours, plain)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)
    assert grads[0][1].stride() == weight.stride()


def test_linear_leaves_frozen_weights_alone():
    x, weight = randn(MANY, 8).detach().float().requires_grad_(), torch.ones(5, 8)
    linear(x, weight).sum().backward()
    assert x.grad.eq(5).all() and weight.grad is None


@pytest.mark.parametrize("shape", [(6,), (3, 6)], ids=["one weight", "a weight a head"])
def test_rms_norm(shape):
    x, weight = randn(2, 4, 3, 6), randn(*shape, seed=2)
    assert_same(rms_norm(x, weight, 1e-3), F.rms_norm(x, (6,), eps=1e-3) * weight, (x, weight))
    assert gradcheck(lambda x, w: rms_norm(x, w, 1e-3), (x, weight))


@pytest.mark.parametrize("trains", [False, True])
def test_rms_norm_in_bfloat16_puts_no_whole_row_wrong(trains):
    x, weight = randn(500, 64).detach().bfloat16(), torch.ones(64)
    exact = F.rms_norm(x.double(), (64,), eps=1e-6)
    with torch.set_grad_enabled(trains):
        ours = rms_norm(x, weight, 1e-6)
    assert ours.dtype == torch.bfloat16
    size = (ours.double() * exact).sum(-1) / exact.square().sum(-1)  # 1 but for the rounding of the single numbers
    assert (size - 1).abs().mean() < 1e-3


def test_swiglu():
    gate_up = randn(2, 3, 10)
    gate, up = gate_up.chunk(2, dim=-1)
    assert_same(swiglu(gate_up), F.silu(gate) * up, (gate_up,))
    assert gradcheck(swiglu, gate_up)
    with torch.no_grad():
        torch.testing.assert_close(swiglu(gate_up), F.silu(gate) * up)


def biases(t):
    doc_ids = torch.arange(t).expand(2, -1) // 50
    window = sliding_window_mask(slice(0, t), None, 20)
    return {
        "causal": None,
        "documents": NoPositions().bias(None, document_mask(doc_ids), torch.float64),
        "window": NoPositions().bias(None, window, torch.float64),
        "ALiBi": ALiBi(n_head=4).bias(slice(0, t), None, torch.float64),
        "ALiBi in documents": ALiBi(n_head=4).bias(slice(0, t), document_mask(doc_ids), torch.float64),
    }


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
@pytest.mark.parametrize("t", [1, 7, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
@pytest.mark.parametrize("kind", biases(70))
def test_attention_in_blocks(n_kv_head, t, kind):
    inputs = randn(2, 4, t, 8), randn(2, n_kv_head, t, 8, seed=2), randn(2, n_kv_head, t, 8, seed=3)
    mask = biases(t)[kind]
    assert_same(block_causal_attention(*inputs, mask), attention(*inputs, mask)[0], inputs)


def test_attention_in_blocks_reads_views():
    heads = randn(2, 70, 8, 4)  # (B, T, H + 2K, D), as one product gives them
    q, k, v = heads.transpose(1, 2).split((4, 2, 2), dim=1)
    assert_same(block_causal_attention(q, k, v), attention(q, k, v)[0], (heads,))


def test_cross_entropy():
    logits, targets = randn(9, 5), torch.tensor([0, 4, -100, 2, -100, 1, 1, 3, 0])
    assert_same(cross_entropy(logits, targets), F.cross_entropy(logits, targets), (logits,))
    assert gradcheck(lambda x: cross_entropy(x, targets), logits)
    with torch.no_grad():
        torch.testing.assert_close(cross_entropy(logits, targets), F.cross_entropy(logits, targets))


def test_a_very_unlikely_target_has_a_finite_price():
    logits = torch.tensor([[0.0, -200.0]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([1]))
    loss.backward()
    assert loss.item() == 200.0 and logits.grad.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("t", [1, BLOCK, BLOCK + 3, 2 * BLOCK])
def test_the_scores_kept_are_counted(t):
    kept = []
    inputs = [randn(1, 2, t, 4, seed=seed) for seed in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        block_causal_attention(*inputs)
    assert sum(x.numel() for x in kept) == 2 * n_scores(t) + 4 * 2 * t * 4  # q, k, v, out

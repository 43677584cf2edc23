"""Training on a CPU, with fewer passes over memory and faster products: functions whose gradient is written by hand.

Each is equal to its plain definition, value and gradient (tests/test_kernels.py), and stands in for it where autograd
would take many small steps over large tensors, or PyTorch's kernel is made for another machine:

    linear         x W^T + b
    rms_norm       x / sqrt(mean(x^2) + eps) * weight       (arXiv 1910.07467)
    swiglu         silu(gate) * up                          (arXiv 2002.05202)
    block_causal_attention   softmax(q k^T / sqrt(D)) v     (arXiv 1706.03762; in blocks as arXiv 2205.14135, see there)
    cross_entropy  -log softmax(logits)[target]

On a GPU these are PyTorch's own functions, and without gradients too, except that `rms_norm` on a CPU then takes a
shorter way. (There is no need of `block_causal_attention` in either case.)

Shapes: B batch, T query time, H query heads, K key/value heads, G = H/K, D head_dim, F d_ff, V vocab.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

BLOCK = 64  # queries to a block of attention; 32 to 128 are about as fast
LONGEST = 1024  # tokens, for attention in blocks: beyond, the weights that it keeps take more memory than time is worth
MANY = 256  # rows from which on oneDNN's product is worth its preparation


def linear(x, weight, bias=None):
    """x (..., n) times weight (m, n) -> (..., m), plus the bias (m,).

    PyTorch carries two libraries for products in float32, and calls MKL, which uses half the width of an AMD
    processor's vectors. In training, oneDNN takes two of a layer's three products in 0.7 of the time.
    """
    many = x.is_cpu and x.dtype == weight.dtype == torch.float32 and x.numel() >= MANY * x.shape[-1]
    if many and torch.is_grad_enabled() and _onednn() is not None:
        return _Linear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


@cache
def _onednn():
    """The product that torch.compile uses, x W^T + b; None where PyTorch was built without it or it gains nothing."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return None
    product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return product and (lambda x, weight, bias: product(x, weight, bias, "none", [], ""))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        rows = x.reshape(-1, x.shape[-1])  # (N, n)
        ctx.save_for_backward(rows, weight)
        return _onednn()(rows, weight.detach(), bias).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (rows, weight), shape = ctx.saved_tensors, grad.shape[:-1]
        grad, (need_x, need_weight, need_bias) = grad.reshape(-1, grad.shape[-1]), ctx.needs_input_grad
        grad_x = _onednn()(grad, weight.t(), None).view(*shape, -1) if need_x else None
        grad_weight = None
        if need_weight:  # laid out in memory as the weight is
            grad_weight = grad.t() @ rows if weight.is_contiguous() else (rows.t() @ grad).t()
        return grad_x, grad_weight, grad.sum(0) if need_bias else None


def rms_norm(x, weight, eps):
    """x (..., n) over its last dimension; the weight (n,), or one for each head, (H, n)."""
    weight = weight.to(x.dtype)
    if not x.is_cpu:
        return F.rms_norm(x, x.shape[-1:], eps=eps) * weight
    if torch.is_grad_enabled():
        return _RMSNorm.apply(x, weight, eps)
    return (x * weight).mul_(_inverse_rms(x, eps))


def _inverse_rms(x, eps):
    """In float32 at least: rounded to bfloat16 it would put all numbers of a row wrong by the same half percent."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return torch.addcmul(norm.new_full((), eps), norm, norm, value=1 / x.shape[-1]).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    """With r = 1 / rms(x), n = x r and g the gradient:  dw = sum(g n),  dx = r (g w - n mean(g w n))."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        r = _inverse_rms(x, eps)
        n = (x * r).to(x.dtype)
        ctx.save_for_backward(n, r, weight)
        return n * weight

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        n, r, weight = ctx.saved_tensors
        grad_n = grad * weight
        mean = torch.linalg.vecdot(grad_n, n).unsqueeze(-1).div_(n.shape[-1])
        return grad_n.addcmul_(n, mean, value=-1).mul_(r), (grad * n).sum_to_size(weight.shape), None


def swiglu(gate_up):
    """gate_up (..., 2 F), the gates first -> (..., F)."""
    if gate_up.is_cpu and torch.is_grad_enabled():
        return _SwiGLU.apply(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


class _SwiGLU(torch.autograd.Function):
    """Both gradients go straight into the halves of one tensor; autograd would make two and then join them."""

    @staticmethod
    def forward(ctx, gate_up):
        gate, up = gate_up.chunk(2, dim=-1)
        opened = F.silu(gate)
        ctx.save_for_backward(gate_up, opened)
        return opened * up

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        gate_up, opened = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        torch.mul(grad, opened, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grad_gate_up


def n_scores(t: int) -> int:
    """How many scores a head computes, and keeps, for a text of t tokens: t (t + BLOCK) / 2 if t is whole blocks."""
    whole, rest = divmod(t, BLOCK)
    return BLOCK**2 * whole * (whole + 1) // 2 + rest * t


def block_causal_attention(q, k, v, mask=None):
    """Causal attention of q (B, H, T, D) over k and v (B, K, T, D): (B, H, T, D), laid out as (B, T, H, D).

    BLOCK queries at a time look at the keys up to the last of them, so that half of the scores is never computed. The
    attention weights are kept for the gradient, not recomputed as in arXiv 2205.14135: at T = 512 that takes two thirds
    of the time of PyTorch's fused CPU kernel, and 4 B H n_scores(T) bytes. `mask` (B or 1, H or 1, T, T) is added
    to the scores; it must hide what lies ahead, and leave every query something to look at. None: causal order alone.
    """
    return _BlockCausalAttention.apply(q, k, v, mask)


class _BlockCausalAttention(torch.autograd.Function):
    """With P = softmax(S):  dV = P^T dO,  dS = P * (dO V^T - sum(dO * O)),  dQ = dS K,  dK = dS^T Q."""

    @staticmethod
    def forward(ctx, q, k, v, mask):
        B, H, T, D = q.shape
        keys, values = _keys_and_values(k, v)
        out = q.new_empty(B, T, H, D).transpose(1, 2)  # (B, H, T, D)
        probs = []
        for start in range(0, T, BLOCK):
            stop = min(start + BLOCK, T)
            scores = torch.bmm(_rows(q, k, start, stop), keys[:, :stop].mT)  # (B K, G n, stop)
            _hide(scores.view(B, H, stop - start, stop), mask, start, stop)
            probs.append(scores.softmax(-1))
            out[:, :, start:stop] = torch.bmm(probs[-1], values[:, :stop]).view(B, H, stop - start, D)
        ctx.save_for_backward(q, k, v, out, *probs)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, out, *probs = ctx.saved_tensors
        (T, D), (keys, values) = q.shape[2:], _keys_and_values(k, v)
        grad_q, grad_keys, grad_values = torch.empty_like(q), torch.zeros_like(keys), torch.zeros_like(values)
        along = torch.linalg.vecdot(grad, out)  # (B, H, T)
        for start, p in zip(range(0, T, BLOCK), probs, strict=True):
            stop = min(start + BLOCK, T)
            grad_out = _rows(grad, k, start, stop)  # (B K, G n, D)
            grad_values[:, :stop] += torch.bmm(p.mT, grad_out)
            grad_scores = torch.bmm(grad_out, values[:, :stop].mT)  # (B K, G n, stop)
            grad_scores.sub_(along[:, :, start:stop].reshape(*grad_out.shape[:2], 1)).mul_(p)
            grad_q[:, :, start:stop] = torch.bmm(grad_scores, keys[:, :stop]).view_as(grad_q[:, :, start:stop])
            grad_keys[:, :stop] += torch.bmm(grad_scores.mT, _rows(q, k, start, stop))
        return grad_q, grad_keys.mul_(1 / math.sqrt(D)).view(k.shape), grad_values.view(k.shape), None


def _keys_and_values(k, v):
    """2 x (B K, T, D), the keys divided by sqrt(D)."""
    T, D = k.shape[2:]
    return (k * (1 / math.sqrt(D))).reshape(-1, T, D), v.reshape(-1, T, D)


def _rows(x, k, start, stop):
    """Positions start .. stop of x (B, H, T, D), the G heads of a group one below the other: (B K, G n, D)."""
    return x[:, :, start:stop].reshape(len(k) * k.shape[1], -1, x.shape[-1])


def _hide(scores, mask, start, stop):
    """In place, scores (B, H, n, stop) of the queries start .. stop."""
    if mask is not None:
        scores += mask[:, :, start:stop, :stop]
    else:
        ahead = torch.full((stop - start, stop - start), -torch.inf).triu_(1)
        scores[..., start:] += ahead


def cross_entropy(logits, targets, ignore_index=-100):
    """The mean of -log p(target) over the targets that are not `ignore_index`; logits (N, V), targets (N,)."""
    if logits.is_cpu and torch.is_grad_enabled():
        return _CrossEntropy.apply(logits, targets, ignore_index)
    return F.cross_entropy(logits, targets, ignore_index=ignore_index)


class _CrossEntropy(torch.autograd.Function):
    """The gradient is (softmax(logits) - 1 at the target) / n, in one tensor; autograd fills and reads a second one."""

    @staticmethod
    def forward(ctx, logits, targets, ignore_index):
        logprobs = F.log_softmax(logits, dim=-1)
        ctx.ignore_index, ctx.n = ignore_index, (targets != ignore_index).sum()
        ctx.save_for_backward(logprobs, targets)
        return F.nll_loss(logprobs, targets, ignore_index=ignore_index)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        logprobs, targets = ctx.saved_tensors
        counts = (targets != ctx.ignore_index).unsqueeze(-1)  # (N, 1)
        grad_logits = logprobs.exp()
        grad_logits.scatter_add_(1, targets.unsqueeze(-1).clamp_min(0), -counts.to(logprobs.dtype))
        return grad_logits.mul_(counts * (grad / ctx.n)), None, None

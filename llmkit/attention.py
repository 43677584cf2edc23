"""Causal self-attention with grouped heads (arXiv 1706.03762, GQA: arXiv 2305.13245).

    scores = q k^T / sqrt(D);   att = softmax(scores where allowed);   out = att v

`attention` is the definition with everything in sight; `fused_attention` is the same function through PyTorch's fused
kernel, and the one that the model runs (in training on a CPU it runs `kernels.block_causal_attention`). n_kv_head =
n_head is MHA, 1 is MQA, between is GQA. With QK-norm (Qwen3), each head's query and key are RMS-normalised before RoPE,
which bounds the scores. A mask says where a query may look (bool, True: it may), or what is added to its scores (-inf:
it may not), which lets ALiBi in.

Shapes: B batch, T query time, S key time, C d_model, H query heads, K key/value heads, G = H/K, D head_dim.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from llmkit.config import ModelConfig
from llmkit.kernels import LONGEST, block_causal_attention, linear, rms_norm
from llmkit.positions import distances, rotate


def causal_mask(t: int, device=None) -> torch.Tensor:
    """(T, T) bool, True where the query (row) may look at the key (column): at itself and before."""
    return torch.ones(t, t, dtype=torch.bool, device=device).tril()


def document_mask(doc_ids: torch.Tensor) -> torch.Tensor:
    """(B, T) document numbers -> (B, 1, T, T) bool: causal, and only within one's own document.

    Every token may see itself, so no row is empty. Positions go on across documents: RoPE feels only distances.
    """
    same = doc_ids[:, None, :, None] == doc_ids[:, None, None, :]  # (B, 1, T, T)
    return same & causal_mask(doc_ids.shape[1], doc_ids.device)


def sliding_window_mask(positions, mask, window: int, device=None):
    """`mask` (None: causal) narrowed to the last `window` keys of each query, its own included (arXiv 2310.06825):
    (B or 1, 1, T, S) bool. None stays None while no text is longer than the window."""
    if mask is None and positions.stop <= window:
        return None
    distance = distances(positions, mask, device)  # (B or 1, 1, T, S)
    near = distance < window
    return near & (distance >= 0) if mask is None else near & mask


def attention(q, k, v, mask=None):
    """The definition. q (B, H, T, D), k and v (B, K, S, D), mask (bool, or numbers to add) broadcast to (B, H, T, S).

    No mask means causal, the queries being the last T of S tokens. Returns out (B, H, T, D) and att (B, H, T, S).
    A query that may look nowhere gets zeros, not NaN.
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)  # (B, H, S, D)
    if mask is None:
        mask = causal_mask(k.shape[2], q.device)[-q.shape[2] :]
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, S)
    if mask.dtype != torch.bool:
        scores, mask = scores + mask, mask > -torch.inf
    att = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    att = att.masked_fill(~mask.any(dim=-1, keepdim=True), 0.0)
    return att @ v, att


def fused_attention(q, k, v, mask=None):
    """`attention`'s out by the fused kernel, which never holds the (T, S) scores.

    On CUDA that is so where K = H, T = 1, or half precision meets no mask. By PyTorch's documentation (2.13) grouped
    heads have two kernels there: flash, which takes neither a mask nor float32, and the plain one, which holds the
    scores. Packed documents go through that.
    """
    if q.shape[2] == 1:  # decoding: a group's queries see the same keys, so they can be one head's G queries
        q = q.view(k.shape[0], k.shape[1], -1, k.shape[3])  # (B, K, G, D)
        if mask is not None and mask.dim() > 2 and mask.shape[-3] > 1:  # one for each query head
            mask = mask.unflatten(-3, q.shape[1:3]).squeeze(-2)  # ([B or 1,] K, G, S)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # on CUDA perhaps laid out as (B, G, K, D)
        return out.reshape(k.shape[0], -1, 1, k.shape[3])  # (B, H, 1, D)
    if mask is None and q.shape[2] < k.shape[2]:  # the kernel's own causal mask takes the queries for the first T of S
        mask = causal_mask(k.shape[2], q.device)[-q.shape[2] :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


class Linear(nn.Linear):
    """nn.Linear, its (out, in) matrix stored column by column, as `decode` reads it. With a `compute_dtype` (see
    `Transformer.compute_in`) it multiplies, and returns, numbers of that type."""

    compute_dtype = None

    def __init__(self, in_features: int, out_features: int, bias: bool = False):
        super().__init__(in_features, out_features, bias)
        self.weight = nn.Parameter(torch.empty(in_features, out_features).t())

    def forward(self, x):
        dtype = self.compute_dtype
        if dtype is None:
            return linear(x, self.weight, self.bias)
        return F.linear(x.to(dtype), self.weight.to(dtype), self.bias if self.bias is None else self.bias.to(dtype))


class Attention(nn.Module):
    """Attention with its projections: (B, T, C) -> (B, T, C). Query, key and value share one matrix product."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = config.n_head, config.n_kv_head, config.head_dim
        heads = config.n_head + 2 * config.n_kv_head
        self.qkv = Linear(config.d_model, heads * config.head_dim, config.bias)  # rows: queries, keys, values
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.qk_norm = config.qk_norm
        self.out = Linear(config.n_head * config.head_dim, config.d_model, config.bias)

    def forward(self, x, angles=None, mask=None, cache=None, layer=0):
        B, T, _ = x.shape
        heads = self.qkv(x).view(B, T, -1, self.head_dim)  # (B, T, H + 2K, D)
        qk, v = heads.split_with_sizes((self.n_head + self.n_kv_head, self.n_kv_head), dim=2)
        if self.qk_norm:  # queries and keys in one pass, each kind with its own weight
            qk = rms_norm(qk, self.qk_weight(), self.q_norm.eps)
        if angles is not None:
            qk = rotate(qk, *angles)
        qk, v = qk.transpose(1, 2), v.transpose(1, 2)  # (B, H + K or K, T, D)
        q, k = qk.split_with_sizes((self.n_head, self.n_kv_head), dim=1)
        if cache is not None:
            k, v = cache.append(layer, k, v)  # (B, K, S, D)
        trains_on_cpu = q.is_cpu and q.requires_grad and q.dtype == torch.float32 and T <= LONGEST and cache is None
        attend = block_causal_attention if trains_on_cpu else fused_attention
        out = attend(q, k, v, mask)  # (B, H, T, D)
        return self.out(out.transpose(1, 2).reshape(B, T, -1))

    def qk_weight(self):
        """QK-norm's weight for each query head, then each key head: (H + K, D)."""
        q, k = self.q_norm.weight, self.k_norm.weight
        return torch.cat((q.expand(self.n_head, -1), k.expand(self.n_kv_head, -1)))

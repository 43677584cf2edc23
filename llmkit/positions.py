"""Where a token stands: rotary, learned, sinusoidal and ALiBi positions, none, and RoPE stretched to longer texts.

A position can enter a transformer at three places, and each scheme uses one of them: the embeddings (`embed`: learned,
sinusoidal), the queries and keys (`angles`: RoPE), the scores (`bias`: ALiBi).

RoPE (arXiv 2104.09864) turns each pair of numbers of a query or key by an angle proportional to the token's position m:

    angle_i(m) = m * theta^(-2i/D),   i = 0 .. D/2-1

so that q_m . k_n depends on the content and on m - n alone. Departure from the paper: pair i is (x_i, x_{i+D/2}), not
(x_{2i}, x_{2i+1}) — the "half-split" order of Llama's and Qwen's published weights, which therefore load unpermuted.

Shapes: B batch, T query time, S key time, C d_model, H heads, D head_dim.
"""

import math

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from llmkit.config import ModelConfig, RopeScaling


class NoPositions(nn.Module):
    """No positions (NoPE, arXiv 2305.19466): only the causal mask tells order. The base of all schemes: `positions` is
    a slice or a tensor ([B,] T), as `KVCache.begin` gives it."""

    def embed(self, x, positions, doc_ids=None):
        """What the first block reads, from token embeddings x (B, T, C)."""
        return x

    def angles(self, positions, n_head: int, dtype=None):
        """What `rotate` turns queries and keys by; None if nothing turns."""
        return None

    def bias(self, positions, mask, dtype=None):
        """What attention adds to the scores, from a bool mask: 0 where a query may look, elsewhere -inf. None (causal
        order alone decides) stays None. Made once a forward pass; the fused kernel would make it in every layer."""
        return None if mask is None else torch.where(mask, 0.0, -torch.inf).to(dtype)


class RoPE(NoPositions):
    """Tables of cos and sin for every position of the context; no parameters, nothing in the state dict."""

    def __init__(self, head_dim: int, context_length: int, theta: float = 10_000.0, scaling: RopeScaling | None = None):
        super().__init__()
        inv_freq = inverse_frequencies(head_dim, theta, scaling)  # (D/2,)
        angles = torch.outer(torch.arange(context_length, dtype=torch.float64), inv_freq)  # (S, D/2)
        size = attention_factor(scaling)
        cos, sin = (size * angles.cos()).float(), (size * angles.sin()).float()
        self.register_buffer("cos", torch.cat((cos, cos), dim=-1), persistent=False)  # (S, D)
        self.register_buffer("sin", torch.cat((-sin, sin), dim=-1), persistent=False)

    def angles(self, positions: torch.Tensor | slice, n_head: int, dtype=None) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and signed sin at `positions`, each ([B,] T, H, D), for `rotate`. Repeated for each of `n_head` heads:
        made once a forward pass, and every layer then runs over unbroken memory."""
        shape = (-1, n_head, -1) if isinstance(positions, slice) else (-1, -1, n_head, -1)
        tables = (self.cos[positions].to(dtype), self.sin[positions].to(dtype))  # 2 x ([B,] T, D)
        return tuple(table.unsqueeze(-2).expand(shape).contiguous() for table in tables)


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> torch.Tensor:
    """The angle by which each pair turns from one position to the next, (D/2,) float64. For texts s times as long:

    linear (arXiv 2306.15595): every angle divided by s, as if positions were squeezed together.
    ntk (Peng's and Emozilla's posts of 2023, described in 2309.00071): a larger theta, such that the slowest pair is
        divided by s and the fastest, which tells neighbours apart, stays as it is.
    yarn, llama3 ("by parts", arXiv 2309.00071; 2407.21783): slow pairs divided by s, fast ones kept, between them a
        mixture. Llama 3 mixes by the number of turns over the trained length, as YaRN's paper does; YaRN's published
        code and models, followed here, mix by the number i of the pair.
    """
    pair = torch.arange(head_dim // 2, dtype=torch.float64)
    inv_freq = theta ** (-2 * pair / head_dim)
    if scaling is None:
        return inv_freq
    if scaling.kind == "linear":
        return inv_freq / scaling.factor
    if scaling.kind == "ntk":
        return inv_freq * scaling.factor ** (-2 * pair / (head_dim - 2))
    slow, fast = scaling.beta_slow, scaling.beta_fast
    most = scaling.original_context / (2 * math.pi)  # turns of pair 0, a radian a token, over the trained length
    if scaling.kind == "llama3":
        kept = ((most * inv_freq - slow) / (fast - slow)).clamp(0, 1)
    else:  # i such that pair i turns `fast`, and `slow`, times
        first, last = (head_dim / 2 * math.log(most / times, theta) for times in (fast, slow))
        first, last = max(math.floor(first), 0), min(math.ceil(last), head_dim - 1)
        kept = 1 - ((pair - first) / max(last - first, 0.001)).clamp(0, 1)
    return inv_freq * (kept + (1 - kept) / scaling.factor)


def attention_factor(scaling: RopeScaling | None) -> float:
    """By how much YaRN lengthens queries and keys, so that scores over more keys stay as sharp: 0.1 ln(s) + 1."""
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    return scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn x (B, T, H, D) by the angles of its positions: (a cos - b sin, b cos + a sin) for its halves a and b."""
    return _Rotate.apply(x, cos, sin) if torch.is_grad_enabled() else _rotate(x, cos, sin)


def _rotate(x, cos, sin, sign=1):
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin, value=sign)  # (a, b) rolled by half is (b, a)


class _Rotate(torch.autograd.Function):
    """A rotation's gradient is the rotation back: so nothing of x need be kept, and autograd's many small steps go."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensors
        return _rotate(grad, cos, sin, -1), None, None


class Learned(NoPositions):
    """A trained vector for every position, added to the embeddings (GPT-2). One never trained on stays noise."""

    def __init__(self, context_length: int, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(context_length, d_model))

    def embed(self, x, positions, doc_ids=None):
        return x + self.weight[positions if doc_ids is None else document_positions(doc_ids)]


class Sinusoidal(NoPositions):
    """Sines and cosines added to the embeddings (arXiv 1706.03762). Departure: the paper multiplies embeddings by
    sqrt(C); here the waves are small instead, in the same proportion to embeddings that start at `size`."""

    def __init__(self, context_length: int, d_model: int, size: float = 0.02):
        super().__init__()
        self.register_buffer("table", size * sinusoids(context_length, d_model), persistent=False)

    def embed(self, x, positions, doc_ids=None):
        return x + self.table[positions if doc_ids is None else document_positions(doc_ids)]


def sinusoids(context_length: int, d_model: int) -> torch.Tensor:
    """(S, C): sin(m / 10000^(2i/C)) in column 2i, the cosine of the same angle in column 2i + 1."""
    inv_freq = inverse_frequencies(d_model, theta=10_000.0)  # (C/2,)
    angles = torch.outer(torch.arange(context_length, dtype=torch.float64), inv_freq)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).float()


def document_positions(doc_ids: torch.Tensor) -> torch.Tensor:
    """(B, T) document numbers -> (B, T): how far each token stands behind the first of its document. What looks at
    distances alone (RoPE, ALiBi) has no need of it."""
    same = doc_ids[:, :, None] == doc_ids[:, None, :]  # (B, T, T)
    return torch.arange(doc_ids.shape[1], device=doc_ids.device) - same.byte().argmax(dim=-1)


class ALiBi(NoPositions):
    """Attention with linear biases (arXiv 2108.12409): from each score, the head's slope times the distance."""

    def __init__(self, n_head: int):
        super().__init__()
        self.register_buffer("slopes", alibi_slopes(n_head), persistent=False)  # (H,)

    def bias(self, positions, mask, dtype=None):
        """-slope * (m - n) where the query at m may see the key at n, elsewhere -inf: (B or 1, H, T, S)."""
        distance = distances(positions, mask, self.slopes.device)  # (B or 1, 1, T, S)
        hidden = distance < 0 if mask is None else ~mask
        return (-self.slopes[:, None, None] * distance).masked_fill(hidden, -torch.inf).to(dtype)


def alibi_slopes(n_head: int) -> torch.Tensor:
    """(H,): 2^(-8 h / H) for h = 1 .. H when H is a power of two; else those of the power below it, and of the power
    above it every second one until there are enough."""
    below = 2 ** int(math.log2(n_head))
    exponents = [-8 * h / below for h in range(1, below + 1)]
    exponents += [-4 * h / below for h in range(1, 2 * below, 2)][: n_head - below]
    return 2.0 ** torch.tensor(exponents)


def distances(positions: torch.Tensor | slice, mask: torch.Tensor | None, device) -> torch.Tensor:
    """m - n for each query's position m and key's position n: (B or 1, 1, T, S). Keys stand at 0 .. S-1; without a
    mask the last query's is the last."""
    if isinstance(positions, slice):
        queries = torch.arange(positions.start, positions.stop, device=device)[None]
    else:
        queries = positions
    n_keys = positions.stop if mask is None else mask.shape[-1]
    return (queries[..., None] - torch.arange(n_keys, device=device))[:, None]


def position_embedding(config: ModelConfig) -> NoPositions:
    """The scheme that `config.positions` names."""
    match config.positions:
        case "rope":
            return RoPE(config.head_dim, config.context_length, config.rope_theta, config.rope_scaling)
        case "learned":
            return Learned(config.context_length, config.d_model)
        case "sinusoidal":
            return Sinusoidal(config.context_length, config.d_model)
        case "alibi":
            return ALiBi(config.n_head)
        case "none":
            return NoPositions()

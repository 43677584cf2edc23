"""Where a token stands: rotary position embedding (RoPE, arXiv 2104.09864).

RoPE turns each pair of numbers of a query or key by an angle proportional to the token's position m:

    angle_i(m) = m * theta^(-2i/D),   i = 0 .. D/2-1

so that q_m . k_n depends on the content and on m - n alone. Departure from the paper: pair i is (x_i, x_{i+D/2}), not
(x_{2i}, x_{2i+1}) — the "half-split" order of Llama's and Qwen's published weights, which therefore load unpermuted.

Shapes: B batch, T time, H heads, D head_dim.
"""

import torch
from torch import nn
from torch.autograd.function import once_differentiable


class RoPE(nn.Module):
    """Tables of cos and sin for every position of the context; no parameters, nothing in the state dict."""

    def __init__(self, head_dim: int, context_length: int, theta: float = 10_000.0):
        super().__init__()
        inv_freq = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)  # (D/2,)
        angles = torch.outer(torch.arange(context_length, dtype=torch.float64), inv_freq)  # (S, D/2)
        cos, sin = angles.cos().float(), angles.sin().float()
        self.register_buffer("cos", torch.cat((cos, cos), dim=-1), persistent=False)  # (S, D)
        self.register_buffer("sin", torch.cat((-sin, sin), dim=-1), persistent=False)

    def forward(self, positions: torch.Tensor | slice, n_head: int, dtype=None) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and signed sin at `positions`, each ([B,] T, H, D), for `rotate`. Repeated for each of `n_head` heads:
        made once a forward pass, and every layer then runs over unbroken memory."""
        shape = (-1, n_head, -1) if isinstance(positions, slice) else (-1, -1, n_head, -1)
        tables = (self.cos[positions].to(dtype), self.sin[positions].to(dtype))  # 2 x ([B,] T, D)
        return tuple(table.unsqueeze(-2).expand(shape).contiguous() for table in tables)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn x (B, T, H, D) by the angles of its positions: (a cos - b sin, b cos + a sin) for its halves a and b."""
    return _Rotate.apply(x, cos, sin) if torch.is_grad_enabled() else _rotate(x, cos, sin)


def _rotate(x, cos, sin):
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)  # (a, b) rolled by half is (b, a)


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
        return _rotate(grad, cos, -sin), None, None

"""Where a token stands: rotary position embedding (RoPE, arXiv 2104.09864).

RoPE turns each pair of numbers of a query or key by an angle proportional to the token's position m:

    angle_i(m) = m * theta^(-2i/D),   i = 0 .. D/2-1

so that q_m . k_n depends on the content and on m - n alone. Departure from the paper: pair i is (x_i, x_{i+D/2}), not
(x_{2i}, x_{2i+1}) — the "half-split" order of Llama's and Qwen's published weights, which therefore load unpermuted.

Shapes: B batch, T time, H heads, D head_dim.
"""

import torch
from torch import nn


class RoPE(nn.Module):
    """Tables of cos and sin for every position of the context; no parameters, nothing in the state dict."""

    def __init__(self, head_dim: int, context_length: int, theta: float = 10_000.0):
        super().__init__()
        inv_freq = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)  # (D/2,)
        angles = torch.outer(torch.arange(context_length, dtype=torch.float64), inv_freq)  # (S, D/2)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, positions: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """(cos, sin) at `positions`, each (..., T, 1, D/2): ready for `rotate` on (B, T, H, D)."""
        return self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn x (B, T, H, D) by the angles of its positions; the length of every vector stays."""
    a, b = x.chunk(2, dim=-1)  # 2 x (B, T, H, D/2)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

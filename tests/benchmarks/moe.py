"""Experts in groups beside the naive loop, and a dense MLP of equal work.  `python -m tests.benchmarks.moe [rounds]`

Forward and backward of one layer; all go in turns, and the median of each round's ratio is printed. The dense MLP is
what the experts' products alone would cost: the rest is the price of sorting tokens.
"""

import statistics
import sys

import torch
import torch.nn.functional as F

from llmkit.config import MoEConfig
from llmkit.device import best_device
from llmkit.kernels import swiglu
from llmkit.moe import grouped, naive, route
from tests.benchmarks.measure import in_turns, ratio

CASES = [  # tokens, d_model, experts
    (2048, 64, MoEConfig(8, 2, 88)),
    (2048, 128, MoEConfig(8, 2, 128)),
    (2048, 128, MoEConfig(32, 4, 64)),
    (2048, 256, MoEConfig(64, 8, 128)),
    (16, 256, MoEConfig(64, 8, 128)),
]


def layer(n: int, c: int, moe: MoEConfig, device, dtype=torch.float32) -> dict:
    """Ways to compute one layer for n tokens of c numbers; "naive" and "grouped" have the same weights."""
    torch.manual_seed(0)
    x = torch.randn(n, c, device=device, dtype=dtype, requires_grad=True)
    width = moe.n_active * moe.d_expert
    stacks = [(moe.n_expert, 2 * moe.d_expert, c), (moe.n_expert, c, moe.d_expert), (2 * width, c), (c, width)]
    weights = [(0.1 * torch.randn(shape, device=device, dtype=dtype)).requires_grad_() for shape in stacks]
    gate_up, down, gate_up_1, down_1 = weights
    routing = route(torch.randn(n, moe.n_expert, device=device), moe)
    return {
        "naive": lambda: naive(x, routing, gate_up, down),
        "grouped": lambda: grouped(x, routing, gate_up, down),
        "dense": lambda: F.linear(swiglu(F.linear(x, gate_up_1)), down_1),
    }


def main(rounds: int = 9, cases=CASES):
    device = best_device()
    print(f"device: {device}; forward and backward of one layer")
    for n, c, moe in cases:
        ways = layer(n, c, moe, device.value)
        steps = {name: lambda way=way: way().square().sum().backward() for name, way in ways.items()}
        seconds = in_turns(steps, rounds, device.value)
        faster, price = (ratio(seconds[name], seconds["grouped"]) for name in ("naive", "dense"))
        print(
            f"{n:4} tokens of {c:3}, {moe.n_active} of {moe.n_expert:2} experts of {moe.d_expert:3}: grouped "
            f"{1e3 * statistics.median(seconds['grouped']):6.1f} ms, {faster:.2f} times as fast as naive, "
            f"{price:.2f} times as fast as dense"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

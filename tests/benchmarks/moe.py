"""Experts in groups beside the naive loop, and a dense MLP of equal work.  `python -m tests.benchmarks.moe`

Forward and backward of one layer; all go in turns, and the median of each round's ratio is printed. The dense MLP is
what the experts' products alone would cost: the rest is the price of sorting tokens.
"""

import statistics
import sys

import torch
import torch.nn.functional as F

from llmkit.config import MoEConfig
from llmkit.device import Timer, best_device
from llmkit.kernels import swiglu
from llmkit.moe import grouped, naive, route

CASES = [  # tokens, d_model, experts
    (2048, 64, MoEConfig(8, 2, 88)),
    (2048, 128, MoEConfig(8, 2, 128)),
    (2048, 128, MoEConfig(32, 4, 64)),
    (2048, 256, MoEConfig(64, 8, 128)),
    (16, 256, MoEConfig(64, 8, 128)),
]


def main(rounds: int = 9):
    device = best_device()
    print(f"device: {device}; forward and backward of one layer")
    for n, c, moe in CASES:
        torch.manual_seed(0)
        x = torch.randn(n, c, device=device.value, requires_grad=True)
        width = moe.n_active * moe.d_expert
        stacks = [(moe.n_expert, 2 * moe.d_expert, c), (moe.n_expert, c, moe.d_expert), (2 * width, c), (c, width)]
        gate_up, down, gate_up_1, down_1 = [
            (0.1 * torch.randn(shape, device=device.value)).requires_grad_() for shape in stacks
        ]
        routing = route(torch.randn(n, moe.n_expert, device=device.value), moe)
        ways = {
            "naive": lambda x=x, r=routing, a=gate_up, b=down: naive(x, r, a, b),
            "grouped": lambda x=x, r=routing, a=gate_up, b=down: grouped(x, r, a, b),
            "dense": lambda x=x, a=gate_up_1, b=down_1: F.linear(swiglu(F.linear(x, a)), b),
        }
        seconds = {name: [] for name in ways}
        for _ in range(rounds + 1):  # the first warms up
            for name, way in ways.items():
                with Timer(device.value) as timer:
                    way().square().sum().backward()
                seconds[name].append(timer.elapsed_s)
        seconds = {name: times[1:] for name, times in seconds.items()}
        faster, price = (
            statistics.median(a / b for a, b in zip(seconds[name], seconds["grouped"], strict=True))
            for name in ("naive", "dense")
        )
        print(
            f"{n:4} tokens of {c:3}, {moe.n_active} of {moe.n_expert:2} experts of {moe.d_expert:3}: grouped "
            f"{1e3 * statistics.median(seconds['grouped']):6.1f} ms, {faster:.2f} times as fast as naive, "
            f"{price:.2f} times as fast as dense"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""How much of the machine's matrix-product peak does training reach?  `python -m tests.benchmarks.training`

A step is forward, loss, backward and AdamW. Utilisation = the FLOPs that the step needs (cost.training_flops: 6 N, and
attention over the keys that a causal query really sees) / seconds / the machine's peak. Each round measures the peak
and each model in turn, so that a disturbance meets all alike; the medians of the rounds are printed.
"""

import statistics
import sys

import torch
import torch.nn.functional as F

from llmkit.config import preset
from llmkit.cost import parameters, training_flops
from llmkit.device import Timer, best_device, matmul_peak_flops
from llmkit.model import Transformer

BATCH = {"tiny": 16, "small": 8}
GOAL = {"tiny": 0.44, "small": 0.58}


def training_step(name: str, packed: bool, device):
    """A function that does one optimizer step on random tokens; packed rows hold documents of 60 tokens."""
    torch.manual_seed(0)
    config = preset(name)
    model = Transformer(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.randint(config.vocab_size, (BATCH[name], config.context_length + 1), device=device)
    idx, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    doc_ids = (torch.arange(config.context_length, device=device) // 60).expand_as(idx) if packed else None

    def step():
        F.cross_entropy(model(idx, doc_ids=doc_ids).flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main(rounds: int = 9):
    device = best_device()
    print(f"device: {device}")
    steps = {(name, packed): training_step(name, packed, device.value) for name in BATCH for packed in (False, True)}
    for step in steps.values():
        step()
        step()  # warm up: the first optimizer step imports and allocates
    peaks, seconds = [], {key: [] for key in steps}
    for _ in range(rounds):
        peaks.append(matmul_peak_flops(device.value, repeats=3))
        for key, step in steps.items():
            with Timer(device.value) as timer:
                step()
            seconds[key].append(timer.elapsed_s)
    peak = statistics.median(peaks)
    print(f"matrix-product peak: {peak / 1e9:.0f} GFLOP/s (rounds: {min(peaks) / 1e9:.0f} .. {max(peaks) / 1e9:.0f})")
    for (name, packed), times in seconds.items():
        config, second = preset(name), statistics.median(times)
        flops = training_flops(config, config.context_length).total * BATCH[name] / second
        print(
            f"{name:5} {'packed documents' if packed else 'causal':16} N = {parameters(config).matmul / 1e6:.2f} M, "
            f"{BATCH[name]} x {config.context_length}: {second * 1e3:5.0f} ms a step, "
            f"{BATCH[name] * config.context_length / second:6.0f} tokens/s, {flops / 1e9:5.1f} GFLOP/s, "
            f"utilisation {flops / peak:.1%} (goal {GOAL[name]:.0%})"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

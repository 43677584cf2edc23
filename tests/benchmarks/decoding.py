"""Cached greedy decoding beside transformers' `generate` on the same weights.  `python -m tests.benchmarks.decoding`

Both continue the same prompt; they go in turns, and the median of each round's ratio is printed. The limit is the time
that reading every weight and the cache once takes at the machine's measured memory bandwidth.
"""

import statistics
import sys

import torch

from llmkit.config import preset
from llmkit.cost import decode_bytes
from llmkit.device import Timer, best_device, memory_bandwidth_bytes
from llmkit.generate import generate
from llmkit.model import Transformer
from tests.parity.test_model_parity import from_hf, hf_model

PROMPT, NEW, GOAL = 16, 200, 4.0


def main(rounds: int = 5):
    device = best_device()
    torch.manual_seed(0)
    config = preset("small")
    theirs = hf_model(config, attn_implementation="sdpa").to(device.value)
    ours = Transformer(config).to(device.value).eval()
    ours.load_state_dict(from_hf(dict(theirs.named_parameters()), config))
    print(f"device: {device}")
    for batch_size in (1, 8):
        idx = torch.randint(config.vocab_size, (batch_size, PROMPT), device=device.value)
        mask = torch.ones_like(idx)

        def run_ours(idx=idx):
            return generate(ours, idx, NEW, temperature=0)

        def run_theirs(idx=idx, mask=mask):
            return theirs.generate(
                idx, attention_mask=mask, min_new_tokens=NEW, max_new_tokens=NEW, do_sample=False, pad_token_id=0
            )

        same = (run_ours() == run_theirs()).float().mean().item()  # also warms up
        tok_s = {run_ours: [], run_theirs: []}
        for _ in range(rounds):
            for run, speeds in tok_s.items():
                with Timer(device.value) as timer:
                    run()
                speeds.append(batch_size * NEW / timer.elapsed_s)
        ratio = statistics.median(a / b for a, b in zip(*tok_s.values(), strict=True))
        a, b = (statistics.median(speeds) for speeds in tok_s.values())
        bandwidth = memory_bandwidth_bytes(device.value)
        limit = batch_size * bandwidth / decode_bytes(config, batch_size, PROMPT + NEW // 2)
        print(
            f"batch {batch_size:2}: llmkit {a:6.0f} tokens/s, transformers {b:6.0f}, ratio {ratio:.2f}"
            f"{f' (goal {GOAL:.0f})' if batch_size == 1 else ''}; {same:.0%} of the ids equal; "
            f"limit at {bandwidth / 1e9:.0f} GB/s: {limit:.0f} tokens/s"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

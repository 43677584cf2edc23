"""Cached greedy decoding beside transformers' `generate` on the same weights.  `python -m tests.benchmarks.decoding`

Both continue the same prompt; they go in turns, and the median of each round's ratio is printed. The limit is the time
that reading every weight and the cache once takes at the machine's measured memory bandwidth.
"""

import statistics
import sys

import torch

from llmkit.config import preset
from llmkit.cost import decode_bytes
from llmkit.device import best_device, memory_bandwidth_bytes
from llmkit.generate import generate
from llmkit.model import Transformer
from tests.benchmarks.measure import in_turns, ratio
from tests.parity.test_model_parity import from_hf, hf_model

CONFIG, PROMPT, NEW, GOAL = preset("small"), 16, 200, 4.0


def main(rounds: int = 5, config=CONFIG, new: int = NEW):
    device = best_device()
    torch.manual_seed(0)
    theirs = hf_model(config, attn_implementation="sdpa").to(device.value)
    ours = Transformer(config).to(device.value).eval()
    ours.load_state_dict(from_hf(dict(theirs.named_parameters()), config))
    print(f"device: {device}")
    for batch_size in (1, 8):
        idx = torch.randint(config.vocab_size, (batch_size, PROMPT), device=device.value)
        given = dict(attention_mask=torch.ones_like(idx), min_new_tokens=new, max_new_tokens=new, pad_token_id=0)
        ways = {
            "llmkit": lambda idx=idx: generate(ours, idx, new, temperature=0),
            "transformers": lambda idx=idx, given=given: theirs.generate(idx, do_sample=False, **given),
        }
        same = (ways["llmkit"]() == ways["transformers"]()).float().mean().item()
        seconds = in_turns(ways, rounds, device.value)
        speeds = [f"{name} {batch_size * new / statistics.median(s):6.0f} tokens/s" for name, s in seconds.items()]
        bandwidth = memory_bandwidth_bytes(device.value)
        limit = batch_size * bandwidth / decode_bytes(config, batch_size, PROMPT + new // 2)
        print(
            f"batch {batch_size:2}: {', '.join(speeds)}, ratio {ratio(seconds['transformers'], seconds['llmkit']):.2f}"
            f"{f' (goal {GOAL:.0f})' if batch_size == 1 else ''}; {same:.0%} of the ids equal; "
            f"limit at {bandwidth / 1e9:.0f} GB/s: {limit:.0f} tokens/s"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""How fast is training, beside its peers and beside the machine?  `python -m tests.benchmarks.training [rounds]`

A step is forward, loss, backward and AdamW on the same random tokens. Utilisation = the FLOPs that the step needs
(cost.training_flops: 6 N, and attention over the keys that a causal query really sees) / seconds / the machine's
matrix-product peak. Peers are transformers' models of the same shape with the same optimizer. Each round measures the
peak and every model in turn, so that a disturbance meets all alike; medians of the rounds are printed, and for peers
the median of the rounds' ratios.
"""

import statistics
import sys

import torch
import transformers

from llmkit.config import preset
from llmkit.cost import parameters, training_flops
from llmkit.data import Batch
from llmkit.device import best_device, matmul_peak_flops
from llmkit.model import Transformer
from llmkit.train import next_token_loss
from tests.benchmarks.measure import in_turns, ratio

BATCH = {"tiny": 16, "small": 8}
GOAL = {"tiny": 0.44, "small": 0.68}
GPT2 = dict(norm="layer", mlp="gelu", positions="learned", bias=True, qk_norm=False, n_kv_head=4, d_ff=1024)
CONFIGS = {
    "tiny": preset("tiny"),
    "small": preset("small"),
    "small as Llama": preset("small", qk_norm=False),
    "small as GPT-2": preset("small", **GPT2),
}
PEERS = {"small as Llama": 1.2, "small as GPT-2": None}  # the goal for the ratio of tokens/s


def peer(name: str, c):
    """transformers' model of the same shape, with nothing random in it."""
    same = dict(vocab_size=c.vocab_size, attn_implementation="sdpa", tie_word_embeddings=True, use_cache=False)
    if name == "small as GPT-2":
        sizes = dict(n_positions=c.context_length, n_embd=c.d_model, n_layer=c.n_layer, n_head=c.n_head, n_inner=c.d_ff)
        dropout = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        config = transformers.GPT2Config(activation_function="gelu_new", **sizes, **dropout, **same)
    else:
        sizes = dict(hidden_size=c.d_model, intermediate_size=c.d_ff, num_hidden_layers=c.n_layer)
        heads = dict(num_attention_heads=c.n_head, num_key_value_heads=c.n_kv_head, head_dim=c.head_dim)
        config = transformers.LlamaConfig(max_position_embeddings=c.context_length, **sizes, **heads, **same)
    return transformers.AutoModelForCausalLM.from_config(config).train()


def training_step(config, batch_size: int, device, model=None, packed=False):
    """A function that does one optimizer step; packed rows hold documents of 60 tokens."""
    torch.manual_seed(0)
    theirs, model = model is not None, (model or Transformer(config)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.randint(config.vocab_size, (batch_size, config.context_length + 1), device=device)
    idx, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()  # (B, T)
    doc_ids = (torch.arange(config.context_length, device=device) // 60).expand_as(idx) if packed else None

    def step():
        if theirs:
            loss = model(input_ids=idx, labels=idx).loss
        else:
            loss = next_token_loss(model, Batch(idx, targets, doc_ids))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main(rounds: int = 7, configs=CONFIGS):
    device = best_device()
    print(f"device: {device}")
    peaks, steps = [], {}
    for name, config in configs.items():
        batch_size = BATCH[name.split()[0]]
        steps[name] = training_step(config, batch_size, device.value)
        if name in PEERS:
            steps[name, "transformers"] = training_step(config, batch_size, device.value, peer(name, config))
        else:
            steps[name, "packed"] = training_step(config, batch_size, device.value, packed=True)
    for step in steps.values():
        step()  # the first optimizer step imports and allocates
    measure_peak = {"peak": lambda: peaks.append(matmul_peak_flops(device.value, repeats=3))}
    seconds = in_turns(measure_peak | steps, rounds, device.value)
    report(configs, peaks, {key: seconds[key] for key in steps})


def report(configs, peaks, seconds):
    peak = statistics.median(peaks)
    print(f"matrix-product peak: {peak / 1e9:.0f} GFLOP/s (rounds: {min(peaks) / 1e9:.0f} .. {max(peaks) / 1e9:.0f})")
    for key, times in seconds.items():
        name, variant = key if isinstance(key, tuple) else (key, "")
        config, batch_size, second = configs[name], BATCH[name.split()[0]], statistics.median(times)
        flops = training_flops(config, config.context_length).total * batch_size / second
        print(
            f"{name:14} {variant:12} N = {parameters(config).matmul / 1e6:.2f} M, "
            f"{batch_size} x {config.context_length}: {second * 1e3:5.0f} ms a step, "
            f"{batch_size * config.context_length / second:6.0f} tokens/s, utilisation {flops / peak:.1%}"
            + (f" (goal {GOAL[name]:.0%})" if key in GOAL else "")
        )
    for name, goal in PEERS.items():
        faster = ratio(seconds[name, "transformers"], seconds[name])
        print(f"{name}: {faster:.2f} times transformers' tokens/s" + (f" (goal {goal})" if goal else ""))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""GPT-2's size on a GPU: is fast still equal to slow there, and how fast are training, prefill and decoding?

    python -m tests.benchmarks.gpu          needs an NVIDIA or AMD GPU (made for 40 GB or more); some minutes
    python -m tests.benchmarks.gpu tiny     every part at a tiny size, on whatever device there is

A training step is `fit`'s: forward, loss, backward, clipping and fused AdamW, with float32 weights, products in the
best dtype (bfloat16), with and without torch.compile. Utilisation = the FLOPs that the work needs
(cost.training_flops: 6 N and attention over the keys that a causal query really sees; cost.forward_flops for prefill) /
seconds / the matrix-product rate that this card reaches in that dtype in the same rounds. Decoding has its weights in
that dtype; its limit is reading weights and cache once a token at the memory bandwidth measured here. A part that fails
says why, the others go on, and the exit status is 1.
"""

import functools
import statistics
import sys
import traceback
from collections import deque
from typing import NamedTuple

import torch

from llmkit.cache import KVCache
from llmkit.config import MoEConfig, preset
from llmkit.cost import decode_bytes, forward_flops, training_flops
from llmkit.data import Batch
from llmkit.device import Timer, best_device, best_dtype, matmul_peak_flops, memory_bandwidth_bytes
from llmkit.generate import generate, generate_naive, stream
from llmkit.model import Transformer
from llmkit.optim import adamw, constant
from llmkit.train import compiled, fit
from tests.benchmarks.measure import in_turns
from tests.benchmarks.moe import layer


class Scale(NamedTuple):
    """How much of everything; `sizes` override the preset's."""

    rows: int
    steps: int  # to a measurement
    rounds: int
    prompt: int
    new: int
    experts: tuple = (4096, 768, MoEConfig(32, 4, 512))  # tokens, d_model, experts
    sizes: dict = {}


TINY_SIZES = dict(vocab_size=256, context_length=64, n_layer=2, n_head=2, n_kv_head=2, d_model=32, head_dim=16, d_ff=64)
SCALES = {
    "full": Scale(rows=16, steps=10, rounds=5, prompt=512, new=256),
    "tiny": Scale(2, 2, 1, 16, 16, (64, 32, MoEConfig(4, 2, 16)), TINY_SIZES),
}
NO_GPU = (
    "PyTorch finds no NVIDIA or AMD GPU on this machine, so there is nothing to measure. "
    "To try every part at a tiny size on this CPU: python -m tests.benchmarks.gpu tiny"
)


# --- Slow equals fast, on this device ------------------------------------------------------------------------------


@torch.no_grad()
def check_cache(name: str, scale: Scale, device) -> str:
    """Cached = naive: the same logits token by token as in one pass, in float32, and the same greedy text."""
    torch.manual_seed(0)
    config = preset(name, **scale.sizes)
    model = Transformer(config).to(device).eval()
    idx = torch.randint(config.vocab_size, (2, 32), device=device)
    cache = KVCache(config, 2, device=device)
    pieces = [model(idx[:, :16], cache), *(model(token, cache) for token in idx[:, 16:].split(1, dim=1))]
    cached, naive = torch.cat(pieces, dim=1), model(idx)  # (B, T, V)
    torch.testing.assert_close(cached, naive, atol=1e-3, rtol=1e-3)
    assert torch.equal(generate(model, idx, 16, temperature=0), generate_naive(model, idx, 16, temperature=0))
    return f"{name} cached = naive: logits within {(cached - naive).abs().max():.0e}, greedy texts equal"


def check_dtype(name: str, scale: Scale, device) -> str:
    """20 steps on rows that count upwards: the losses in the best dtype stay close to those in float32."""
    config = preset(name, **scale.sizes)
    rows = (torch.arange(4)[:, None] * 9 + torch.arange(config.context_length + 1)) % 50
    losses = []
    for dtype in (None, best_dtype(device).value):
        torch.manual_seed(0)
        model = Transformer(config).to(device).compute_in(dtype)
        records = fit(model, lambda step: Batch(rows[:, :-1], rows[:, 1:]), 20, lr=1e-3)
        losses.append([record.loss for record in records])
    apart = max(abs(a - b) / a for a, b in zip(*losses, strict=True))
    (first, *_, last), (*_, rough) = losses
    assert last < 0.9 * first, f"it did not learn: {first:.3f} -> {last:.3f}"
    assert apart < 0.02, f"the losses are {apart:.1%} apart"
    return (
        f"{name} {dtype} close to float32: 20 steps from {first:.3f} to {rough:.4f} and {last:.4f} nats/token, "
        f"never more than {apart:.3%} apart"
    )


def check_experts(scale: Scale, device) -> str:
    """Experts in groups = one after the other, outputs in float32 and in the best dtype."""
    apart = []
    for dtype, limit in ((torch.float32, 1e-4), (best_dtype(device).value, 2e-2)):
        ways = layer(*scale.experts, device, dtype)
        naive, grouped = (ways[way]().detach().float() for way in ("naive", "grouped"))
        apart.append((naive - grouped).norm().item() / naive.norm().item())
        assert apart[-1] < limit, f"grouped and naive experts differ by {apart[-1]:.1e} in {dtype}"
    return f"experts in groups = one by one: apart by {apart[0]:.0e} in float32, {apart[1]:.0e} in {dtype}"


# --- Speed ---------------------------------------------------------------------------------------------------------


def trainer(config, scale: Scale, device, compile_it: bool):
    """A function that makes `scale.steps` updates of a new model on random tokens."""
    torch.manual_seed(0)
    model = Transformer(config).to(device).compute_in(best_dtype(device).value)
    model = compiled(model) if compile_it else model
    tokens = torch.randint(config.vocab_size, (scale.rows, config.context_length + 1))
    batch, optimizer = Batch(tokens[:, :-1], tokens[:, 1:]), adamw(model, lr=1e-4)
    return functools.partial(fit, model, lambda step: batch, scale.steps, optimizer=optimizer, schedule=constant())


def peak_gb(run, base: int) -> float:
    """GB on the GPU at the highest point of `run`, beyond the `base` bytes of others; NaN on a CPU."""
    if not torch.cuda.is_available():
        run()
        return float("nan")
    torch.cuda.reset_peak_memory_stats()
    run()
    return (torch.cuda.max_memory_allocated() - base) / 1e9


def report_training(name: str, scale: Scale, device, ways=("eager", "compiled")) -> str:
    config, dtype = preset(name, **scale.sizes), best_dtype(device).value
    runs, memory, peaks = {}, {}, []
    for way in ways:
        base = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
        runs[way] = trainer(config, scale, device, compile_it=way == "compiled")
        memory[way] = peak_gb(runs[way], base)
    runs["peak"] = lambda: peaks.append(matmul_peak_flops(device, dtype))
    seconds = in_turns(runs, scale.rounds, device)
    tokens = scale.rows * config.context_length
    flops, peak, lines = scale.rows * training_flops(config, config.context_length).total, statistics.median(peaks), []
    for way in ways:
        step_s = statistics.median(seconds[way]) / scale.steps
        lines.append(
            f"{name} {way:8} {scale.rows} x {config.context_length}: {1e3 * step_s:6.1f} ms a step, "
            f"{tokens / step_s:9,.0f} tokens/s, utilisation {flops / step_s / peak:.1%} of {peak / 1e12:.1f} TFLOP/s, "
            f"{memory[way]:.1f} GB"
        )
    return "\n".join(lines)


def report_generation(name: str, scale: Scale, device) -> str:
    """Prefill, which is computing, and decoding, which is reading: greedy, one text and 16."""
    config, dtype = preset(name, **scale.sizes), best_dtype(device).value
    torch.manual_seed(0)
    base = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    model = Transformer(config).to(device, dtype).eval()
    peak, bandwidth, lines = matmul_peak_flops(device, dtype), memory_bandwidth_bytes(device), []
    for rows in (1, 16):
        idx = torch.randint(config.vocab_size, (rows, scale.prompt), device=device)
        times = []

        def run(idx=idx, times=times):
            tokens = stream(model, idx, 1 + scale.new, temperature=0)
            with Timer(device) as prefill:
                next(tokens)
            with Timer(device) as decode:
                deque(tokens, maxlen=0)
            times.append((prefill.elapsed_s, decode.elapsed_s))

        memory = peak_gb(run, base)
        in_turns({"run": run}, scale.rounds, device)
        prefill_s, decode_s = (statistics.median(some) for some in zip(*times[2:], strict=True))
        flops = rows * forward_flops(config, scale.prompt).total
        limit = rows * bandwidth / decode_bytes(config, rows, scale.prompt + scale.new // 2, dtype.itemsize)
        lines.append(
            f"{name} {rows:2} texts: prefill {rows * scale.prompt / prefill_s:9,.0f} tokens/s, utilisation "
            f"{flops / prefill_s / peak:.1%}; decoding {rows * scale.new / decode_s:7,.0f} tokens/s "
            f"(limit {limit:,.0f} at {bandwidth / 1e9:,.0f} GB/s); {memory:.1f} GB"
        )
    return "\n".join(lines)


def main(size: str = "full") -> int:
    device, scale, failed = best_device().value, SCALES[size], 0
    if size == "full" and device.type != "cuda":
        print(NO_GPU)
        return 0
    print(f"{best_device()}, torch {torch.__version__}, {best_dtype(device)}", flush=True)
    parts = [(part, name) for part in (check_cache, check_dtype) for name in ("gpt2", "medium")] + [(check_experts,)]
    parts += [(part, name) for part in (report_generation, report_training) for name in ("gpt2", "medium")]
    for part, *name in parts:
        try:
            print(part(*name, scale, device), flush=True)
        except Exception:  # the other parts may still tell something
            traceback.print_exc()
            failed += 1
    print(f"{len(parts) - failed} parts done, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

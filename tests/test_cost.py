"""cost: parameters against the real model, FLOPs against PyTorch's counter, bytes against the real cache."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llmkit.attention import causal_mask, sliding_window_mask
from llmkit.cache import KVCache
from llmkit.config import PRESETS, preset
from llmkit.cost import (
    decode_bytes,
    forward_flops,
    keys_seen,
    kv_cache_bytes,
    parameters,
    training_flops,
    training_memory,
    weight_bytes,
)
from llmkit.model import Transformer

VARIANTS = [
    {},
    dict(tie_embeddings=False, qk_norm=False, head_dim=10),
    dict(bias=True, n_kv_head=1),
    dict(norm="layer", bias=True, mlp="gelu", positions="learned"),
    dict(norm="layer", mlp="gelu", positions="alibi", qk_norm=False),
    dict(positions="sinusoidal", sliding_window=9),
    dict(positions="none", n_kv_head=4),
]
variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def meta_model(config):
    with torch.device("meta"):  # shapes without memory
        return Transformer(config)


@variants
@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_parameters_equal_the_models(name, variant):
    config = preset(name, **variant)
    model, count = meta_model(config), parameters(config)
    assert count.total == sum(p.numel() for p in model.parameters())
    matrices = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.dim() == 2}
    embeddings = ("tok_emb.weight", "pos_emb.weight")
    assert count.matmul == sum(p.numel() for name, p in matrices.items() if name not in embeddings)
    for part, inside in (("attention", ("attn.qkv", "attn.out")), ("mlp", ("mlp",)), ("positions", ("pos_emb",))):
        parts = [p.numel() for name, p in model.named_parameters() if any(module in name for module in inside)]
        assert getattr(count, part) == sum(parts), part


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_counted_exactly(name):
    config = preset(name)
    assert parameters(config).total == sum(p.numel() for p in meta_model(config).parameters())


def test_presets_have_their_sizes():
    millions = {name: parameters(preset(name)).total / 1e6 for name in PRESETS}
    assert millions == pytest.approx({"nano": 0.23, "tiny": 0.85, "small": 4.7, "medium": 124, "gpt2": 124.4}, rel=0.1)
    assert parameters(preset("gpt2")).total == 124_439_808  # as published


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@variants
def test_flops_equal_the_counters(variant):
    config, t = preset("nano", **variant), 40
    model, flops = Transformer(config), forward_flops(config, t)
    assert flops.matmul == 2 * parameters(config).matmul * t
    with sdpa_kernel(SDPBackend.MATH):  # the counter does not know the CPU's fused kernel
        forward = counted(lambda: model(torch.zeros(1, t).long()))
        both = counted(lambda: model(torch.zeros(1, t).long()).sum().backward())
    # PyTorch counts all t^2 pairs of query and key, a causal text needs fewer.
    every_pair = flops.attention * t * t / keys_seen(config, t)
    assert forward == flops.matmul + every_pair
    assert both == 3 * forward == training_flops(config, t).matmul + 3 * every_pair


@pytest.mark.parametrize("window", [None, 1, 3, 10, 50])
def test_keys_seen_are_what_the_mask_shows(window):
    config = preset("nano", sliding_window=window)
    for t in (1, 2, 9, 10, 30):
        mask = (
            causal_mask(t) if window is None else sliding_window_mask(slice(0, t), causal_mask(t)[None, None], window)
        )
        assert keys_seen(config, t) == mask.sum()


def test_training_is_three_forwards():
    config, t = preset("nano"), 8
    assert training_flops(config, t).total == 3 * forward_flops(config, t).total
    per_token = training_flops(config, t).total / t
    assert per_token == 6 * parameters(config).matmul + 6 * config.n_layer * config.n_head * config.head_dim * (t + 1)


@pytest.mark.parametrize("window", [None, 12])
def test_cached_pieces_cost_what_the_whole_does(window):
    config = preset("tiny", sliding_window=window)
    pieces = [forward_flops(config, t, past).total for t, past in ((10, 0), (1, 10), (5, 11))]
    assert sum(pieces) == forward_flops(config, 16).total


def test_kv_cache_bytes_are_the_caches():
    config = preset("nano")
    cache = KVCache(config, batch_size=3, max_length=17)
    assert kv_cache_bytes(config, 3, 17) == cache.kv.nbytes
    windowed = preset("nano", sliding_window=5)
    assert kv_cache_bytes(windowed, 3, 17) == kv_cache_bytes(config, 3, 5)
    assert kv_cache_bytes(windowed, 3, 4) == kv_cache_bytes(config, 3, 4)


@variants
def test_weight_bytes_are_the_models(variant):
    config = preset("nano", **variant)
    model = meta_model(config)
    assert weight_bytes(config) == sum(p.nbytes for p in model.parameters())
    assert weight_bytes(config, 2) == sum(p.nbytes for p in model.bfloat16().parameters())


def test_a_decoding_step_reads_the_matrices_and_the_cache():
    config = preset("gpt2")
    assert decode_bytes(config, 1, 10, 2) == 2 * (parameters(config).matmul + 2 * 12 * 12 * 64 * 10)


@variants
@pytest.mark.parametrize("b", [1, 4])
def test_activations_are_what_autograd_keeps(variant, b):
    config = preset("nano", **variant)
    model, idx = Transformer(config), torch.zeros(b, 128).long()
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        logits = model(idx)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), idx.flatten())
    weights = sum(kept.pop(p.untyped_storage().data_ptr(), 0) for p in model.parameters())
    assert weights > 0 and loss.isfinite()
    measured = sum(kept.values()) + logits.nbytes
    assert training_memory(config, b, 128).activations == pytest.approx(measured, rel=0.04)


def test_optimizer_memory_is_adamws():
    config = preset("nano")
    model = Transformer(config)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 2).long()).sum().backward()
    optimizer.step()
    moments = sum(x.nbytes for state in optimizer.state.values() for x in state.values() if x.dim())
    memory = training_memory(config, 1, 2)
    assert (memory.weights, memory.optimizer) == (sum(p.nbytes for p in model.parameters()), moments)

"""cost: parameters against the real model, FLOPs against PyTorch's counter, bytes against the real cache."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llmkit.cache import KVCache
from llmkit.config import PRESETS, preset
from llmkit.cost import forward_flops, kv_cache_bytes, parameters, training_flops, training_memory
from llmkit.model import Transformer


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("overrides", [{}, dict(tie_embeddings=False, qk_norm=False, head_dim=10)])
def test_parameters_equal_the_models(name, overrides):
    config = preset(name, **overrides)
    with torch.device("meta"):
        model = Transformer(config)
    assert parameters(config).total == sum(p.numel() for p in model.parameters())
    matrices = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.dim() == 2}
    assert parameters(config).matmul == sum(p.numel() for name, p in matrices.items() if name != "tok_emb.weight")


def test_presets_have_their_sizes():
    millions = {name: parameters(preset(name)).total / 1e6 for name in PRESETS}
    assert millions == pytest.approx({"nano": 0.23, "tiny": 0.85, "small": 4.7, "medium": 124}, rel=0.1)


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_forward_flops_equal_the_counters():
    config = preset("nano")
    model, t = Transformer(config), 40
    flops = forward_flops(config, t)
    assert flops.matmul == 2 * parameters(config).matmul * t
    with sdpa_kernel(SDPBackend.MATH):  # the counter does not know the CPU's fused kernel
        total = counted(lambda: model(torch.zeros(1, t).long()))
    # PyTorch counts all t^2 pairs of query and key, a causal text needs t (t + 1) / 2.
    assert flops.matmul + flops.attention * 2 * t / (t + 1) == total


def test_training_is_three_forwards():
    config, t = preset("nano"), 8
    assert training_flops(config, t).total == 3 * forward_flops(config, t).total
    per_token = training_flops(config, t).total / t
    assert per_token == 6 * parameters(config).matmul + 6 * config.n_layer * config.n_head * config.head_dim * (t + 1)


def test_cached_pieces_cost_what_the_whole_does():
    config = preset("tiny")
    pieces = [forward_flops(config, t, past).total for t, past in ((10, 0), (1, 10), (5, 11))]
    assert sum(pieces) == forward_flops(config, 16).total


def test_kv_cache_bytes_are_the_caches():
    config = preset("nano")
    cache = KVCache(config, batch_size=3, max_length=17)
    assert kv_cache_bytes(config, 3, 17) == sum(x.nbytes for x in cache.k + cache.v)


@pytest.mark.parametrize("qk_norm", [True, False])
def test_activations_are_what_autograd_keeps(qk_norm):
    config = preset("nano", qk_norm=qk_norm)
    model, idx = Transformer(config), torch.zeros(8, 64).long()
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
    assert training_memory(config, 8, 64).activations == pytest.approx(measured, rel=0.04)


def test_optimizer_memory_is_adamws():
    config = preset("nano")
    model = Transformer(config)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 2).long()).sum().backward()
    optimizer.step()
    moments = sum(x.nbytes for state in optimizer.state.values() for x in state.values() if x.dim())
    memory = training_memory(config, 1, 2)
    assert (memory.weights, memory.optimizer) == (sum(p.nbytes for p in model.parameters()), moments)

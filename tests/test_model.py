"""model: causality, packed documents, the cache, in every variant; initialisation, and what it refuses."""

import math

import pytest
import torch

from llmkit.attention import attention
from llmkit.cache import KVCache
from llmkit.config import CHOICES, MoEConfig, RopeScaling, preset
from llmkit.data import Batch
from llmkit.decode import decoder
from llmkit.generate import generate, generate_naive, generate_ragged
from llmkit.model import Transformer
from llmkit.optim import adamw
from llmkit.train import next_token_loss

VARIANTS = {
    "default": {},
    "learned": dict(positions="learned"),
    "sinusoidal": dict(positions="sinusoidal"),
    "alibi": dict(positions="alibi"),
    "alibi_mha": dict(positions="alibi", n_kv_head=4, qk_norm=False),
    "none": dict(positions="none", n_kv_head=1),
    "window": dict(sliding_window=4),
    "alibi_window": dict(positions="alibi", sliding_window=3),
    "biased": dict(bias=True),
    "yarn": dict(rope_scaling=RopeScaling("yarn", 4.0, original_context=16)),
    "layer_norm": dict(norm="layer"),
    "gelu": dict(mlp="gelu"),
    "gpt2": dict(norm="layer", mlp="gelu", positions="learned", bias=True, qk_norm=False, n_kv_head=4),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def model(seed=0, **overrides):
    torch.manual_seed(seed)
    net = Transformer(preset("nano", **{"n_layer": 2, "vocab_size": 50, **overrides}))
    with torch.no_grad():
        for weight in net.parameters():  # large enough that every part matters
            weight.normal_(0.0, 0.2)
    return net


def ids(b=2, t=12, seed=0):
    return torch.randint(0, 50, (b, t), generator=torch.Generator().manual_seed(seed))


@every_variant
def test_the_future_does_not_reach_the_past(variant):
    net, idx = model(**VARIANTS[variant]), ids()
    changed = idx.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 50
    before, after = net(idx), net(changed)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    window = net.config.sliding_window
    reach = 10 if window is None else 1 + 2 * (window - 1)  # each of two layers looks window - 1 tokens back
    differs = (before - after)[:, 2:].abs().amax(-1) > 1e-4  # (B, 10)
    assert differs[:, :reach].all() and not differs[:, reach:].any()


@every_variant
def test_packed_documents_equal_each_alone(variant):
    net, idx = model(**VARIANTS[variant]), ids()
    packed = net(idx, doc_ids=torch.tensor([[0] * 5 + [1] * 7, [3] * 1 + [9] * 3 + [4] * 8]))
    for row, bounds in ((0, (0, 5, 12)), (1, (0, 1, 4, 12))):
        for start, end in zip(bounds, bounds[1:], strict=False):
            alone = net(idx[row : row + 1, start:end])[0]
            torch.testing.assert_close(packed[row, start:end], alone, atol=1e-5, rtol=1e-5)


@every_variant
def test_packed_gradients_are_the_sum_of_each_alone(variant):
    net, idx = model(**VARIANTS[variant]), ids(b=1)
    doc_ids = torch.tensor([[0] * 5 + [1] * 7])

    def gradients(*logits):
        net.zero_grad()
        sum(x.square().sum() for x in logits).backward()
        return [p.grad.clone() for p in net.parameters()]

    packed = gradients(net(idx, doc_ids=doc_ids))
    alone = gradients(net(idx[:, :5]), net(idx[:, 5:]))
    for a, b in zip(packed, alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3 * a.abs().max().item(), rtol=1e-4)


@every_variant
@pytest.mark.parametrize("pieces", [(5, 1, 1, 5), (1,) * 12])
def test_cached_equals_naive(variant, pieces):
    net, idx = model(**VARIANTS[variant]), ids()
    cache = KVCache(net.config, 2)
    got = torch.cat([net(piece, cache) for piece in idx.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(got, net(idx), atol=1e-4, rtol=1e-4)


@every_variant
def test_generation_is_the_same_cached_naive_and_ragged(variant):
    net, idx = model(**VARIANTS[variant]), ids(b=3, t=9)
    prompts = [row[:n] for row, n in zip(idx, (9, 2, 5), strict=True)]
    naive = [generate_naive(net, prompt[None], 8, temperature=0)[0] for prompt in prompts]
    for prompt, text in zip(prompts, naive, strict=True):
        assert torch.equal(generate(net, prompt[None], 8, temperature=0)[0], text)
    for got, text in zip(generate_ragged(net, prompts, 8, temperature=0), naive, strict=True):
        assert torch.equal(got, text)


@every_variant
def test_the_flat_decoder_takes_what_it_knows_and_stands_aside_for_the_rest(variant):
    net = model(**VARIANTS[variant])
    knows = variant in ("default", "yarn") and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    assert (decoder(net, batch_size=1) is not net) == knows


@every_variant
def test_a_variant_learns(variant):
    torch.manual_seed(0)
    net, idx = Transformer(preset("nano", n_layer=2, vocab_size=50, **VARIANTS[variant])), ids(b=4, t=20)
    optimizer = adamw(net, lr=1e-2)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(net(idx[:, :-1]).flatten(0, 1), idx[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        optimizer.step()
    assert loss < 1.0 < math.log(50)


def test_a_bag_of_tokens_is_all_that_a_layer_without_positions_sees():
    net, idx = model(n_layer=1, positions="none"), ids(b=1)
    shuffled = torch.cat([idx[:, :-1].flip(1), idx[:, -1:]], dim=1)
    torch.testing.assert_close(net(idx)[:, -1], net(shuffled)[:, -1], atol=1e-5, rtol=1e-5)
    for positions in set(CHOICES["positions"]) - {"none"}:
        net = model(n_layer=1, positions=positions)
        assert not torch.allclose(net(idx)[:, -1], net(shuffled)[:, -1], atol=1e-3), positions


@pytest.mark.parametrize("positions", ["rope", "alibi", "none"])
def test_some_positions_know_distances_only(positions):
    """A text moved along by a document before it, which nothing of it may see, reads the same."""
    net, idx = model(positions=positions), ids(b=1)
    moved = net(idx, doc_ids=torch.tensor([[0] * 4 + [1] * 8]))[:, 4:]
    torch.testing.assert_close(moved, net(idx[:, 4:]), atol=1e-5, rtol=1e-5)


def test_attention_layers_equal_the_definition():
    """What the model's attention does with a window and ALiBi, from its own projections, in the open."""
    net = model(positions="alibi", sliding_window=3, qk_norm=False, bias=True)
    x, layer = torch.randn(1, 6, 64), net.blocks[0].attn
    heads = torch.nn.functional.linear(x, layer.qkv.weight, layer.qkv.bias).view(1, 6, 8, 16).transpose(1, 2)
    q, k, v = heads.split([4, 2, 2], dim=1)
    distance = torch.arange(6)[:, None] - torch.arange(6)  # (T, S)
    slopes = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8])
    mask = torch.where((distance >= 0) & (distance < 3), -slopes[:, None, None] * distance, -math.inf)
    out = attention(q, k, v, mask)[0].transpose(1, 2).reshape(1, 6, 64)
    expected = torch.nn.functional.linear(out, layer.out.weight, layer.out.bias)
    seen = {}
    layer.register_forward_pre_hook(lambda module, args: seen.update(mask=args[2]))
    net(ids(b=1, t=6))
    torch.testing.assert_close(seen["mask"], mask[None])
    torch.testing.assert_close(layer(x, None, seen["mask"]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scaling", [None, RopeScaling("ntk", 4.0)], ids=["longer", "stretched"])
def test_trained_weights_load_into_a_model_of_longer_context(scaling):
    short, idx = model(context_length=16), ids(b=1, t=40)
    long = Transformer(preset("nano", n_layer=2, vocab_size=50, context_length=64, rope_scaling=scaling))
    long.load_state_dict(short.state_dict())
    assert long(idx).isfinite().all()
    assert torch.equal(long(idx[:, :16]), short(idx[:, :16])) == (scaling is None)


def test_initial_loss_is_that_of_a_uniform_guess():
    torch.manual_seed(0)
    net = Transformer(preset("nano", vocab_size=512))
    idx = torch.randint(0, 512, (4, 64))
    loss = torch.nn.functional.cross_entropy(net(idx).flatten(0, 1), torch.randint(0, 512, (256,)))
    assert abs(loss.item() - math.log(512)) < 0.1


def test_initialisation_scales():
    torch.manual_seed(0)
    net = Transformer(preset("tiny"))
    block = net.blocks[0]
    for weight, std in ((net.tok_emb.weight, 0.02), (block.attn.qkv.weight, 0.02), (block.mlp.gate_up.weight, 0.02)):
        assert weight.std().item() == pytest.approx(std, rel=0.05)
    for weight in (block.attn.out.weight, block.mlp.down.weight):
        assert weight.std().item() == pytest.approx(0.02 / math.sqrt(8), rel=0.05)
    assert (block.norm1.weight == 1).all() and (block.attn.q_norm.weight == 1).all()
    gpt2 = Transformer(preset("tiny", norm="layer", mlp="gelu", positions="learned", bias=True))
    assert gpt2.pos_emb.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert all((p == 0).all() for name, p in gpt2.named_parameters() if name.endswith("bias"))


def test_tied_embeddings_are_one_tensor():
    net, untied = model(), model(tie_embeddings=False)
    assert net.lm_head.weight is net.tok_emb.weight
    assert untied.lm_head.weight is not untied.tok_emb.weight


def test_equal_configs_and_seeds_make_equal_models():
    a, b = model(seed=3), model(seed=3)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "idx, message",
    [
        (torch.zeros(1, 129, dtype=torch.int64), "129 tokens does not fit the context of 128"),
        (torch.zeros(3, dtype=torch.int64), r"\(B, T\)"),
        (torch.zeros(1, 0, dtype=torch.int64), "T >= 1"),
        (torch.zeros(0, 3, dtype=torch.int64), "B, T >= 1"),
        ([[1, 2, 3]], "not a list"),
        (torch.zeros(1, 3), "int64"),
        (torch.tensor([[0, 50]]), "0 .. 49"),
        (torch.tensor([[-100, 3]]), "-100"),
    ],
)
def test_bad_ids_are_refused_with_a_sentence(idx, message):
    with pytest.raises(ValueError, match=message):
        model()(idx)


EXPERTS = dict(moe=MoEConfig(8, 2, 24, n_shared=1, capacity_factor=1.0))


@pytest.mark.parametrize("overrides", [*VARIANTS.values(), EXPERTS], ids=[*VARIANTS, "experts"])
def test_training_never_waits_for_a_gpu(overrides):
    """A "meta" tensor has a shape and no numbers, so what a GPU would have to be waited for is an error there."""
    with torch.device("meta"):
        net = Transformer(preset("nano", n_layer=2, **overrides)).compute_in(torch.bfloat16)
        idx = torch.zeros(2, 9, dtype=torch.int64)
    next_token_loss(net, Batch(idx, idx, doc_ids=idx)).backward()
    assert all(p.grad.shape == p.shape for p in net.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        idx.aminmax()[0].item()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own, on autograd functions
@pytest.mark.parametrize("overrides", [{}, EXPERTS], ids=["default", "experts"])
def test_a_gpu_compiles_the_forward_pass_as_one_graph(overrides):
    with torch.device("meta"):
        net = Transformer(preset("nano", n_layer=2, **overrides)).compute_in(torch.bfloat16)
        idx = torch.zeros(2, 9, dtype=torch.int64)
    logits = torch.compile(net, backend="eager", fullgraph=True)(idx, doc_ids=idx)  # fullgraph: a break is an error
    assert logits.shape == (2, 9, net.config.vocab_size)


def test_bad_doc_ids_are_refused():
    with pytest.raises(ValueError, match="shape of idx"):
        model()(ids(), doc_ids=torch.zeros(1, 12))


@every_variant
def test_a_model_converted_whole_runs_cached_too(variant):
    net, idx = model(**VARIANTS[variant]), ids(b=1)
    expected = net(idx)
    net.double()
    torch.testing.assert_close(net(idx).float(), expected, atol=1e-4, rtol=1e-4)
    net.bfloat16()
    cache = KVCache(net.config, 1, dtype=torch.bfloat16)
    got = torch.cat([net(piece, cache) for piece in idx.split([7, 1, 4], dim=1)], dim=1)
    assert got.dtype == torch.bfloat16
    assert torch.cosine_similarity(got.float().flatten(), expected.flatten(), dim=0) > 0.99


@every_variant
def test_mixed_precision_computes_in_bfloat16_and_keeps_float32_weights(variant):
    config = preset("nano", **VARIANTS[variant])
    torch.manual_seed(0)
    net, idx = Transformer(config), torch.randint(0, config.vocab_size, (2, 20))
    exact = net(idx)
    exact.logsumexp(-1).sum().backward()
    gradients = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    rough = net.compute_in(torch.bfloat16)(idx)
    rough.float().logsumexp(-1).sum().backward()
    assert rough.dtype == torch.bfloat16 and not torch.equal(rough.float(), exact)
    torch.testing.assert_close(rough.float(), exact, atol=0.02, rtol=0.02)
    for name, p in net.named_parameters():
        assert p.dtype == p.grad.dtype == torch.float32
        if gradients[name].norm() > 1e-3:  # a key's bias moves all scores alike: its gradient is zero but for rounding
            assert torch.cosine_similarity(p.grad.flatten(), gradients[name].flatten(), dim=0) > 0.995, name
    assert torch.equal(net.compute_in(None)(idx), exact)


@every_variant
def test_generation_in_mixed_precision_is_the_same_cached_and_naive(variant):
    torch.manual_seed(0)
    net, idx = Transformer(preset("nano", **VARIANTS[variant])), torch.randint(0, 1000, (1, 9))
    net.compute_in(torch.bfloat16)
    torch.testing.assert_close(generate(net, idx, 12, temperature=0), generate_naive(net, idx, 12, temperature=0))

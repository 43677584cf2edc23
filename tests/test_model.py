"""model: causality, packed documents, initialisation, and what it refuses."""

import math

import pytest
import torch

from llmkit.config import preset
from llmkit.generate import generate, generate_naive
from llmkit.model import Transformer

CONFIG = preset("nano", n_layer=2, vocab_size=50)


def model(seed=0, **overrides):
    torch.manual_seed(seed)
    net = Transformer(preset("nano", **{"n_layer": 2, "vocab_size": 50, **overrides}))
    with torch.no_grad():
        for weight in net.parameters():  # large enough that every part matters
            weight.normal_(0.0, 0.2)
    return net


def ids(b=2, t=12, seed=0):
    return torch.randint(0, 50, (b, t), generator=torch.Generator().manual_seed(seed))


def test_the_future_does_not_reach_the_past():
    net, idx = model(), ids()
    changed = idx.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 50
    before, after = net(idx), net(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert ((before - after)[:, 7:].abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("n_kv_head", [2, 4])
def test_packed_documents_equal_each_alone(n_kv_head):
    net, idx = model(n_kv_head=n_kv_head), ids()
    packed = net(idx, doc_ids=torch.tensor([[0] * 5 + [1] * 7, [3] * 1 + [9] * 3 + [4] * 8]))
    for row, bounds in ((0, (0, 5, 12)), (1, (0, 1, 4, 12))):
        for start, end in zip(bounds, bounds[1:], strict=False):
            alone = net(idx[row : row + 1, start:end])[0]
            torch.testing.assert_close(packed[row, start:end], alone, atol=1e-5, rtol=1e-5)


def test_packed_gradients_are_the_sum_of_each_alone():
    net, idx = model(), ids(b=1)
    doc_ids = torch.tensor([[0] * 5 + [1] * 7])

    def gradients(*logits):
        net.zero_grad()
        sum(x.square().sum() for x in logits).backward()
        return [p.grad.clone() for p in net.parameters()]

    packed = gradients(net(idx, doc_ids=doc_ids))
    alone = gradients(net(idx[:, :5]), net(idx[:, 5:]))
    for a, b in zip(packed, alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


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
        (torch.zeros(1, 3), "int64"),
        (torch.tensor([[0, 50]]), "0 .. 49"),
        (torch.tensor([[-100, 3]]), "-100"),
    ],
)
def test_bad_ids_are_refused_with_a_sentence(idx, message):
    with pytest.raises(ValueError, match=message):
        model()(idx)


def test_bad_doc_ids_are_refused():
    with pytest.raises(ValueError, match="shape of idx"):
        model()(ids(), doc_ids=torch.zeros(1, 12))


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32_weights():
    config = preset("nano")
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
        assert torch.cosine_similarity(p.grad.flatten(), gradients[name].flatten(), dim=0) > 0.995, name
    assert torch.equal(net.compute_in(None)(idx), exact)


def test_generation_in_mixed_precision_is_the_same_cached_and_naive():
    torch.manual_seed(0)
    net, idx = Transformer(preset("nano")).compute_in(torch.bfloat16), torch.randint(0, 1000, (1, 9))
    torch.testing.assert_close(generate(net, idx, 12, temperature=0), generate_naive(net, idx, 12, temperature=0))

"""decode: the flat way gives the model's logits, and stands aside where it does not apply."""

import pytest
import torch

from llmkit.cache import KVCache
from llmkit.config import preset
from llmkit.decode import Decoder, decoder
from llmkit.model import Transformer


def model(**overrides):
    torch.manual_seed(0)
    net = Transformer(preset("nano", **{"n_layer": 2, "vocab_size": 50, **overrides}))
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(0.0, 0.2)
    return net


@pytest.mark.parametrize(
    "overrides",
    [{}, dict(n_kv_head=4), dict(n_kv_head=1), dict(qk_norm=False), dict(tie_embeddings=False), dict(head_dim=20)],
    ids=str,
)
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_the_model(overrides, threads):
    net, before = model(**overrides), torch.get_num_threads()
    idx = torch.randint(0, 50, (1, 20), generator=torch.Generator().manual_seed(1))
    cache = KVCache(net.config, 1)
    try:
        torch.set_num_threads(threads)
        step = Decoder(net)
        net(idx[:, :5], cache)
        got = torch.cat([step(idx[:, i : i + 1], cache) for i in range(5, 20)], dim=1)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(got, net(idx)[:, 5:], atol=1e-5, rtol=1e-5)


def test_reads_the_weights_of_the_moment_it_is_made():
    net, idx = model(), torch.tensor([[7]])
    decoder(net, batch_size=1)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.1) if weight.dim() == 2 else None
    torch.testing.assert_close(Decoder(net)(idx, KVCache(net.config, 1)), net(idx), atol=1e-5, rtol=1e-5)


def test_the_logits_may_be_used_in_training():
    net = model()
    logits = Decoder(net)(torch.tensor([[7]]), KVCache(net.config, 1))
    net(logits.argmax(-1)).sum().backward()
    assert net.tok_emb.weight.grad.abs().sum() > 0


def test_stands_aside_where_it_does_not_apply():
    net = model()
    assert decoder(net, batch_size=2) is net
    net.double()
    assert decoder(net, batch_size=1) is net
    net = model()
    net.blocks[0].mlp.register_forward_hook(lambda *args: None)
    assert decoder(net, 1) is net
    net = model()
    net.blocks[0].attn.out = torch.nn.Sequential(net.blocks[0].attn.out)
    assert decoder(net, 1) is net
    net = model()
    net.blocks[0].mlp.forward = torch.zeros_like
    assert decoder(net, 1) is net


def test_bad_ids_are_refused_as_by_the_model():
    net = model()
    with pytest.raises(ValueError, match="0 .. 49"):
        Decoder(net)(torch.tensor([[50]]), KVCache(net.config, 1))
    cache = KVCache(net.config, 1, max_length=1)
    Decoder(net)(torch.tensor([[5]]), cache)
    with pytest.raises(ValueError, match="2 tokens"):
        Decoder(net)(torch.tensor([[5]]), cache)

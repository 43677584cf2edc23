"""cache: cached logits equal naive logits, whatever the lengths of the rows."""

import pytest
import torch

from llmkit.cache import KVCache
from llmkit.config import preset
from llmkit.model import Transformer


@pytest.fixture(params=[1, 2, 4], ids=["MQA", "GQA", "MHA"])
def net(request):
    torch.manual_seed(0)
    model = Transformer(preset("nano", n_layer=2, vocab_size=50, context_length=24, n_kv_head=request.param))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.2)
    return model


def ids(b, t):
    return torch.randint(0, 50, (b, t), generator=torch.Generator().manual_seed(b + t))


@pytest.mark.parametrize("pieces", [(20,), (7, 1, 1, 1, 10), (1,) * 20, (5, 6, 1, 8)])
@pytest.mark.parametrize("batch", [1, 3])
def test_cached_equals_naive(net, pieces, batch):
    idx, cache = ids(batch, 20), KVCache(net.config, batch)
    got = torch.cat([net(piece, cache=cache) for piece in idx.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(got, net(idx), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("step", [1, 3])
def test_rows_of_different_length(net, step):
    idx, lengths = ids(3, 24), [4, 9, 6]
    cache = KVCache(net.config, 3)
    net(idx[:, :9], cache=cache)  # what stands beyond a row's length is only padding
    cache.truncate(lengths)
    for _ in range(12 // step):
        starts = list(cache.lengths)
        piece = torch.stack([idx[row, n : n + step] for row, n in enumerate(starts)])
        got = net(piece, cache=cache)
        for row, n in enumerate(starts):
            alone = net(idx[row : row + 1, : n + step])[0, n:]
            torch.testing.assert_close(got[row], alone, atol=1e-5, rtol=1e-5)


def test_truncated_tokens_leave_no_trace(net):
    idx, cache = ids(2, 12), KVCache(net.config, 2)
    net(ids(2, 10), cache=cache)
    cache.truncate([0, 0])
    torch.testing.assert_close(net(idx, cache=cache), net(idx), atol=1e-5, rtol=1e-5)


def test_a_text_that_outgrows_the_cache_is_refused(net):
    cache = KVCache(net.config, 1, max_length=10)
    net(ids(1, 10), cache=cache)
    with pytest.raises(ValueError, match="11 tokens"):
        net(ids(1, 1), cache=cache)
    assert cache.lengths == [10]
    with pytest.raises(ValueError, match="1 .. 24"):
        KVCache(net.config, 1, max_length=25)
    with pytest.raises(ValueError, match="batch_size 0"):
        KVCache(net.config, 0)


def test_misuse_is_refused(net):
    cache = KVCache(net.config, 2)
    with pytest.raises(ValueError, match="2 texts"):
        net(ids(3, 4), cache=cache)
    net(ids(2, 4), cache=cache)
    with pytest.raises(ValueError, match="what the row holds"):
        cache.truncate([4, 5])
    with pytest.raises(ValueError, match="doc_ids"):
        net(ids(2, 4), cache=cache, doc_ids=torch.zeros(2, 4))

"""activations: what is captured is what ran, shares add up to logits, what is changed leaves no trace."""

import pytest
import torch

from llmkit import activations
from llmkit.attention import causal_mask
from llmkit.config import RopeScaling, preset
from llmkit.generate import generate, generate_naive
from llmkit.model import Transformer
from llmkit.positions import alibi_slopes

SIZES = dict(n_layer=3, vocab_size=50, d_model=48, head_dim=12, d_ff=80)
VARIANTS = {
    "gqa": {},
    "mha_untied": dict(n_kv_head=4, tie_embeddings=False),
    "mqa_llama": dict(n_kv_head=1, qk_norm=False),
    "gpt2": dict(norm="layer", mlp="gelu", positions="learned", bias=True, qk_norm=False, n_kv_head=4),
    "layernorm_without_bias": dict(norm="layer", positions="sinusoidal"),
    "swiglu_with_bias": dict(bias=True, positions="none"),
    "alibi": dict(positions="alibi"),
    "window": dict(sliding_window=4),
    "alibi_window": dict(positions="alibi", sliding_window=4),
    "yarn": dict(rope_scaling=RopeScaling("yarn", 4.0, 8)),
}


def model(**overrides):
    torch.manual_seed(0)
    net = Transformer(preset("nano", **{**SIZES, **overrides}))
    with torch.no_grad():
        for weight in net.parameters():  # large enough that every part matters
            weight.normal_(0.0, 0.2)
    return net


@pytest.fixture(scope="module", params=VARIANTS)
def net(request):
    return model(**VARIANTS[request.param])


def ids(b=2, t=9, seed=0):
    return torch.randint(0, 50, (b, t), generator=torch.Generator().manual_seed(seed))


def everything(net):
    c = net.config
    return dict(heads=[(x, y) for x in range(c.n_layer) for y in range(c.n_head)], mlps=range(c.n_layer))


def hooks(net):
    return [hook for m in net.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


# ---- looking ----


@pytest.mark.parametrize("t", [1, 9])
def test_the_captured_attention_reproduces_the_layer(net, t):
    idx, c = ids(t=t), net.config
    acts = activations.capture(net, idx)
    torch.testing.assert_close(acts.logits, net(idx))
    v = acts.v.repeat_interleave(c.n_head // c.n_kv_head, dim=2)  # (L, B, H, T, D)
    close(acts.att @ v, acts.heads)
    close(acts.att.sum(-1), torch.ones_like(acts.att[..., 0]))
    layers = outputs_of([block.attn for block in net.blocks], net, idx)
    for layer, block in enumerate(net.blocks):
        close(block.attn.out((acts.att @ v)[layer].transpose(1, 2).flatten(2)), layers[layer])


def outputs_of(modules, net, idx):
    """What the modules return while the net runs."""
    outs, handles = [], [m.register_forward_hook(lambda m, args, out: outs.append(out)) for m in modules]
    net(idx)
    for handle in handles:
        handle.remove()
    return outs


def test_scores_of_the_captured_queries_and_keys_are_the_attention(net):
    acts, c = activations.capture(net, ids()), net.config
    k = acts.k.repeat_interleave(c.n_head // c.n_kv_head, dim=2)
    scores = acts.q @ k.mT / c.head_dim**0.5
    distance = torch.arange(9)[:, None] - torch.arange(9)
    if c.positions == "alibi":
        scores = scores - alibi_slopes(c.n_head)[:, None, None] * distance
    hidden = (distance < 0) | (distance >= (c.sliding_window or 9))
    close(scores.masked_fill(hidden, -torch.inf).softmax(-1), acts.att)


def test_the_stream_is_the_sum_of_what_was_written_to_it(net):
    acts = activations.capture(net, ids())
    written = activations.head_outputs(net, acts).sum(2) + acts.mlps  # (L, B, T, C)
    if net.config.bias:
        written += torch.stack([block.attn.out.bias for block in net.blocks])[:, None, None]
    close(acts.resid[0] + written.cumsum(0), acts.resid[1:])
    close(acts.resid[0], embedding(net, ids()))


def embedding(net, idx):
    return net.pos_emb.embed(net.tok_emb(idx), slice(0, idx.shape[1]))


@pytest.mark.parametrize("position", [0, 4, -1])
def test_shares_add_up_to_the_logit(net, position):
    idx, token = ids(), torch.tensor([3, 41])
    parts = activations.attribution(net, idx, position, token)
    assert parts.heads.shape == (2, 3, 4) and parts.mlps.shape == (2, 3)
    total = parts.embedding + parts.heads.sum((1, 2)) + parts.mlps.sum(1) + parts.bias
    close(total, parts.logit)
    close(parts.logit, net(idx)[range(2), position, token])


def test_a_share_is_the_part_s_own_output_read_by_the_unembedding():
    net, idx = model(), ids(b=1)
    acts = activations.capture(net, idx)
    x = acts.resid[-1, 0, 5]
    read = net.lm_head.weight[7] * net.norm_f.weight / (x.square().mean() + net.config.norm_eps).sqrt()
    parts = activations.attribution(net, idx, 5, 7)
    close(parts.heads[0], (activations.head_outputs(net, acts)[:, 0, :, 5] @ read))
    close(parts.mlps[0], acts.mlps[:, 0, 5] @ read)


def test_the_lens_at_the_end_is_the_model(net):
    idx = ids()
    acts = activations.capture(net, idx)
    lens = activations.logit_lens(net, acts.resid)
    assert lens.shape == (4, 2, 9, 50)
    torch.testing.assert_close(lens[-1], net(idx))
    torch.testing.assert_close(lens[0], net.lm_head(net.norm_f(embedding(net, idx))))


# ---- changing ----


def test_without_any_part_the_embedding_speaks(net):
    idx = ids()
    with activations.ablated(net, **everything(net)):
        changed = net(idx)
    bias = sum(block.attn.out.bias for block in net.blocks) if net.config.bias else 0.0  # belongs to no head
    close(changed, net.lm_head(net.norm_f(embedding(net, idx) + bias)))
    assert (changed - net(idx)).abs().max() > 0.1


def test_a_zeroed_head_is_a_model_whose_output_matrix_lacks_its_columns():
    net, other, idx = model(), model(), ids()
    with torch.no_grad():
        other.blocks[1].attn.out.weight[:, 2 * 12 : 3 * 12] = 0.0
        other.blocks[2].mlp.down.weight.zero_()
    with activations.ablated(net, heads=[(1, 2)], mlps=[2]):
        torch.testing.assert_close(net(idx), other(idx))


def test_mean_ablation_writes_the_average_of_the_reference():
    net, idx, reference = model(), ids(), ids(b=5, t=12, seed=1)
    before = activations.capture(net, reference)
    with activations.ablated(net, heads=[(1, 2), (1, 0)], mlps=[0], value="mean", reference=reference):
        acts = activations.capture(net, idx)
    assert (acts.mlps[0] - before.mlps[0].mean((0, 1))).abs().max() < 1e-5
    for head in (0, 2):
        assert (acts.heads[1, :, head] - before.heads[1, :, head].mean((0, 1))).abs().max() < 1e-5
    assert acts.heads[1, :, 1].std(dim=1).min() > 1e-3


def test_patching_everything_makes_the_other_prompt(net):
    a, b = ids(seed=0), ids(seed=1)
    source = activations.capture(net, b)
    with activations.patched(net, source, **everything(net), resid=[(0, p) for p in range(9)]):
        torch.testing.assert_close(net(a), source.logits)
        torch.testing.assert_close(net(idx=a, cache=None), source.logits)
    with activations.patched(net, source, resid=[(3, p) for p in range(9)]):
        torch.testing.assert_close(net(a), source.logits)


def test_patching_one_value_changes_that_value_alone():
    net, a, b = model(), ids(seed=0), ids(b=1, seed=1)
    source, plain = activations.capture(net, b), activations.capture(net, a)
    with activations.patched(net, source, heads=[(1, 3)], mlps=[1], positions=[4, 6]):
        acts = activations.capture(net, a)
    heads, mlps = plain.heads[1].clone(), acts.mlps[1].clone()
    heads[:, 3, [4, 6]] = source.heads[1, :, 3, [4, 6]]
    mlps[:, [4, 6]] = source.mlps[1][:, [4, 6]]
    torch.testing.assert_close(acts.heads[1], heads)
    torch.testing.assert_close(acts.mlps[1], mlps)
    torch.testing.assert_close(acts.resid[2][:, :4], plain.resid[2][:, :4])
    assert (acts.resid[2] - plain.resid[2])[:, [4, 6]].abs().amax(-1).min() > 1e-3


def test_the_residual_of_one_position_is_patched():
    net, a, b = model(), ids(seed=0), ids(seed=1)
    source = activations.capture(net, b)
    with activations.patched(net, source, resid=[(2, 5)]):
        acts = activations.capture(net, a)
    expected = activations.capture(net, a).resid[2]
    expected[:, 5] = source.resid[2][:, 5]
    torch.testing.assert_close(acts.resid[2], expected)


def test_a_changed_model_generates_alike_with_and_without_a_cache():
    net, idx = model(), ids(b=1)
    plain = generate(net, idx, 12, temperature=0)
    with activations.ablated(net, heads=[(0, 1), (1, 1)], mlps=[1]):
        ablated = generate(net, idx, 12, temperature=0)
        assert torch.equal(ablated, generate_naive(net, idx, 12, temperature=0))
    source = activations.capture(net, ids(b=1, seed=1))
    with activations.patched(net, source, mlps=[0, 1], resid=[(1, 8)]):
        patched = generate(net, idx, 12, temperature=0)
        assert torch.equal(patched, generate_naive(net, idx, 12, temperature=0))
    assert not torch.equal(plain, ablated) and not torch.equal(plain, patched)


def test_nothing_stays_behind():
    net, idx = model(), ids()
    before, weights = net(idx), {name: w.clone() for name, w in net.state_dict().items()}
    source = activations.capture(net, idx)
    activations.attribution(net, idx, 0, 0)
    with activations.ablated(net, heads=[(0, 0)], value="mean", reference=idx):
        assert hooks(net)
        with activations.patched(net, source, mlps=[0]):
            net(idx)
    with pytest.raises(ZeroDivisionError), activations.ablated(net, mlps=[0]):
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="fit the context"):
        activations.capture(net, ids(t=200))
    with pytest.raises(ValueError, match="does not fit a run"), activations.patched(net, source, mlps=[0]):
        net(ids(t=5))
    assert hooks(net) == []
    assert torch.equal(net(idx), before)
    assert all(torch.equal(w, weights[name]) for name, w in net.state_dict().items())


@pytest.mark.parametrize(
    "use, message",
    [
        (
            lambda net, source: activations.ablated(net, heads=[(3, 0)]),
            "layer 3, head 0: there are 3 layers of 4 heads",
        ),
        (lambda net, source: activations.ablated(net, heads=[(0, -1)]), "head -1"),
        (lambda net, source: activations.ablated(net, mlps=[5]), "layer 5"),
        (lambda net, source: activations.ablated(net, value="mean"), "reference batch"),
        (lambda net, source: activations.ablated(net, value="zero", reference=ids()), "reference batch"),
        (lambda net, source: activations.ablated(net, value="median"), '"zero", or "mean"'),
        (lambda net, source: activations.patched(net, source, mlps=[0], positions=[9]), r"9 tokens, not \(0, 9\)"),
        (lambda net, source: activations.patched(net, source, resid=[(4, 0)]), r"layers 0 .. 3 .* not \(4, 0\)"),
        (lambda net, source: activations.patched(model(n_layer=2), source), "another shape"),
    ],
)
def test_a_wrong_place_is_named(use, message):
    net = model()
    with pytest.raises(ValueError, match=message), use(net, activations.capture(net, ids())):
        pass
    assert hooks(net) == []


@pytest.mark.parametrize(
    "position, token, message", [(9, 0, "position 9"), (-10, 0, "position -10"), (0, 50, "50, 50. in 50")]
)
def test_a_wrong_reading_is_named(position, token, message):
    with pytest.raises(ValueError, match=message):
        activations.attribution(model(), ids(), position, token)


def test_the_lens_reads_residuals_only():
    with pytest.raises(ValueError, match="d_model 48"):
        activations.logit_lens(model(), torch.zeros(2, 47))


# ---- what heads do ----


def test_repeated_tokens_are_distinct_and_twice():
    rows = activations.repeated_tokens(40, 16, 3, start=49, generator=torch.Generator().manual_seed(0))
    assert rows.shape == (3, 33) and (rows[:, 0] == 49).all() and rows[:, 1:].max() < 40
    assert torch.equal(rows[:, 1:17], rows[:, 17:])
    assert all(len(set(row.tolist())) == 17 for row in rows)
    with pytest.raises(ValueError, match="41"):
        activations.repeated_tokens(40, 41, 3)


def test_each_kind_of_head_scores_one_on_its_own_kind():
    n, t = 6, 13
    idx = activations.repeated_tokens(20, n, 2, start=20)
    att = torch.zeros(1, 2, 4, t, t)  # heads: previous token, same token, induction, uniform
    for head, back in enumerate((1, n, n - 1)):
        for query in range(t):
            att[0, :, head, query, max(query - back, 0)] = 1.0
    att[0, :, 3] = causal_mask(t) / torch.arange(1, t + 1)[:, None]
    scores = activations.head_scores(att, idx)
    uniform = (1 / torch.arange(8, 14)).mean()
    close(scores.previous_token[0, [0, 3]], torch.tensor([1.0, (1 / torch.arange(2, 14)).mean()]))
    close(scores.same_token, torch.tensor([[0, 1.0, 0, uniform]]))
    close(scores.induction, torch.tensor([[0, 0, 1.0, uniform]]))


def test_scores_on_a_text_by_hand():
    idx = torch.tensor([[5, 7, 5, 5]])  # the third token was seen once, before 7; the fourth twice, before 7 and 5
    att = torch.tensor([[1.0, 0, 0, 0], [0.6, 0.4, 0, 0], [0.1, 0.7, 0.2, 0], [0.1, 0.2, 0.3, 0.4]])[None, None, None]
    scores = activations.head_scores(att, idx)
    close(scores.previous_token, torch.tensor([[(0.6 + 0.7 + 0.3) / 3]]))
    close(scores.same_token, torch.tensor([[(0.1 + 0.4) / 2]]))
    close(scores.induction, torch.tensor([[(0.7 + 0.2) / 2]]))


@pytest.mark.parametrize("idx, message", [([[1, 2, 3, 1]], "att must be")])
def test_scores_need_the_texts_of_the_weights(idx, message):
    with pytest.raises(ValueError, match=message):
        activations.head_scores(torch.ones(2, 1, 4, 3, 3), torch.tensor(idx))

"""moe: routing by hand, grouped = naive, capacity, balance; and the rest of the library takes experts as they are."""

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from llmkit import checkpoint, hf, moe
from llmkit.activations import ablated, capture, patched
from llmkit.cache import KVCache
from llmkit.config import ModelConfig, MoEConfig, preset
from llmkit.cost import decode_bytes, forward_flops, parameters, training_memory
from llmkit.data import Batch
from llmkit.decode import decoder
from llmkit.generate import generate
from llmkit.hf_config import read_config, write_config
from llmkit.model import Transformer
from llmkit.optim import adamw, muon
from llmkit.train import fit, next_token_loss

EXPERTS = MoEConfig(n_expert=8, n_active=2, d_expert=24)
EVERYTHING = MoEConfig(5, 3, 12, n_shared=2, norm_weights=False, capacity_factor=0.8)


def model(experts=EXPERTS, **overrides):
    torch.manual_seed(0)
    net = Transformer(preset("nano", **{"n_layer": 2, "vocab_size": 50, "moe": experts, **overrides}))
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(0.0, 0.2)
    return net


def ids(*shape):
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(1))


def pieces(n, c, f, n_expert, n_active, dtype=torch.float32, **options):
    """Tokens, a routing and experts, all random and with gradients."""
    g = torch.Generator().manual_seed(n)

    def rand(*shape, size=1.0):
        return (size * torch.randn(*shape, generator=g)).to(dtype).requires_grad_()

    x, logits = rand(n, c), rand(n, n_expert)
    gate_up, down = rand(n_expert, 2 * f, c, size=0.3), rand(n_expert, c, f, size=0.3)
    routing = moe.route(logits.float(), MoEConfig(n_expert, n_active, f, **options))
    return x, logits, routing, gate_up, down


# ---- routing ----

LOGITS = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]).log()  # probabilities in these proportions


def test_a_token_goes_to_its_likeliest_experts_with_weights_that_sum_to_one():
    routing = moe.route(LOGITS, MoEConfig(4, 2, 8))
    torch.testing.assert_close(routing.probs, LOGITS.exp())
    assert routing.experts[0].tolist() == [3, 2] and routing.experts[1, 0] == 0
    torch.testing.assert_close(routing.weights, torch.tensor([[4 / 7, 3 / 7], [0.875, 0.125]]))
    assert routing.kept.all()
    plain = moe.route(LOGITS, MoEConfig(4, 2, 8, norm_weights=False))
    torch.testing.assert_close(plain.weights, torch.tensor([[0.4, 0.3], [0.7, 0.1]]))


def test_the_bias_changes_who_is_chosen_and_no_weight():
    routing = moe.route(LOGITS, MoEConfig(4, 2, 8, norm_weights=False), torch.tensor([0.25, 0.0, 0.0, 0.0]))
    assert routing.experts[0].tolist() == [3, 0]  # 0.4, 0.1 + 0.25, against 0.3
    torch.testing.assert_close(routing.weights[0], torch.tensor([0.4, 0.1]))
    torch.testing.assert_close(routing.probs, LOGITS.exp())


def test_first_come_first_served():
    experts = torch.tensor([[0, 1], [0, 2], [0, 1], [2, 0]])
    routing = moe.within_capacity(experts, MoEConfig(4, 2, 8, capacity_factor=0.7))  # ceil(0.7 * 8 / 4) = 2 each
    assert routing.tolist() == [[True, True], [True, True], [False, True], [True, False]]
    assert moe.within_capacity(experts, MoEConfig(4, 2, 8)).all()


@pytest.mark.parametrize("n, factor", [(1, 0.1), (1, 1.0), (40, 0.3), (40, 1.0), (40, 4.0)])
def test_no_expert_takes_more_than_its_capacity(n, factor):
    *_, routing, _, _ = pieces(n, 8, 8, 8, 2, capacity_factor=factor)
    taken = torch.bincount(routing.experts[routing.kept], minlength=8)
    wanted = torch.bincount(routing.experts.flatten(), minlength=8)
    assert torch.equal(taken, wanted.clamp_max(math.ceil(factor * n * 2 / 8)))
    assert n > 1 or routing.kept.all()  # one token alone never asks an expert twice


# ---- two computations ----


def routing_is_constant(options):  # of one expert, with weights that sum to one
    return options.get("norm_weights", True)


@pytest.mark.parametrize("options", [{}, dict(norm_weights=False), dict(capacity_factor=0.6)], ids=str)
@pytest.mark.parametrize("sizes", [(40, 16, 24, 8, 2), (3, 16, 8, 16, 1), (7, 10, 6, 3, 3), (1, 8, 8, 4, 2)], ids=str)
def test_grouped_is_naive(sizes, options):
    results = []
    for compute in (moe.naive, moe.grouped):
        x, logits, routing, gate_up, down = pieces(*sizes, **options)
        out = compute(x, routing, gate_up, down)
        out.square().sum().backward()
        results.append((out.detach(), *(t.grad for t in (x, logits, gate_up, down))))
    for name, a, b in zip(("out", "x", "logits", "gate_up", "down"), *results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
        assert a.abs().max() > 1e-3 or (name == "logits" and sizes[-1] == 1 and routing_is_constant(options))


def test_grouped_without_pytorchs_kernel(monkeypatch):
    x, _, routing, gate_up, down = pieces(30, 16, 24, 8, 2)
    wanted = moe.naive(x, routing, gate_up, down)
    torch.testing.assert_close(moe.grouped(x, routing, gate_up, down), wanted, atol=1e-4, rtol=1e-4)
    monkeypatch.delattr(F, "grouped_mm", raising=False)
    torch.testing.assert_close(moe.grouped(x, routing, gate_up, down), wanted, atol=1e-4, rtol=1e-4)


def test_grouped_is_naive_in_float64_which_pytorchs_kernel_does_not_take():
    x, _, routing, gate_up, down = pieces(30, 16, 24, 8, 2, torch.float64)
    torch.testing.assert_close(moe.grouped(x, routing, gate_up, down), moe.naive(x, routing, gate_up, down))


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, which come or not with the tests before
def test_a_mixture_compiles_in_float32_too():
    net, idx = model(EXPERTS), ids(2, 16)
    with torch.no_grad():
        compiled = torch.compile(net, backend="aot_eager")
        torch.testing.assert_close(compiled(idx), net(idx), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("f", [24, 6])  # the kernel's alignment, and not
def test_grouped_is_naive_in_bfloat16(f):
    x, _, routing, gate_up, down = pieces(30, 16, f, 8, 2, torch.bfloat16)
    a, b = moe.naive(x, routing, gate_up, down), moe.grouped(x, routing, gate_up, down)
    assert b.dtype == torch.bfloat16
    torch.testing.assert_close(a, b, atol=0.05 * a.abs().max().item(), rtol=0.05)


def test_one_expert_that_all_go_to_is_an_mlp():
    net, dense = model(MoEConfig(1, 1, 24)), model(None, d_ff=24)
    for sparse_block, block in zip(net.blocks, dense.blocks, strict=True):
        block.mlp.gate_up.weight.data = sparse_block.mlp.gate_up.data[0]
        block.mlp.down.weight.data = sparse_block.mlp.down.data[0]
    weights = {name: w for name, w in net.state_dict().items() if ".mlp." not in name}
    dense.load_state_dict(weights, strict=False)
    torch.testing.assert_close(net(ids(2, 9)), dense(ids(2, 9)), atol=1e-4, rtol=1e-4)


def test_a_layer_is_weighted_experts_and_what_all_share():
    net = model(EVERYTHING)
    layer, x = net.blocks[0].mlp, torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(2))
    out, r = layer(x), layer.routing
    for n, token in enumerate(x.view(10, 64)):
        gate, up = layer.shared_gate_up(token).chunk(2)
        wanted = layer.shared_down(F.silu(gate) * up)
        for e, weight, kept in zip(r.experts[n], r.weights[n], r.kept[n], strict=True):
            gate, up = (layer.gate_up[e] @ token).chunk(2)
            wanted = wanted + kept * weight * (layer.down[e] @ (F.silu(gate) * up))
        torch.testing.assert_close(out.view(10, 64)[n], wanted, atol=1e-4, rtol=1e-4)
    assert not r.kept.all()


# ---- balance ----


def test_the_balance_loss_by_hand():
    net = model(MoEConfig(4, 2, 8), n_layer=1)
    net.blocks[0].mlp.routing = moe.route(LOGITS, MoEConfig(4, 2, 8))
    load = torch.bincount(net.blocks[0].mlp.routing.experts.flatten(), minlength=4) / 2  # f: sums to k = 2
    mean = torch.tensor([0.4, 0.15, 0.2, 0.25])
    torch.testing.assert_close(moe.load_balance_loss(net), 4 * (load * mean).sum())


def test_the_balance_loss_is_n_active_when_balanced_and_n_expert_when_one_gets_all():
    net, experts = model(MoEConfig(4, 1, 8)), MoEConfig(4, 1, 8)
    for logits, value in ((20 * torch.eye(4), 1.0), (20 * torch.eye(4)[[2, 2, 2, 2]], 4.0)):
        for block in net.blocks:
            block.mlp.routing = moe.route(logits, experts)
        assert moe.load_balance_loss(net).item() == pytest.approx(value, rel=1e-5)


def test_layers_that_lean_apart_cancel_out_unless_each_is_taken_by_itself():
    net, experts = model(MoEConfig(4, 1, 8)), MoEConfig(4, 1, 8)
    for block, favourites in zip(net.blocks, ([0, 0, 1, 1], [2, 2, 3, 3]), strict=True):
        block.mlp.routing = moe.route(20 * torch.eye(4)[favourites], experts)
    assert moe.load_balance_loss(net).item() == pytest.approx(1.0, rel=1e-5)  # as if balanced
    assert moe.load_balance_loss(net, by_layer=True).item() == pytest.approx(2.0, rel=1e-5)
    loss = moe.balanced(lambda net, batch: torch.tensor(3.0), aux=0.5, by_layer=True)
    assert loss(net, None).item() == pytest.approx(4.0, rel=1e-5)


def test_the_balance_loss_reaches_the_routers_and_pushes_the_overloaded_down():
    net = model()
    net(ids(2, 20))
    moe.load_balance_loss(net).backward()
    assert all(block.mlp.router.weight.grad.abs().sum() > 0 for block in net.blocks)
    assert net.blocks[1].mlp.down.grad is None
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(6, 1).requires_grad_()
    for block in net.blocks:
        block.mlp.routing = moe.route(logits, MoEConfig(4, 1, 8))
    moe.load_balance_loss(net).backward()
    assert (logits.grad[:, 0] > 0).all() and (logits.grad[:, 1:] < 0).all()


def test_a_loss_with_balance_holds_both_and_trains_the_router():
    batch = Batch(ids(2, 20), ids(2, 20).roll(-1, 1))
    values, grads = [], []
    for loss_fn in (next_token_loss, moe.balanced(next_token_loss, aux=0.5)):
        net = model()
        loss = loss_fn(net, batch)
        loss.backward()
        values.append(loss.item())
        grads.append(net.blocks[0].mlp.router.weight.grad)
    assert values[1] - values[0] == pytest.approx(0.5 * moe.load_balance_loss(net).item(), rel=1e-4)
    assert (grads[0] - grads[1]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="no experts"):
        moe.balanced(next_token_loss)(model(None), batch)


def test_the_balance_loss_balances():
    def spread(loss_fn):
        net = model()
        with torch.no_grad():
            for block in net.blocks:  # a router that prefers two experts whatever the token
                block.mlp.router.weight[:2] += 0.3 * block.mlp.router.weight[:1].sign()
        fit(net, lambda step: Batch(ids(4, 32), ids(4, 32).roll(-1, 1)), 40, lr=3e-3, loss_fn=loss_fn)
        net(ids(4, 32))
        return max(moe.expert_load(r).max().item() for r in moe.routings(net))

    assert spread(moe.balanced(next_token_loss, 1.0)) < 0.7 * spread(next_token_loss)


def test_the_bias_moves_by_the_rate_towards_balance():
    net = model(MoEConfig(4, 1, 8))
    for block in net.blocks:
        block.mlp.routing = moe.route(torch.eye(4)[[0, 0, 1, 2]] * 5, MoEConfig(4, 1, 8))  # load 1/2, 1/4, 1/4, 0
    moe.update_bias(net, 0.25)
    assert all(block.mlp.bias.tolist() == [-0.25, 0.0, 0.0, 0.25] for block in net.blocks)


def test_the_bias_balances_without_a_gradient():
    net, idx = model(), ids(8, 32)
    for _ in range(200):
        with torch.no_grad():
            net(idx)
        moe.update_bias(net, 0.002)
    before = model()
    before(idx)
    for biased, plain in zip(moe.routings(net), moe.routings(before), strict=True):
        assert moe.expert_load(plain).max() > 0.17 > 0.155 > moe.expert_load(biased).max()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True))


def test_the_bias_is_part_of_a_runs_state(tmp_path):
    def trained(steps, state_path=None, resume=False):
        net = model()
        fit(
            net,
            lambda step: Batch(ids(4, 16 + step), ids(4, 16 + step).roll(-1, 1)),
            6,
            on_step=lambda record: moe.update_bias(net, 0.01) or record.step == steps,
            state_path=state_path,
            resume=resume,
        )
        return net.state_dict()

    whole = trained(6)
    trained(3, tmp_path / "state")
    parts = trained(6, tmp_path / "state", resume=True)
    assert whole["blocks.0.mlp.bias"].abs().max() > 0.015
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), parts.values(), strict=True))


def test_load_is_a_share_of_the_assignments():
    load = moe.expert_load(moe.route(LOGITS, MoEConfig(4, 1, 8)))
    assert load.tolist() == [0.5, 0.0, 0.0, 0.5]


def test_what_cannot_be_read_says_so():
    with pytest.raises(ValueError, match="no experts"):
        moe.routings(model(None))
    with pytest.raises(ValueError, match="no forward pass"):
        moe.load_balance_loss(model())


# ---- config ----


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(n_expert=0), "moe n_expert must be"),
        (dict(n_active=9), r"n_active \(9\) is more than the n_expert \(8\)"),
        (dict(d_expert=2.0), "moe d_expert"),
        (dict(n_shared=-1), "n_shared must be"),
        (dict(norm_weights=1), "norm_weights must be"),
        (dict(capacity_factor=0), "capacity_factor must be above 0"),
        (dict(capacity_factor=math.inf), "capacity_factor must be above 0"),
    ],
)
def test_experts_that_cannot_be(values, message):
    with pytest.raises(ValueError, match=message):
        MoEConfig(**dict(n_expert=8, n_active=2, d_expert=24) | values)


def test_experts_where_they_do_not_fit():
    with pytest.raises(ValueError, match="SwiGLUs without biases"):
        preset("nano", moe=EXPERTS, mlp="gelu")
    with pytest.raises(ValueError, match="SwiGLUs without biases"):
        preset("nano", moe=EXPERTS, bias=True)
    with pytest.raises(ValueError, match="MoEConfig or None"):
        preset("nano", moe=8)
    with pytest.raises(ValueError, match="unknown moe field.*experts"):
        preset("nano", moe={"experts": 8})


@pytest.mark.parametrize("experts", [EXPERTS, EVERYTHING])
def test_a_config_with_experts_survives_json(experts):
    config = preset("nano", moe=experts)
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and hash(again) == hash(config)


# ---- the rest of the library ----


@pytest.mark.parametrize("experts", [EXPERTS, EVERYTHING, MoEConfig(16, 1, 8, norm_weights=False)])
def test_parameters_and_flops_are_counted(experts, monkeypatch):
    monkeypatch.delattr(F, "grouped_mm", raising=False)  # the counter does not know it
    net = model(experts, tie_embeddings=False)
    config, t = net.config, 40
    count, sizes = parameters(config), {name: p.numel() for name, p in net.named_parameters()}
    assert count.total == sum(sizes.values())
    assert count.mlp == sum(n for name, n in sizes.items() if ".mlp." in name)
    stacks = sum(n for name, n in sizes.items() if name.endswith(("mlp.gate_up", "mlp.down")))
    assert count.idle == stacks * (experts.n_expert - experts.n_active) // experts.n_expert
    assert count.active == count.total - count.idle
    with FlopCounterMode(display=False) as counter:
        net(ids(1, t))
    products = counter.get_flop_counts()["Global"]
    attention = sum(n for op, n in products.items() if "attention" in str(op) or "bmm" in str(op))
    assert forward_flops(config, t).matmul == sum(products.values()) - attention


def test_decoding_reads_the_experts_that_are_needed():
    config = preset("nano", moe=EXPERTS)
    rest = preset("nano", moe=MoEConfig(8, 8, 24))
    one = 3 * 24 * 64 * config.n_layer
    assert decode_bytes(config, 1, 10, 1) == decode_bytes(rest, 1, 10, 1) - 6 * one
    cache = decode_bytes(config, 2, 10, 1) - decode_bytes(config, 1, 10, 1) - round(1.5 * one)  # 2, then 3.5 experts
    assert cache == decode_bytes(rest, 2, 10, 1) - decode_bytes(rest, 1, 10, 1)
    assert decode_bytes(config, 500, 10, 1) == pytest.approx(decode_bytes(rest, 500, 10, 1), rel=1e-6)


@pytest.mark.parametrize("experts", [EXPERTS, MoEConfig(5, 3, 12, n_shared=2), MoEConfig(32, 8, 40)])
def test_activations_are_what_autograd_keeps(experts):
    net, idx, kept = model(experts, vocab_size=1024), torch.zeros(2, 128).long(), {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        logits = net(idx)
        loss = F.cross_entropy(logits.flatten(0, 1), idx.flatten())
    weights = sum(kept.pop(p.untyped_storage().data_ptr(), 0) for p in net.parameters())
    assert weights > 0 and loss.isfinite()
    assert training_memory(net.config, 2, 128).activations == pytest.approx(
        sum(kept.values()) + logits.nbytes, rel=0.05
    )


def test_weights_start_as_the_dense_models_do():
    torch.manual_seed(0)
    net = Transformer(preset("nano", moe=MoEConfig(8, 2, 64, n_shared=1)))
    for block in net.blocks:
        small = 0.02 / math.sqrt(2 * net.config.n_layer)
        assert block.mlp.gate_up.std().item() == pytest.approx(0.02, rel=0.05)
        assert block.mlp.router.weight.std().item() == pytest.approx(0.02, rel=0.15)
        assert block.mlp.down.std().item() == pytest.approx(small, rel=0.05)
        assert block.mlp.shared_down.weight.std().item() == pytest.approx(small, rel=0.05)
        assert not block.mlp.bias.any()


@pytest.mark.parametrize("make", [adamw, muon])
def test_optimizers_reach_every_weight(make):
    net = model(MoEConfig(4, 2, 8, n_shared=1))
    before = copy.deepcopy(net.state_dict())
    fit(net, lambda step: Batch(ids(4, 32), ids(4, 32).roll(-1, 1)), 2, optimizer=make(net, 1e-2))
    assert all(not torch.equal(before[name], p) for name, p in net.named_parameters())


def test_muon_takes_every_expert_as_a_matrix_of_its_own():
    stacked, single = model(MoEConfig(4, 2, 8)), []
    stacked(ids(4, 32)).square().mean().backward()
    for name in ("gate_up", "down"):
        weight = getattr(stacked.blocks[0].mlp, name)
        for e in range(4):
            alone = model(None)
            alone.blocks[0].mlp = torch.nn.Module()
            alone.blocks[0].mlp.weight = torch.nn.Parameter(weight[e].detach().clone())
            alone.blocks[0].mlp.weight.grad = weight.grad[e].clone()
            muon(alone, 1e-2).step()
            single.append(alone.blocks[0].mlp.weight.data)
    muon(stacked, 1e-2).step()
    for name, wanted in (("gate_up", single[:4]), ("down", single[4:])):
        torch.testing.assert_close(getattr(stacked.blocks[0].mlp, name).data, torch.stack(wanted), atol=1e-5, rtol=1e-4)


def test_cached_is_naive_and_flat_decoding_stands_aside():
    net, idx = model(MoEConfig(8, 2, 24, n_shared=1)).eval(), ids(1, 12)
    assert decoder(net, 1) is net
    cache = KVCache(net.config, 1)
    steps = [net(idx[:, :5], cache), *(net(idx[:, i : i + 1], cache) for i in range(5, 12))]
    torch.testing.assert_close(torch.cat(steps, 1), net(idx), atol=1e-4, rtol=1e-4)
    greedy = generate(net, idx, 6, temperature=0)
    assert torch.equal(greedy[:, -1], net(greedy[:, :-1])[:, -1].argmax(-1))


def test_without_a_capacity_rows_do_not_feel_each_other_and_with_one_they_do():
    for experts, same in ((EXPERTS, True), (MoEConfig(8, 2, 24, capacity_factor=0.5), False)):
        net, idx = model(experts), ids(4, 16)
        assert net(idx)[-1].allclose(net(idx[-1:])[0], atol=1e-4) == same


def test_products_in_bfloat16_the_router_in_float32():
    net, idx = model(MoEConfig(8, 2, 24, n_shared=1)), ids(2, 16)
    exact = net(idx)
    net.compute_in(torch.bfloat16)
    seen = []
    handle = net.blocks[0].mlp.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    rough = net(idx)
    handle.remove()
    assert seen == [torch.bfloat16] and moe.routings(net)[0].probs.dtype == torch.float32
    assert 1e-4 < (rough - exact).abs().median() < 0.1 * exact.std()
    rough.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())
    assert torch.equal(net.compute_in(None)(idx), exact)


def test_hooks_on_mlps_work_on_experts():
    net, a, b = model(), ids(1, 8), ids(2, 8)[1:]
    acts = capture(net, a)
    assert acts.mlps.abs().max() > 0
    with ablated(net, mlps=[0, 1]):
        assert not capture(net, a).mlps.any()
    with patched(net, acts, mlps=[1]):
        torch.testing.assert_close(capture(net, b).mlps[1], acts.mlps[1])


def test_a_model_that_has_run_can_be_copied():
    net = model()
    net(ids(2, 8))
    other = copy.deepcopy(net)
    assert other.blocks[0].mlp.routing is None and len(moe.routings(net)) == 2
    torch.testing.assert_close(other(ids(2, 8)), net(ids(2, 8)))


def test_checkpoints_keep_experts_and_the_bias(tmp_path):
    tokenizer = checkpoint.load("draft")[1]
    net = model(EVERYTHING, vocab_size=tokenizer.vocab_size)
    net.blocks[1].mlp.bias += torch.arange(5)
    checkpoint.save(tmp_path / "experts", net, tokenizer, {})
    again, _ = checkpoint.load(tmp_path / "experts")
    assert again.config == net.config
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    assert again.blocks[1].mlp.bias.tolist() == [0, 1, 2, 3, 4]


# ---- Hugging Face's layout (logits: parity/test_moe_parity.py) ----


def test_experts_written_and_read(tmp_path):
    net = model(MoEConfig(8, 2, 24, norm_weights=False))
    again, _ = hf.load_hf(hf.save_hf(tmp_path / "experts", net, None))
    assert again.config == net.config
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))


def test_what_qwen_s_layout_has_no_place_for(tmp_path):
    for experts, message in (
        (MoEConfig(8, 2, 24, n_shared=1), "n_shared 1"),
        (MoEConfig(8, 2, 24, capacity_factor=1.0), "capacity_factor 1.0"),
    ):
        with pytest.raises(checkpoint.CheckpointError, match=message):
            write_config(preset("nano", moe=experts))
    net = model()
    net.blocks[0].mlp.bias += 1
    with pytest.raises(checkpoint.CheckpointError, match="bias is not 0"):
        hf.save_hf(tmp_path / "biased", net, None)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(mlp_only_layers=[0]), "mlp_only_layers"),
        (dict(decoder_sparse_step=2), "decoder_sparse_step 2"),
        (dict(use_sliding_window=True), "use_sliding_window"),
        (dict(num_experts_per_tok=9), "more than the n_expert"),
        (dict(num_experts=None), "num_experts is missing"),
    ],
)
def test_what_is_not_read_is_named(changes, message):
    family, values = write_config(preset("nano", moe=EXPERTS))
    assert read_config(values) == ("qwen3_moe", preset("nano", moe=EXPERTS)) and family == "qwen3_moe"
    values |= changes
    with pytest.raises(checkpoint.CheckpointError, match=message):
        read_config({name: value for name, value in values.items() if value is not None})

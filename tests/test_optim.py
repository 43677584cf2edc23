"""Optimizer groups and schedules."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llmkit import optim
from llmkit.config import preset
from llmkit.model import Transformer
from llmkit.optim import adamw, constant, warm_up, warmup_cosine, warmup_stable_decay


def test_matrices_decay_and_vectors_do_not():
    model = Transformer(preset("nano"))
    optimizer = adamw(model, lr=0.1, weight_decay=0.5)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()  # without gradients only the decay moves weights, by the factor 1 - lr * weight_decay
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if p.ndim == 2 else 1.0))
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


def test_one_step_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = adamw(model, lr=0.01, weight_decay=0.1)
    model.weight.grad = torch.full((1, 1), 3.0)
    optimizer.step()
    # After one step m_hat / sqrt(v_hat) is the sign of the gradient.
    assert model.weight.item() == pytest.approx(2.0 * (1 - 0.01 * 0.1) - 0.01, rel=1e-6)


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    assert [g["params"] for g in adamw(model, lr=1.0).param_groups] == [[model.bias]]
    model.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        adamw(model, lr=1.0)


def test_warm_up_touches_no_random_state():
    before = torch.get_rng_state()
    warm_up()
    assert torch.equal(before, torch.get_rng_state())


def test_cosine_by_hand():
    factor = warmup_cosine(steps=12, warmup=4, floor=0.2)
    assert [factor(s) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(7) == pytest.approx(0.6)  # half way: the mean of 1 and the floor
    assert factor(11) == pytest.approx(0.2) and factor(500) == pytest.approx(0.2)
    assert factor(5) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)


def test_warmup_stable_decay_by_hand():
    factor = warmup_stable_decay(steps=10, warmup=2, decay=4, floor=0.2)
    assert [factor(s) for s in range(10)] == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert factor(99) == pytest.approx(0.2)
    longer = warmup_stable_decay(steps=100, warmup=2, decay=4)
    assert [longer(s) for s in range(6)] == [factor(s) for s in range(6)]


@given(st.integers(1, 200), st.data())
def test_schedules_rise_then_fall_between_the_bounds(steps, data):
    warmup = data.draw(st.integers(0, steps))
    decay = data.draw(st.integers(0, steps - warmup))
    floor = data.draw(st.floats(0, 1))
    for factor in (warmup_cosine(steps, warmup, floor), warmup_stable_decay(steps, warmup, decay, floor), constant()):
        values = [factor(s) for s in range(steps)]
        peak = max(warmup, 1) - 1
        assert all(0 <= v <= 1 for v in values)
        assert values[:warmup] == sorted(values[:warmup])
        assert values[peak:] == sorted(values[peak:], reverse=True)
        if warmup < steps:
            assert min(values[peak:]) >= floor - 1e-12


@pytest.mark.parametrize("bad", [(0, 0), (10, 11), (10, -1)])
def test_impossible_schedules_are_errors(bad):
    with pytest.raises(ValueError, match="steps"):
        warmup_cosine(*bad)
    with pytest.raises(ValueError, match="steps"):
        warmup_stable_decay(*bad, decay=0)
    with pytest.raises(ValueError, match="decay"):
        warmup_stable_decay(10, 5, decay=6)
    with pytest.raises(ValueError, match="floor"):
        warmup_cosine(10, 2, floor=1.5)


# --- Muon -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8), (16, 5), (5, 16)])
def test_orthogonalise_moves_singular_values_near_one_and_keeps_directions(shape):
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    result = optim.orthogonalise(matrix)
    values = torch.diagonal(u.mT @ result @ vh.mT)
    assert ((values > 0.5) & (values < 1.4)).all() and s.max() / s.min() > 2
    torch.testing.assert_close(result, u @ torch.diag(values) @ vh, atol=1e-9, rtol=0)


def test_muon_equals_torchs_own():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon of its own to compare with")
    torch.manual_seed(0)
    ours, theirs = nn.Linear(12, 20, bias=False), nn.Linear(12, 20, bias=False)
    theirs.load_state_dict(ours.state_dict())
    start = ours.weight.detach().clone()
    mine = optim.Muon([{"params": [ours.weight], "matrices": True, "weight_decay": 0.1}], lr=1e-2)
    reference = torch.optim.Muon(
        [theirs.weight], lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(5):
        ours.weight.grad = torch.randn(20, 12)
        theirs.weight.grad = ours.weight.grad.clone()
        mine.step()
        reference.step()
    # torch iterates in bfloat16, good to about two digits of an update; five moved some weights by over 0.01
    assert (ours.weight - start).abs().max() > 0.01
    torch.testing.assert_close(ours.weight, theirs.weight, atol=1.5e-3, rtol=0)


def test_muon_gives_embeddings_and_vectors_adamw():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(6, 4), nn.Linear(6, 4)
    theirs.load_state_dict(ours.state_dict())
    mine = optim.Muon([{"params": list(ours.parameters()), "matrices": False, "weight_decay": 0.1}], lr=1e-2)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95))
    for _ in range(4):
        for layer, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            layer(torch.arange(6.0)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_muon_groups(positions):
    model = Transformer(preset("nano", positions=positions))
    optimizer = optim.muon(model, lr=1e-2)
    names = {id(p): name for name, p in model.named_parameters()}
    inner, ends, vectors = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert ends == {"tok_emb.weight"} | ({"pos_emb.weight"} if positions == "learned" else set())
    assert all("blocks" in name and "norm" not in name for name in inner)
    assert all("norm" in name for name in vectors)
    assert len(inner) + len(ends) + len(vectors) == len(names)

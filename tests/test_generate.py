"""Generation: cached = naive, batched = single, streamed = whole; eos, limits and errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.config import ModelConfig
from llmkit.generate import generate, generate_naive, generate_ragged, stream
from llmkit.model import Transformer

CONFIG = ModelConfig(
    vocab_size=40, context_length=32, n_layer=2, n_head=4, n_kv_head=2, d_model=32, head_dim=8, d_ff=48,
    tie_embeddings=False,
)  # fmt: skip


def make_model():
    """Random weights: float64, so that no two paths round to different ids; large, untied, so that the ids vary."""
    torch.manual_seed(0)
    model = Transformer(CONFIG).double()
    for weight in model.parameters():
        weight.data *= 10 if weight.ndim == 2 else 1
    return model


MODEL = make_model()


def prompts_of(*lengths):
    g = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(0, 40, (n,), generator=g) for n in lengths]


def seeded():
    return torch.Generator().manual_seed(11)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 12),
    new=st.integers(0, 20),
    sampling=st.sampled_from(
        [dict(temperature=0), dict(), dict(temperature=2.0, top_k=9), dict(temperature=0.5, top_p=0.8, min_p=0.02)]
    ),
    eos_id=st.sampled_from([None, 3, 17]),
)
def test_cached_equals_naive(batch, length, new, sampling, eos_id):
    idx = torch.stack(prompts_of(*[length] * batch))
    naive = generate_naive(MODEL, idx, new, eos_id=eos_id, generator=seeded(), **sampling)
    cached = generate(MODEL, idx, new, eos_id=eos_id, generator=seeded(), **sampling)
    assert torch.equal(cached, naive)
    assert torch.equal(cached[:, :length], idx)


def test_greedy_is_the_argmax_of_the_model():
    idx = prompts_of(5)[0][None]
    out = generate(MODEL, idx, 10, temperature=0)
    assert out.shape == (1, 15)
    assert torch.equal(out[:, 5:], MODEL(out)[:, 4:-1].argmax(-1))
    assert len(set(out[0, 5:].tolist())) > 3  # not one id over and over, which a broken cache could pass


def test_stream_yields_what_generate_returns():
    idx = torch.stack(prompts_of(4, 4))
    whole = generate(MODEL, idx, 6, generator=seeded())
    steps = list(stream(MODEL, idx, 6, generator=seeded()))
    assert all(step.shape == (2,) for step in steps)
    assert torch.equal(torch.stack(steps, dim=1), whole[:, 4:])


def test_stream_is_lazy():
    calls = []
    handle = MODEL.register_forward_hook(lambda *_: calls.append(1))
    try:
        tokens = stream(MODEL, prompts_of(3)[0][None], 10)
        assert calls == []
        next(tokens), next(tokens)
        assert len(calls) == 2
    finally:
        handle.remove()


def test_no_forward_is_wasted_and_each_runs_one_token():
    widths = []
    handle = MODEL.register_forward_hook(lambda _, args, __: widths.append(args[0].shape[1]))
    try:
        generate(MODEL, prompts_of(7)[0][None], 5)
    finally:
        handle.remove()
    assert widths == [7, 1, 1, 1, 1]


def greedy_rows():
    """Two prompts, and an eos that ends the first row early and the second later or never."""
    idx = torch.stack(prompts_of(6, 6))
    rows = generate(MODEL, idx, 12, temperature=0)[:, 6:]
    for eos in rows[0].tolist():
        if eos not in rows[1].tolist():
            return idx, rows, eos
    raise AssertionError("choose other prompts")


def test_finished_rows_are_padded_with_eos():
    idx, rows, eos = greedy_rows()
    out = generate(MODEL, idx, 12, temperature=0, eos_id=eos)[:, 6:]
    at = rows[0].tolist().index(eos)
    assert torch.equal(out[0, : at + 1], rows[0, : at + 1]) and (out[0, at:] == eos).all()
    assert torch.equal(out[1], rows[1])


def test_generation_stops_when_every_row_has_finished():
    idx, rows, eos = greedy_rows()
    at = rows[0].tolist().index(eos)
    assert generate(MODEL, idx[:1], 12, temperature=0, eos_id=eos).shape[1] == 6 + at + 1


def test_an_eos_in_the_prompt_does_not_finish_a_row():
    idx = prompts_of(5)[0][None]
    free = generate(MODEL, idx, 4, temperature=0)
    eos = next(i for i in range(40) if i not in free[0, 5:].tolist())
    idx[0, 0] = eos
    assert generate(MODEL, idx, 4, temperature=0, eos_id=eos).shape[1] > 6


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 14), min_size=1, max_size=5), st.sampled_from([None, 3, 17]))
def test_ragged_batch_equals_one_by_one(lengths, eos_id):
    prompts = prompts_of(*lengths)
    together = generate_ragged(MODEL, prompts, 10, eos_id=eos_id, temperature=0)
    for prompt, text in zip(prompts, together, strict=True):
        assert torch.equal(text, generate(MODEL, prompt[None], 10, eos_id=eos_id, temperature=0)[0])


def test_ragged_text_ends_with_its_own_eos():
    idx, rows, eos = greedy_rows()
    first, second = generate_ragged(MODEL, list(idx), 12, eos_id=eos, temperature=0)
    assert len(first) == 6 + rows[0].tolist().index(eos) + 1 and first[-1] == eos
    assert len(second) == 18


def test_the_context_can_be_filled_but_not_outgrown():
    idx = torch.stack(prompts_of(20, 20))
    assert generate(MODEL, idx, 12).shape == (2, 32)
    assert generate(MODEL, idx, 0).equal(idx)
    for call in (generate, generate_naive, stream):
        with pytest.raises(ValueError, match="20 tokens and 13 new .* context of 32: ask for at most 12 new"):
            call(MODEL, idx, 13)
    with pytest.raises(ValueError, match="at most 0 new tokens, or shorten"):
        generate(MODEL, torch.zeros(1, 33, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="context of 32"):
        generate_ragged(MODEL, prompts_of(3, 25), 8)


@pytest.mark.parametrize(
    "shape, dtype", [((1, 0), torch.int64), ((0, 3), torch.int64), ((3,), torch.int64), ((1, 3), torch.float)]
)
def test_bad_prompts_are_named(shape, dtype):
    idx = torch.zeros(shape, dtype=dtype)
    for call in (generate, generate_naive, stream):
        with pytest.raises(ValueError, match="idx must be"):
            call(MODEL, idx, 3)
        with pytest.raises(ValueError, match="not a list"):
            call(MODEL, [[1, 2]], 3)


@pytest.mark.parametrize(
    "bad", [dict(temperature=-1), dict(top_k=0), dict(top_p=1.1), dict(min_p=-1), dict(temperature=0, top_k=0)]
)
def test_bad_parameters_raise_before_anything_runs(bad):
    idx = prompts_of(3)[0][None]
    for call in (generate, generate_naive, stream):
        with pytest.raises(ValueError, match=list(bad)[-1]):
            call(MODEL, idx, 3, **bad)
    with pytest.raises(ValueError, match="max_new_tokens"):
        generate(MODEL, idx, -1)
    with pytest.raises(TypeError):
        stream(MODEL, idx, 3, topk=5)


@pytest.mark.parametrize(
    "prompts",
    [
        [],
        [[1, 2], [3]],
        [torch.zeros(0, dtype=torch.int64)],
        [torch.zeros(1, 2, dtype=torch.int64)],
        [torch.tensor([1, 2]), torch.tensor([True])],
        [torch.tensor([1, 2]), torch.tensor([3.0])],
    ],
)
def test_bad_ragged_prompts_are_named(prompts):
    with pytest.raises(ValueError, match="prompts must be"):
        generate_ragged(MODEL, prompts, 3)


def test_damaged_weights_are_an_error_even_when_greedy():
    model = make_model()
    model.norm_f.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        generate(model, prompts_of(3)[0][None], 3, temperature=0)
    model, idx = make_model(), prompts_of(3)[0][None]
    model.tok_emb.weight.data[generate(model, idx, 1, temperature=0)[0, -1]] = float("nan")  # seen when it is read
    with pytest.raises(ValueError, match="NaN"):
        generate(model, idx, 3, temperature=0)


def test_the_model_trains_after_generating_and_on_what_it_generated():
    model = make_model()
    out = generate(model, prompts_of(3)[0][None], 5, generator=seeded())
    (token, *_) = stream(model, out, 1, generator=seeded())
    model(torch.cat([out, token[:, None]], dim=1)).logsumexp(-1).mean().backward()
    assert model.tok_emb.weight.grad.isfinite().all() and not out.requires_grad

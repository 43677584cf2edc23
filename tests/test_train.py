"""The training loop: it learns, accumulates exactly, resumes bit for bit, and stops with a reason."""

import json
import math
import shutil
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from run_cases import CONFIG, batches, make_model, noisy_loss, results, same_weights
from torch._dynamo.utils import counters

from llmkit import run
from llmkit.checkpoint import CheckpointError, read_tensors
from llmkit.config import ModelConfig
from llmkit.cost import training_flops
from llmkit.data import Batch
from llmkit.device import peak_memory_bytes
from llmkit.model import Transformer
from llmkit.optim import adamw, constant, muon
from llmkit.train import NonFiniteLoss, Record, compiled, document_nats, fit, next_token_loss

# --- The loss ------------------------------------------------------------------------------------------------------


def test_loss_by_hand():
    model, batch = make_model(), batches(0)
    targets = batch.targets.clone()
    targets[:, ::2] = -100
    logprobs = model(batch.idx, doc_ids=batch.doc_ids).log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
    expected = -logprobs[:, 1::2].mean()
    torch.testing.assert_close(next_token_loss(model, batch._replace(targets=targets)), expected)
    torch.testing.assert_close(next_token_loss(model, batch._replace(doc_ids=None)), -logprobs.mean())


def test_documents_of_a_row_are_kept_apart():
    model, batch = make_model(), batches(0)
    split = batch._replace(doc_ids=(torch.arange(12) >= 5).long().expand(4, 12))
    alone = [next_token_loss(model, Batch(batch.idx[:, a:b], batch.targets[:, a:b])) for a, b in ((0, 5), (5, 12))]
    torch.testing.assert_close(next_token_loss(model, split), (5 * alone[0] + 7 * alone[1]) / 12)


def test_a_batch_without_targets_is_an_error_not_nan():
    ignored = batches(0)._replace(targets=torch.full((4, 12), -100))
    with pytest.raises(ValueError, match="-100"):
        next_token_loss(make_model(), ignored)
    with pytest.raises(ValueError, match="step 0.*-100"):
        fit(make_model(), lambda step: ignored, 3)


def test_document_nats_are_those_of_each_document_alone():
    model, documents = make_model(), [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 5, 8, 9, 7, 9], []]
    nats = document_nats(model, documents, eos_id=0, batch_size=2)
    assert nats.dtype == torch.float64 and not nats.requires_grad
    for ids, price in zip(documents, nats, strict=True):
        logits = model(torch.tensor([[0, *ids]]))[0]
        torch.testing.assert_close(price.float(), F.cross_entropy(logits, torch.tensor([*ids, 0]), reduction="sum"))
    with pytest.raises(ValueError, match="fit"):
        document_nats(model, [[1] * 16], eos_id=0)


# --- The loop ------------------------------------------------------------------------------------------------------


def test_it_learns_and_records():
    model = make_model()
    records = fit(model, batches, 60, lr=1e-2)
    assert [r.step for r in records] == list(range(1, 61))
    assert records[0].loss == pytest.approx(math.log(32), abs=0.3)
    assert records[-1].loss < 1.0
    assert records[-1].tokens == 60 * 48
    assert records[-1].lr == pytest.approx(1e-3) and max(r.lr for r in records) == pytest.approx(1e-2)
    assert all(r.tok_s > 0 and r.grad_norm > 0 for r in records)
    assert records[-1].seconds == pytest.approx(sum(48 / r.tok_s for r in records))
    assert all(p.grad is None for p in model.parameters())


def test_one_update_is_the_textbook_one():
    model, reference = make_model(), make_model()
    (record,) = fit(model, batches, 1, lr=1e-3, schedule=constant(), clip=0.5)
    optimizer = adamw(reference, 1e-3)
    loss = next_token_loss(reference, batches(0))
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in reference.parameters()]).norm()
    for p in reference.parameters():
        p.grad *= min(1.0, 0.5 / norm.item())
    optimizer.step()
    assert record.loss == pytest.approx(loss.item()) and record.grad_norm == pytest.approx(norm.item(), rel=1e-5)
    assert norm > 0.5  # so that the clipping was seen
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_accumulated_batches_equal_one_large_batch_though_their_targets_differ_in_number():
    def large(step):
        batch = batches(step)
        batch.targets[0, 3:] = -100
        batch.targets[1] = -100
        batch.targets[3, :5] = -100
        return batch

    def rows(index):
        return Batch(*(field[index % 4][None] for field in large(index // 4)))  # the second has no target at all

    whole, parts = make_model().double(), make_model().double()
    a = fit(whole, large, 3, lr=1e-3)
    b = fit(parts, rows, 3, lr=1e-3, grad_accum=4)
    assert [r.loss for r in a] == pytest.approx([r.loss for r in b], rel=1e-6)
    assert [r.grad_norm for r in a] == pytest.approx([r.grad_norm for r in b], rel=1e-6)
    assert a[-1].tokens == b[-1].tokens
    for x, y in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make_optimizer", [adamw, muon])
def test_products_in_bfloat16_leave_the_rest_in_float32(make_optimizer, tmp_path):
    precise, rough = make_model(), make_model().compute_in(torch.bfloat16)
    optimizer, paths = make_optimizer(rough, 1e-2), dict(state_path=tmp_path / "state")
    a = fit(precise, batches, 8, optimizer=make_optimizer(precise, 1e-2))
    b = fit(rough, batches, 8, optimizer=optimizer, **paths)
    assert [r.loss for r in b] != [r.loss for r in a]
    assert [r.loss for r in b] == pytest.approx([r.loss for r in a], rel=0.02)
    tensors, _ = read_tensors(tmp_path / "state")
    assert {t.dtype for name, t in tensors.items() if not name.startswith("rng")} == {torch.float32}


def test_tokens_count_batches_of_any_length():
    def growing(step):
        return Batch(*(field[:, : step + 1] for field in batches(step)))

    assert [r.tokens for r in fit(make_model(), growing, 2, grad_accum=2)] == [4 * (1 + 2), 4 * (1 + 2 + 3 + 4)]


def test_gradients_that_were_lying_around_do_not_count():
    clean, dirty = make_model(), make_model()
    for p in dirty.parameters():
        p.grad = torch.ones_like(p)
    fit(clean, batches, 1)
    fit(dirty, batches, 1)
    assert same_weights(clean, dirty)


def test_the_schedule_multiplies_each_groups_own_lr():
    model = make_model()
    optimizer = torch.optim.SGD([{"params": [p], "lr": 10.0**-i} for i, p in enumerate(model.parameters())])
    records = fit(model, batches, 4, optimizer=optimizer, schedule=lambda step: (step + 1) / 4)
    assert [r.lr for r in records] == [0.25, 0.5, 0.75, 1.0]
    assert optimizer.param_groups[2]["lr"] == pytest.approx(0.01)


def test_any_loss_on_any_named_tuple():
    class Pair(NamedTuple):
        chosen: torch.Tensor
        rejected: torch.Tensor

    def prefer(model, pair):
        margin = model(pair.chosen)[:, -1].mean(-1) - model(pair.rejected)[:, -1].mean(-1)
        return -F.logsigmoid(margin).mean()

    pairs = Pair(batches(0).idx, batches(1).idx)
    records = fit(make_model(), lambda step: pairs, 10, lr=1e-2, loss_fn=prefer, grad_accum=2)
    assert records[0].loss == pytest.approx(math.log(2), abs=0.1) and records[-1].loss < records[0].loss


def test_evaluation_on_its_days_and_at_the_end_in_evaluation_mode(tmp_path):
    model, modes = make_model().eval(), []

    def evaluate(model):
        modes.append(model.training)
        return {"held_out": torch.tensor(1.5)}

    records = fit(model, batches, 7, eval_fn=evaluate, eval_every=3, log_path=tmp_path / "log")
    assert [r.step for r in records if r.evals] == [3, 6, 7] and modes == [False] * 3
    assert records[2].evals == {"held_out": 1.5} and not model.training


def test_on_step_sees_every_record_and_can_stop(tmp_path):
    seen = []

    def on_step(record):
        seen.append(record)
        return record.step == 3

    state = tmp_path / "run.safetensors"
    records = fit(make_model(), batches, 10, on_step=on_step, state_path=state)
    assert records == seen and len(seen) == 3
    assert len(fit(make_model(1), batches, 10, state_path=state, resume=True)) == 7


def test_utilisation_is_the_share_of_the_peak():
    record = fit(make_model(), batches, 1, peak_flops=1e9)[0]
    assert record.mfu == pytest.approx(record.tok_s * training_flops(CONFIG, 12).total / 12 / 1e9)


def test_records_tell_the_peak_of_memory():
    records = fit(make_model(), batches, 2)
    assert [r.peak_bytes for r in records] == sorted(r.peak_bytes for r in records)
    assert 50e6 < records[-1].peak_bytes <= peak_memory_bytes()  # torch alone takes more


def test_torch_compile_is_refused_with_a_sentence_and_fit_does_without(monkeypatch):
    def no_compiler(function):
        raise FileNotFoundError("g++")

    monkeypatch.setattr(torch, "compile", no_compiler)
    model = make_model()
    with pytest.raises(RuntimeError, match=r"\(g\+\+\). It needs a C\+\+ compiler.*or train without"):
        compiled(model)
    assert fit(model, batches, 1)[0].loss == next_token_loss(make_model(), batches(0)).item()


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "cl"))), reason="no C++ compiler on this machine")
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_a_compiled_model_learns_the_same():
    def losses(prepare):
        torch.manual_seed(0)
        return [r.loss for r in fit(prepare(Transformer(replace(CONFIG, n_layer=1))), batches, 5, lr=1e-2)]

    before = counters["frames"]["ok"]
    expected = losses(lambda model: model)
    assert counters["frames"]["ok"] == before
    assert losses(compiled) == pytest.approx(expected, rel=1e-5)
    assert counters["frames"]["ok"] > before + 1  # more than `compiled` needs to see whether it can


def test_the_log_holds_the_records(tmp_path):
    records = fit(make_model(), batches, 3, log_path=tmp_path / "logs" / "run.jsonl")
    lines = (tmp_path / "logs" / "run.jsonl").read_text().splitlines()
    assert [Record(**json.loads(line)) for line in lines] == records
    fit(make_model(), batches, 2, log_path=tmp_path / "logs" / "run.jsonl")  # a new run, a new log
    assert len((tmp_path / "logs" / "run.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "bad", [dict(steps=0), dict(grad_accum=0), dict(clip=0), dict(clip=math.nan), dict(resume=True), dict(save_every=5)]
)
def test_bad_parameters_are_named(bad):
    with pytest.raises(ValueError, match=list(bad)[0]):
        fit(make_model(), batches, **{"steps": 3, **bad})


# --- Resume --------------------------------------------------------------------------------------------------------


def momentum(model):
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


@pytest.mark.parametrize(
    "make_optimizer", [lambda model: None, momentum, lambda model: muon(model, 1e-2)], ids=["adamw", "momentum", "muon"]
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, make_optimizer):
    settings = dict(lr=1e-2, loss_fn=noisy_loss, grad_accum=2, eval_every=4)
    settings["eval_fn"] = lambda model: {"x": torch.rand(()).item()}
    whole = make_model()
    torch.manual_seed(42)
    expected = fit(whole, batches, 12, optimizer=make_optimizer(whole), **settings)

    class Cut(Exception):
        pass

    def cut(record):
        if record.step == 8:  # two updates after the last save
            raise Cut

    settings |= dict(state_path=tmp_path / "run.safetensors", log_path=tmp_path / "run.jsonl", save_every=3)
    first = make_model()
    torch.manual_seed(42)
    with pytest.raises(Cut):
        fit(first, batches, 12, optimizer=make_optimizer(first), on_step=cut, **settings)
    # The kill also hit a write of the state and of the log.
    (tmp_path / ".run.safetensors.unfinished").write_bytes(b"half a file")
    with open(tmp_path / "run.jsonl", "a") as log:
        log.write('{"step": 9, "lo')

    second = make_model(seed=99)
    torch.manual_seed(7)
    records = fit(second, batches, 12, optimizer=make_optimizer(second), resume=True, **settings)
    assert results(records) == results(expected)
    assert same_weights(second, whole)
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 12
    assert not list(tmp_path.glob(".*unfinished"))


def test_resuming_a_finished_run_gives_its_weights_and_records(tmp_path):
    settings = dict(state_path=tmp_path / "run.safetensors", log_path=tmp_path / "run.jsonl")
    model, again = make_model(), make_model(1)
    records = fit(model, batches, 3, **settings)
    assert fit(again, batches, 3, resume=True, **settings) == records
    assert same_weights(model, again)


def test_resume_without_a_state_starts_and_without_resume_starts_anew(tmp_path):
    settings = dict(state_path=tmp_path / "run.safetensors")
    assert len(fit(make_model(), batches, 2, resume=True, **settings)) == 2
    assert len(fit(make_model(), batches, 2, **settings)) == 2


def test_a_new_run_that_is_cut_off_early_does_not_go_on_from_an_older_one(tmp_path):
    def cut(record):
        raise KeyboardInterrupt

    state, settings = tmp_path / "run.safetensors", dict(lr=1e-2, loss_fn=noisy_loss)
    fit(make_model(1), batches, 4, state_path=state, **settings)
    whole, model = make_model(), make_model()
    torch.manual_seed(3)
    expected = fit(whole, batches, 6, **settings)
    torch.manual_seed(3)
    with pytest.raises(KeyboardInterrupt):
        fit(model, batches, 6, state_path=state, on_step=cut, **settings)
    resumed = make_model(9)
    assert results(fit(resumed, batches, 6, state_path=state, resume=True, **settings)) == results(expected)
    assert same_weights(resumed, whole)


def test_the_state_of_another_run_is_refused(tmp_path):
    state = tmp_path / "run.safetensors"
    fit(make_model(), batches, 1, state_path=state)
    other = Transformer(ModelConfig(**{**CONFIG.to_dict(), "d_ff": 48}))
    with pytest.raises(CheckpointError, match="another model"):
        fit(other, batches, 2, state_path=state, resume=True)
    model = make_model()
    with pytest.raises(CheckpointError, match="another model or optimizer"):
        fit(model, batches, 2, optimizer=torch.optim.SGD(model.parameters()), state_path=state, resume=True)
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        fit(make_model(), batches, 2, state_path=state, resume=True)


# --- Runs that go wrong --------------------------------------------------------------------------------------------


def poisoned(step):
    """`batches`, but row 2 of batches(5) is all 31, which nothing else is."""
    batch = batches(step)
    if step == 5:
        batch.idx[2] = 31
    return batch


def explosive_loss(model, batch):
    """NaN if a row is all 31."""
    return next_token_loss(model, batch) * torch.where((batch.idx == 31).all(-1), torch.nan, 1.0).mean()


def test_a_bad_row_is_found_and_the_good_weights_stay(tmp_path):
    model, good = make_model(), make_model()
    state = tmp_path / "run.safetensors"
    with pytest.raises(NonFiniteLoss, match=r"nan at step 5, .*row 2 of batches\(5\): look at") as error:
        fit(model, poisoned, 9, lr=1e-3, schedule=constant(), loss_fn=explosive_loss, state_path=state, save_every=2)
    assert error.value.step == 5 and error.value.rows == [(0, 2)]
    fit(good, batches, 5, lr=1e-3, schedule=constant())
    assert same_weights(model, good)  # five updates, none of them NaN
    assert all(p.grad is None for p in model.parameters())
    restored = make_model(1)
    assert run.load_state(state, restored, adamw(restored, 1e-3))[0] == 4


def test_a_bad_row_is_found_among_accumulated_batches():
    with pytest.raises(NonFiniteLoss, match=r"step 2, which reads batches\(4\), batches\(5\); .*row 2 of batches\(5\)"):
        fit(make_model(), poisoned, 10, loss_fn=explosive_loss, grad_accum=2)


def test_a_learning_rate_that_is_too_high_is_named():
    with pytest.raises(NonFiniteLoss, match="lower") as error:
        fit(make_model(), batches, 50, lr=1e30, schedule=constant(), clip=math.inf)
    assert "step 1" in str(error.value) or "step 2" in str(error.value)


def test_damaged_weights_are_named_first():
    model = make_model()
    model.blocks[1].norm1.weight.data[0] = math.nan
    with pytest.raises(NonFiniteLoss, match="blocks.1.norm1.weight already holds NaN"):
        fit(model, batches, 3)


def test_a_finite_loss_with_an_infinite_gradient_stops_too():
    def loss_fn(model, batch):
        return (next_token_loss(model, batch) * 0).sqrt()  # sqrt has no finite slope at 0

    before = make_model()
    model = make_model()
    with pytest.raises(NonFiniteLoss, match="gradient's norm is nan"):
        fit(model, batches, 3, loss_fn=loss_fn)
    assert same_weights(model, before)

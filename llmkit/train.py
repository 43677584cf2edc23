"""The one training loop: a loss function goes in, records come out.

    loss -> gradients -> clipped -> optimizer step, at lr * schedule(step)        (`fit`)

All that a step depends on is a pure function of its number (the batch, the learning rate) or is in the saved state
(weights, optimizer, random state, step), so a run that was cut off goes on and ends bit for bit as if it never had
been. (Some kernels of a GPU add in whatever order comes: there it ends so but for rounding.) The loss is a parameter:
pretraining, SFT, preferences and rewards share this loop.

Step s = 0, 1, ... reads the batches s * grad_accum ... and makes update s + 1; a record's `step` counts updates made.
Shapes: B batch, T time.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from llmkit import distributed
from llmkit.cost import training_flops
from llmkit.data import IGNORE_INDEX, Batch, aligned_batches, map_tensors, n_targets
from llmkit.device import peak_memory_bytes
from llmkit.kernels import cross_entropy
from llmkit.logprobs import token_logprobs
from llmkit.optim import Muon, Schedule, adamw, warm_up, warmup_cosine
from llmkit.run import Record, append_log, begin_log, load_state, save_state


class NonFiniteLoss(FloatingPointError):
    """The loss or its gradient is NaN or infinite at `step`; `rows` are the (micro-batch, row) that it comes from."""

    def __init__(self, message: str, step: int, rows: list[tuple[int, int]]):
        super().__init__(message)
        self.step, self.rows = step, rows


def next_token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean of -log p(target | what precedes it) over the targets that are not -100, in nats/token: a scalar.

    ValueError if every target is -100: the mean of nothing would be NaN. (On a GPU it is NaN, since nobody waits there
    for the answer; `fit` looks before a batch goes to the device.)
    """
    if batch.targets.is_cpu and not (batch.targets != IGNORE_INDEX).any():
        raise ValueError("every target of the batch is -100 (ignored): there is nothing to learn; check the loss mask")
    logits = model(batch.idx, doc_ids=batch.doc_ids)  # (B, T, V)
    return cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), IGNORE_INDEX)


@torch.no_grad()
def document_nats(model: nn.Module, documents: Sequence[Sequence[int]], eos_id: int, batch_size: int = 32) -> Tensor:
    """What each document costs the model, its closing eos included: (n,) float64 nats, to stand beside the true nats.

    A document is its ids without eos; sums over sums of len(ids) + 1 are nats/token. ValueError if one does not fit.
    """
    device = next(model.parameters()).device
    nats = torch.zeros(len(documents), dtype=torch.float64)
    for batch, which in aligned_batches(documents, batch_size, model.config.context_length, eos_id):
        logprobs = token_logprobs(model(batch.idx.to(device)), batch.targets.to(device))  # (B, T)
        nats[which] = -logprobs.cpu().double().sum(-1)
    return nats


def fit(
    model: nn.Module,
    batches: Callable[[int], NamedTuple],
    steps: int,
    *,
    lr: float = 1e-3,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Schedule | None = None,
    loss_fn: Callable[[nn.Module, NamedTuple], Tensor] = next_token_loss,
    grad_accum: int = 1,
    clip: float = 1.0,
    eval_fn: Callable[[nn.Module], dict[str, float]] | None = None,
    eval_every: int | None = None,
    on_step: Callable[[Record], bool | None] | None = None,
    log_path: str | Path | None = None,
    state_path: str | Path | None = None,
    save_every: int | None = None,
    resume: bool = False,
    peak_flops: float | None = None,
    stop_when: Callable[[Sequence[Record]], bool] | None = None,
) -> list[Record]:
    """Train `model` in place, on its own device, until `steps` updates are made; one Record an update.

    batches     step -> a NamedTuple of tensors (None allowed), a pure function; the first field is what the model reads
    optimizer   instead of `optim.adamw(model, lr)`; its own learning rates count then, and `lr` does not
    schedule    step -> factor of the lr; default: 5 % warm-up, then a cosine to a tenth
    grad_accum  batches to an update; each weighs by its number of targets, so that k small batches equal one large
    clip        largest norm of the gradient; math.inf leaves it alone
    eval_fn     called every `eval_every` updates and after the last, with the model in evaluation mode; returns
                named numbers
    on_step     called with every Record, for live charts; returns True to stop
    log_path    a JSON line for each record
    state_path  what `resume=True` goes on from, written every `save_every` updates and at the end. A resumed run
                returns the records of the log, if it has one, and then its own
    peak_flops  the machine's FLOP/s (of all processes), if records are to tell the utilisation
    stop_when   called with all records after each evaluation; returns True to stop, as `run.no_better` does

    Under `torchrun` call it in every process, with the same arguments and a model from `distributed.wrap`: a batch's
    rows are divided among the processes, all return the same records, and the first alone calls `on_step` and writes.

    NonFiniteLoss if a loss or gradient is: the update is not made, the saved state stays. CheckpointError if the saved
    state is damaged or another run's, or if the disk refuses a write: what was saved before stays.
    """
    if steps < 1 or grad_accum < 1 or not clip > 0:
        raise ValueError(f"steps={steps} and grad_accum={grad_accum} must be at least 1, clip={clip} above 0")
    if (resume or save_every) and not state_path:
        raise ValueError("resume and save_every need state_path: the file that keeps the state of the run")
    if resume and stop_when and not log_path:
        raise ValueError("resume with stop_when needs log_path: the earlier evaluations are in the log")
    plain = distributed.unwrapped(model)
    optimizer = optimizer or adamw(plain, lr)
    _check_processes(model, optimizer)
    schedule = schedule or warmup_cosine(steps, warmup=steps // 20)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    step, tokens, seconds = 0, 0, 0.0
    if resume and Path(state_path).exists():
        step, tokens, seconds = load_state(state_path, plain, optimizer)
    elif state_path and Path(state_path).exists():  # of an older run: nobody shall go on from it
        save_state(state_path, plain, optimizer, step, tokens, seconds)
    records = begin_log(log_path, step)
    optimizer.zero_grad()  # what others left there
    warm_up()

    device = next(plain.parameters()).device
    was_training = model.training
    model.train()
    stop = bool(stop_when and records and stop_when(records))
    try:
        while step < steps and not stop:
            start = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * schedule(step)
            loss, grad_norm, read, length = _update(model, batches, step, optimizer, loss_fn, grad_accum, clip)
            step_s, peak = _largest(time.perf_counter() - start, peak_memory_bytes(device) or 0)
            step, tokens, seconds = step + 1, tokens + read, seconds + step_s
            tok_s, mfu, evals = read / step_s, None, None
            if peak_flops:
                mfu = tok_s * training_flops(plain.config, length).total / length / peak_flops
            if eval_fn and (step == steps or eval_every and step % eval_every == 0):
                evals = _evaluate(model, eval_fn)
            lr_now, peak = optimizer.param_groups[0]["lr"], int(peak) or None
            record = Record(step, loss, lr_now, grad_norm, tokens, tok_s, seconds, mfu, evals, peak)
            records.append(record)
            if log_path:
                append_log(log_path, record)
            (asked,) = _largest(bool(on_step and distributed.is_main() and on_step(record)))
            distributed.share_buffers(plain)
            stop = bool(asked or evals and stop_when and stop_when(records))
            if state_path and (stop or step == steps or save_every and step % save_every == 0):
                save_state(state_path, plain, optimizer, step, tokens, seconds, log_path)
    finally:
        model.train(was_training)
    return records


def compiled(model: nn.Module) -> nn.Module:
    """Run the model through `torch.compile` from now on (in place; returned): worth it for long runs, GPUs above all.

    RuntimeError, with what to do, where torch.compile does not work: it is never required.
    """
    try:
        torch.compile(lambda x: x * 2)(torch.zeros(1, device=next(model.parameters()).device))
    except Exception as error:
        why = str(error).split("\n")[0]
        raise RuntimeError(
            f"torch.compile does not work on this machine ({why}). It needs a C++ compiler, and for a GPU Triton: "
            "install them (Linux: g++, macOS: xcode-select --install, Windows: Visual Studio's build tools), or train "
            "without: what is learned is the same"
        ) from None
    model.compile()
    return model


def _update(model, batches, step, optimizer, loss_fn, grad_accum, clip) -> tuple[float, float, int, int]:
    """One optimizer step: (loss, gradient norm before clipping, ids read, length of a row), of all processes."""
    device = next(model.parameters()).device
    micro = [batches(step * grad_accum + i) for i in range(grad_accum)]
    counts = [n_targets(batch) for batch in micro]
    if sum(counts) == 0:
        raise ValueError(f"no target in the batch of step {step}: all are -100 (ignored); check the loss mask")
    loss, last = 0.0, max(i for i, n in enumerate(counts) if n)
    for i, (batch, n) in enumerate(zip(micro, counts, strict=True)):
        if n:
            mine, weight = distributed.share(batch)
            with distributed.accumulating(model, last=i == last):
                part = loss_fn(model, map_tensors(mine, lambda t: t.to(device))) * (weight * (n / sum(counts)))
                (part * distributed.size()).backward()  # DDP and FSDP average over the processes
            loss = loss + part.detach()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = distributed.full(nn.utils.clip_grad_norm_(parameters, clip))
    loss, norm = torch.stack([loss, norm.to(loss)]).tolist()
    loss = sum(part for (part,) in distributed.gather([loss]))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        optimizer.zero_grad()
        raise _diagnose(model, micro, step, loss_fn, loss, norm, optimizer.param_groups[0]["lr"])
    optimizer.step()
    optimizer.zero_grad()
    return loss, norm, sum(batch[0].numel() for batch in micro), micro[0][0].shape[-1]


def _evaluate(model, eval_fn) -> dict[str, float]:
    """What eval_fn returns in the first process; all call it, since the weights may be divided among them."""
    model.eval()
    evals = {name: float(value) for name, value in eval_fn(distributed.unwrapped(model)).items()}  # of tensors too
    model.train()
    if distributed.size() > 1:
        evals = dict(zip(evals, distributed.gather(list(evals.values()))[0], strict=True))
    return evals


def _largest(*numbers: float) -> list[float]:
    """Each number's largest value among all processes."""
    return [max(values) for values in zip(*distributed.gather(numbers), strict=True)]


def _check_processes(model, optimizer) -> None:
    """ValueError for what would train apart, or wrongly, in several processes."""
    sharded = distributed.is_sharded(model)
    if distributed.size() > 1 and not sharded and model is distributed.unwrapped(model):
        raise ValueError('several processes train: give fit a model from distributed.wrap(model, "ddp" or "fsdp")')
    if sharded and not all(hasattr(p, "full_tensor") for group in optimizer.param_groups for p in group["params"]):
        raise ValueError("the optimizer was made before distributed.wrap divided the weights: make it afterwards")
    if sharded and isinstance(optimizer, Muon):
        raise ValueError('Muon needs each matrix whole, and FSDP divides them: use optim.adamw, or wrap with "ddp"')


def _diagnose(model, micro, step, loss_fn, loss, norm, lr) -> NonFiniteLoss:
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm} (the loss {loss:.4g})"
    damaged = [name for name, p in model.named_parameters() if not distributed.full(p).isfinite().all()]
    rows = [] if damaged else _bad_rows(model, micro, loss_fn)
    first, n_rows = step * len(micro), sum(len(batch[0]) for batch in micro)
    where = ", ".join(f"row {r} of batches({first + i})" for i, r in rows[:5]) + (", ..." if len(rows) > 5 else "")
    if damaged:
        cause = f"{damaged[0]} already holds NaN or infinity: load good weights, and lower the lr (now {lr:.3g})"
    elif rows and len(rows) < n_rows:
        cause = f"it comes from {where}: look at their ids and masks, and at what the loss divides by"
    else:
        cause = (
            f"all rows alike, so the lr is too high (now {lr:.3g}: lower it, warm up longer, clip more) "
            "or numbers are beyond the range of the dtype"
        )
    read = ", ".join(f"batches({first + i})" for i in range(len(micro)))
    message = (
        f"{what} at step {step}, which reads {read}; {cause}. The update was not made: "
        f"the model has the weights of update {step}, and a saved state is untouched."
    )
    return NonFiniteLoss(message, step, rows)


@torch.no_grad()
def _bad_rows(model, micro, loss_fn) -> list[tuple[int, int]]:
    """(micro-batch, row) of every row whose loss alone is not finite."""
    device, bad = next(model.parameters()).device, []
    for i, batch in enumerate(micro):
        for row in range(len(batch[0])):
            one = map_tensors(batch, lambda t, row=row: t[row : row + 1].to(device))
            if n_targets(one) and not loss_fn(model, one).isfinite():
                bad.append((i, row))
    return bad

"""The one training loop: a loss function goes in, records come out.

    loss -> gradients -> clipped -> optimizer step, at lr * schedule(step)        (`fit`)

All that a step depends on is a pure function of its number (the batch, the learning rate) or is in the saved state
(weights, optimizer, random state, step), so a run that was cut off goes on and ends bit for bit as if it never had
been. The loss is a parameter: pretraining, SFT, preferences and rewards share this loop.

Step s = 0, 1, ... reads the batches s * grad_accum ... and makes update s + 1; a record's `step` counts updates made.
Shapes: B batch, T time.
"""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.checkpoint import CheckpointError, read_tensors, weights_of, write_tensors
from llmkit.cost import training_flops
from llmkit.data import IGNORE_INDEX, Batch, aligned_batches
from llmkit.logprobs import token_logprobs
from llmkit.optim import Schedule, adamw, warm_up, warmup_cosine


@dataclass(frozen=True)
class Record:
    """One update, as returned, handed to `on_step`, and written to the log."""

    step: int  # updates made so far, this one included
    loss: float  # of this update's batch, before it; nats/token under next_token_loss
    lr: float  # of the first parameter group
    grad_norm: float  # before clipping
    tokens: int  # ids read so far, padding included
    tok_s: float  # of this update
    seconds: float  # spent on updates so far; evaluation, saving and callbacks are not counted
    mfu: float | None = None  # model FLOPs utilisation: share of `peak_flops` that went into 6 N + attention a token
    evals: dict[str, float] | None = None  # what eval_fn returned


class NonFiniteLoss(FloatingPointError):
    """The loss or its gradient is NaN or infinite at `step`; `rows` are the (micro-batch, row) that it comes from."""

    def __init__(self, message: str, step: int, rows: list[tuple[int, int]]):
        super().__init__(message)
        self.step, self.rows = step, rows


def next_token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean of -log p(target | what precedes it) over the targets that are not -100, in nats/token: a scalar.

    ValueError if every target is -100: the mean of nothing would be NaN.
    """
    if not (batch.targets != IGNORE_INDEX).any():
        raise ValueError("every target of the batch is -100 (ignored): there is nothing to learn; check the loss mask")
    logits = model(batch.idx, doc_ids=batch.doc_ids)  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=IGNORE_INDEX)


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
) -> list[Record]:
    """Train `model` in place, on its own device, until `steps` updates are made; one Record an update.

    batches     step -> a NamedTuple of tensors (None allowed), a pure function; the first field is what the model reads
    optimizer   instead of `optim.adamw(model, lr)`; its own learning rates count then, and `lr` does not
    schedule    step -> factor of the lr; default: 5 % warm-up, then a cosine to a tenth
    grad_accum  batches to an update; each weighs by its number of targets, so that k small batches equal one large
    clip        largest norm of the gradient; math.inf leaves it alone
    eval_fn     called every `eval_every` updates and after the last, with the model in evaluation mode
    on_step     called with every Record, for live charts; returns True to stop
    log_path    a JSON line for each record
    state_path  what `resume=True` goes on from, written every `save_every` updates and at the end. A resumed run
                returns the records of the log, if it has one, and then its own
    peak_flops  the machine's FLOP/s, if records are to tell the utilisation

    NonFiniteLoss if a loss or gradient is: the update is not made, the saved state stays. CheckpointError if the saved
    state is damaged or another run's.
    """
    if steps < 1 or grad_accum < 1 or not clip > 0:
        raise ValueError(f"steps={steps} and grad_accum={grad_accum} must be at least 1, clip={clip} above 0")
    if (resume or save_every) and not state_path:
        raise ValueError("resume and save_every need state_path: the file that keeps the state of the run")
    optimizer = optimizer or adamw(model, lr)
    schedule = schedule or warmup_cosine(steps, warmup=steps // 20)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    step, tokens, seconds = 0, 0, 0.0
    if resume and Path(state_path).exists():
        step, tokens, seconds = load_state(state_path, model, optimizer)
    records = _earlier_records(log_path, step)
    optimizer.zero_grad()  # what others left there
    warm_up()

    was_training = model.training
    model.train()
    try:
        while step < steps:
            start = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * schedule(step)
            loss, grad_norm, read, length = _update(model, batches, step, optimizer, loss_fn, grad_accum, clip)
            step_s = time.perf_counter() - start
            step, tokens, seconds = step + 1, tokens + read, seconds + step_s
            tok_s, mfu, evals = read / step_s, None, None
            if peak_flops:
                mfu = tok_s * training_flops(model.config, length).total / length / peak_flops
            if eval_fn and (step == steps or eval_every and step % eval_every == 0):
                model.eval()
                evals = eval_fn(model)
                model.train()
            record = Record(step, loss, optimizer.param_groups[0]["lr"], grad_norm, tokens, tok_s, seconds, mfu, evals)
            records.append(record)
            if log_path:
                with open(log_path, "a", encoding="utf-8") as log:
                    log.write(json.dumps(asdict(record)) + "\n")
            stop = bool(on_step and on_step(record))
            if state_path and (stop or step == steps or save_every and step % save_every == 0):
                save_state(state_path, model, optimizer, step, tokens, seconds)
            if stop:
                break
    finally:
        model.train(was_training)
    return records


def _update(model, batches, step, optimizer, loss_fn, grad_accum, clip) -> tuple[float, float, int, int]:
    """One optimizer step: (loss, gradient norm before clipping, ids read, length of a row)."""
    device = next(model.parameters()).device
    micro = [_map(batches(step * grad_accum + i), lambda t: t.to(device)) for i in range(grad_accum)]
    counts = [_n_targets(batch) for batch in micro]
    if sum(counts) == 0:
        raise ValueError(f"no target in the batch of step {step}: all are -100 (ignored); check the loss mask")
    loss = 0.0
    for batch, n in zip(micro, counts, strict=True):
        if n:
            part = loss_fn(model, batch) * (n / sum(counts))
            part.backward()
            loss = loss + part.detach()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    loss, norm = torch.stack([loss, norm.to(loss)]).tolist()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        optimizer.zero_grad()
        raise _diagnose(model, micro, step, loss_fn, loss, norm, optimizer.param_groups[0]["lr"])
    optimizer.step()
    optimizer.zero_grad()
    return loss, norm, sum(batch[0].numel() for batch in micro), micro[0][0].shape[-1]


def _map(batch, function):
    """The same NamedTuple with `function` applied to its tensors."""
    return type(batch)(*(None if field is None else function(field) for field in batch))


def _n_targets(batch) -> int:
    """How much a batch weighs beside the others of its update."""
    targets = getattr(batch, "targets", None)
    return 1 if targets is None else int((targets != IGNORE_INDEX).sum())


def _diagnose(model, micro, step, loss_fn, loss, norm, lr) -> NonFiniteLoss:
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm} (the loss {loss:.4g})"
    damaged = [name for name, p in model.named_parameters() if not p.isfinite().all()]
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
    bad = []
    for i, batch in enumerate(micro):
        for row in range(len(batch[0])):
            one = _map(batch, lambda t, row=row: t[row : row + 1])
            if _n_targets(one) and not loss_fn(model, one).isfinite():
                bad.append((i, row))
    return bad


# --- State: what a run needs to go on ------------------------------------------------------------------------------


def save_state(path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, tokens: int, seconds: float):
    """Weights, optimizer, random state and progress in one safetensors file, replaced whole or not at all."""
    tensors = {f"model.{name}": tensor for name, tensor in weights_of(model).items()}
    tensors |= _optimizer_tensors(optimizer) | {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    info = {"step": step, "tokens": tokens, "seconds": seconds, "optimizer": _kind(optimizer)}
    write_tensors(path, tensors, info)


def load_state(path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, int, float]:
    """Put back what `save_state` wrote; returns (step, tokens, seconds). CheckpointError if it is another run's."""
    tensors, info = read_tensors(path)
    own = {f"model.{name}": tensor for name, tensor in weights_of(model).items()}
    stored = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    if {k: t.shape for k, t in own.items()} != {k: t.shape for k, t in stored.items()} or (
        info.get("optimizer") != _kind(optimizer)
    ):
        raise CheckpointError(f"{path} is the state of another model or optimizer: start anew with resume=False")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(stored[name])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            like = parameters[int(index)]
            if tensor.shape == like.shape:  # laid out in memory as its parameter is: fused AdamW reads both in one pass
                tensor = torch.empty_like(like, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    return info["step"], info["tokens"], info["seconds"]


def _optimizer_tensors(optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{key}": t for i, s in state.items() for key, t in s.items() if isinstance(t, Tensor)}


def _kind(optimizer) -> list:
    return [type(optimizer).__name__, *(len(group["params"]) for group in optimizer.param_groups)]


def _earlier_records(log_path, step: int) -> list[Record]:
    """Begin the log at update `step`: keep the lines up to it, drop what came after the state was saved."""
    if not log_path:
        return []
    path, records = Path(log_path), []
    path.parent.mkdir(parents=True, exist_ok=True)
    for line in path.read_text(encoding="utf-8").splitlines() if step and path.exists() else []:
        try:
            records.append(Record(**json.loads(line)))
        except (ValueError, TypeError):
            break  # the line that the interruption cut short
    records = [record for record in records if record.step <= step]
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text("".join(json.dumps(asdict(r)) + "\n" for r in records), encoding="utf-8")
    os.replace(unfinished, path)
    return records

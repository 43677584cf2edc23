"""A training run outside the loop: its records, its log, and the saved state from which it goes on.

    every update:        one line is added to the log
    every save_every:    the log reaches the disk, then the state takes the place of the one before

A process can be killed between any two instructions. The log is then ahead of the state, never behind it, and perhaps
its last line is cut short: going on from update s keeps the lines up to s and cuts off the rest. The state is replaced
whole or not at all (`checkpoint.write_tensors`). Under `torchrun` every process calls these functions, and the first
one writes.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from llmkit import distributed
from llmkit.checkpoint import CheckpointError, read_tensors, weights_of, write_tensors


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
    peak_bytes: int | None = None  # `device.peak_memory_bytes` so far; of several processes, the hungriest one's


def no_better(name: str, patience: int) -> Callable[[Sequence[Record]], bool]:
    """Early stopping, for `fit(stop_when=...)`: the last `patience` evaluations brought no new least `evals[name]`."""
    if patience < 1:
        raise ValueError(f"patience={patience} must be at least 1 evaluation")

    def stop(records: Sequence[Record]) -> bool:
        evals = [record.evals for record in records if record.evals]
        if evals and name not in evals[-1]:
            raise ValueError(f"eval_fn returns no {name!r} but {', '.join(evals[-1])}: name one of these to no_better")
        values = [values[name] for values in evals if name in values]
        before, last = values[:-patience], values[-patience:]
        return bool(before) and not any(value < min(before) for value in last)  # NaN is no improvement

    return stop


# --- The log -------------------------------------------------------------------------------------------------------


def begin_log(path: str | Path | None, step: int) -> list[Record]:
    """Make the log end at update `step` (0: empty), and return the records that it holds."""
    if not path:
        return []
    path, records, size = Path(path), [], 0
    if distributed.is_main():
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            records, size = _records_until(path, step)
            with open(path, "ab") as log:
                log.truncate(size)
    distributed.wait()
    return records if distributed.is_main() else _records_until(path, step)[0]


def append_log(path: str | Path, record: Record) -> None:
    """Add a line. CheckpointError, with what to do, if the disk refuses."""
    if distributed.is_main():
        with _explained(path), open(path, "ab") as log:
            log.write(json.dumps(asdict(record)).encode() + b"\n")


def _records_until(path: Path, step: int) -> tuple[list[Record], int]:
    """The records up to update `step`, and the bytes they take; a line that is no record ends them."""
    records, size = [], 0
    for line in path.read_bytes().splitlines(keepends=True) if step and path.exists() else []:
        try:
            record = Record(**json.loads(line))
        except (ValueError, TypeError):
            break
        if record.step > step or not line.endswith(b"\n"):
            break
        records.append(record)
        size += len(line)
    return records, size


@contextmanager
def _explained(path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot write the log {path} ({error}). {REMEDY}") from error


REMEDY = "Make room or choose another place, then run again with resume=True: it goes on from the state saved last"


# --- The state -----------------------------------------------------------------------------------------------------


def save_state(
    path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, tokens: int, seconds: float, log_path=None
) -> None:
    """Weights, optimizer, random state and progress in one safetensors file, replaced whole or not at all.

    What is sharded is put together first, so that any number of processes can go on from it. The random states are the
    first process's. CheckpointError, with what to do, if the disk refuses: the file is then as it was.
    """
    tensors = {f"model.{name}": tensor for name, tensor in weights_of(model).items()}
    tensors |= _optimizer_tensors(optimizer)
    tensors = {name: distributed.full(tensor) for name, tensor in tensors.items()}
    if distributed.is_main():
        info = {"step": step, "tokens": tokens, "seconds": seconds, "optimizer": _kind(optimizer)}
        if log_path:
            with _explained(log_path), open(log_path, "ab") as log:
                os.fsync(log.fileno())
        try:
            write_tensors(path, tensors | _random_states(), info)
        except CheckpointError as error:
            raise CheckpointError(f"{error}. {REMEDY}") from error
    distributed.wait()


def load_state(path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, int, float]:
    """Put back what `save_state` wrote; returns (step, tokens, seconds). CheckpointError if it is damaged, or another
    run's: model and optimizer are then as they were."""
    tensors, info = read_tensors(path)
    own = {f"model.{name}": tensor for name, tensor in weights_of(model).items()}
    stored = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    if {k: t.shape for k, t in own.items()} != {k: t.shape for k, t in stored.items()} or (
        info.get("optimizer") != _kind(optimizer)
    ):
        raise CheckpointError(
            f"{path} is the state of another model or optimizer: move it away, or start anew with resume=False"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(distributed.divided(stored[name], tensor))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            like = parameters[int(index)]
            if tensor.shape == like.shape:  # laid out in memory as its parameter is: fused AdamW reads both in one pass
                tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(distributed.divided(tensor, like))
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    _set_random_states(tensors)
    return info["step"], info["tokens"], info["seconds"]


def _optimizer_tensors(optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{key}": t for i, s in state.items() for key, t in s.items() if isinstance(t, Tensor)}


def _kind(optimizer) -> list:
    return [type(optimizer).__name__, *(len(group["params"]) for group in optimizer.param_groups)]


def _random_states() -> dict[str, Tensor]:
    gpus = [kind for kind in ("cuda", "mps") if getattr(torch, kind).is_available()]
    return {"rng.cpu": torch.get_rng_state()} | {f"rng.{kind}": getattr(torch, kind).get_rng_state() for kind in gpus}


def _set_random_states(tensors: dict[str, Tensor]) -> None:
    torch.set_rng_state(tensors["rng.cpu"])
    for kind in ("cuda", "mps"):
        if f"rng.{kind}" in tensors and getattr(torch, kind).is_available():
            getattr(torch, kind).set_rng_state(tensors[f"rng.{kind}"])

"""A training run in a process of its own, for test_run_killed.py to kill: it tells where it is, and can wait there.

Imported once by multiprocessing's fork server, so that a new process costs milliseconds and not torch's import.
"""

import os
import signal
import time

import torch
from run_cases import batches, make_model, noisy_loss

from llmkit import checkpoint
from llmkit import train as loop
from llmkit.checkpoint import CheckpointError
from llmkit.optim import warm_up

torch.set_num_threads(1)
warm_up()

STEPS, SAVE_EVERY = 60, 3
SETTINGS = dict(lr=1e-2, loss_fn=noisy_loss, grad_accum=2, eval_every=5, save_every=SAVE_EVERY, resume=True)


def evaluate(model):
    return {"x": torch.rand(()).item()}


def train(folder, pipe=None, moment=None, file_limit=None):
    """Resume the run in `folder`; `pipe` gets every step. At `moment` of a write, it says so and waits to be killed;
    with `file_limit`, no file can grow beyond so many bytes after the seventh update, and the error goes to `pipe`."""
    model = make_model()
    torch.manual_seed(42)

    def on_step(record):
        if pipe:
            pipe.send(record.step)
        if file_limit and record.step >= 7:
            _limit_files(file_limit)
        if moment and record.step % SAVE_EVERY == SAVE_EVERY - 1 and record.step > 2 * SAVE_EVERY:
            _wait_at(moment, pipe)

    paths = dict(log_path=folder / "log.jsonl", state_path=folder / "state.safetensors")
    try:
        return loop.fit(model, batches, STEPS, eval_fn=evaluate, on_step=on_step, **SETTINGS, **paths)
    except CheckpointError as error:
        pipe.send(str(error))


def _limit_files(size):
    import resource  # POSIX only

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does: the write fails, the process lives
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _wait_at(moment, pipe):
    """From now on, stop at this moment of the next write."""

    def here(*_, **__):
        pipe.send(moment)
        time.sleep(60)

    def half_a_line(path, record):
        with open(path, "ab") as log:
            log.write(b'{"step": 9, "lo')
        here()

    def half_a_state(tensors, path, metadata):
        (path.parent / ".tmpABC").write_bytes(bytes(5000))  # as safetensors does, under a random name
        here()

    if moment == "half a log line":
        loop.append_log = half_a_line
    elif moment == "half a state":
        checkpoint.save_file = half_a_state
    elif moment == "not yet renamed":
        os.replace = here
    elif moment == "just renamed":
        replace = os.replace
        os.replace = lambda a, b: (replace(a, b), here())

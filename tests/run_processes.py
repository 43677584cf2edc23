"""Run by `torchrun` for test_distributed.py: `fit` in several processes; what each of them saw goes to files.

torchrun --nproc-per-node 2 run_processes.py FOLDER
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from run_cases import CONFIG, batches, make_model

from llmkit import distributed
from llmkit.checkpoint import weights_of, write_tensors
from llmkit.config import MoEConfig
from llmkit.model import Transformer
from llmkit.moe import update_bias
from llmkit.optim import adamw, constant, muon
from llmkit.run import no_better
from llmkit.train import NonFiniteLoss, fit, next_token_loss

FOLDER = Path(sys.argv[-1])
STEPS = 5


def ragged(step):
    """5 rows for 2 processes, with targets in 1 to 5 of them, here and there."""
    batch = batches(step, batch_size=5)
    batch.targets[torch.rand(5, 12, generator=torch.Generator().manual_seed(step)) < 0.4] = -100
    batch.targets[step % 5 + 1 :] = -100
    return batch


def poisoned(step):
    batch = ragged(step)
    if step == 2:
        batch.idx[1] = 31
    return batch


def explosive_loss(model, batch):
    return next_token_loss(model, batch) * torch.where((batch.idx == 31).all(-1), torch.nan, 1.0).mean()


def evaluate(model):
    with torch.no_grad():
        return {"val": next_token_loss(model, batches(99)).item(), "rank": float(distributed.rank())}


CASES = {  # name: (arguments of fit, how an optimizer is made)
    "plain": (dict(batches=batches), lambda model: adamw(model, 1e-2)),
    "ragged": (dict(batches=ragged, eval_fn=evaluate, eval_every=2), lambda model: adamw(model, 1e-2)),
    "accumulated": (
        dict(batches=ragged, grad_accum=3, clip=0.1, schedule=constant()),
        lambda model: adamw(model, 1e-2),
    ),
    "muon": (dict(batches=ragged), lambda model: muon(model, 1e-2)),
}


def train(how, case, seed=0, **options):
    """(the wrapped model, its records) of a case."""
    arguments, make_optimizer = CASES[case]
    model = distributed.wrap(make_model(seed), how)
    optimizer = make_optimizer(distributed.unwrapped(model))
    return model, fit(model, steps=STEPS, optimizer=optimizer, **arguments, **options)


def error_of(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except (ValueError, NonFiniteLoss) as error:
        return str(error)


def refused(how):
    """What is said to those who would train wrongly."""
    unwrapped, early = make_model(), make_model()
    optimizer = adamw(early, 1e-2)
    model = distributed.wrap(early, how)
    return {
        "unwrapped": error_of(fit, unwrapped, batches, 2),
        "early": error_of(fit, model, batches, 2, optimizer=optimizer),
        "muon": error_of(train, how, "muon"),
        "nan": error_of(fit, model, poisoned, 5, loss_fn=explosive_loss),
    }


def experts(how):
    """The bias of every router, after updates that only the first process makes; and the losses."""
    torch.manual_seed(0)
    model = distributed.wrap(Transformer(replace(CONFIG, moe=MoEConfig(n_expert=4, n_active=2, d_expert=16))), how)
    plain = distributed.unwrapped(model)
    records = fit(model, batches, 3, on_step=lambda record: update_bias(plain, 0.01))
    biases = [buffer.tolist() for name, buffer in plain.named_buffers() if name.endswith("bias")]
    return {"biases": biases, "losses": [record.loss for record in records]}


def main():
    saw = {}
    for how in ("ddp", "fsdp"):
        for case in [case for case in CASES if (how, case) != ("fsdp", "muon")]:
            files = dict(log_path=FOLDER / f"{how}-{case}.jsonl", state_path=FOLDER / f"{how}-{case}.state")
            # A process that starts from other weights gets the first one's.
            model, records = train(how, case, seed=distributed.rank(), **files)
            saw[f"{how}-{case}"] = [asdict(record) for record in records]
            whole = distributed.gathered(model)
            if distributed.is_main():
                write_tensors(FOLDER / f"{how}-{case}.safetensors", weights_of(whole), {})
        files = dict(log_path=FOLDER / f"{how}-cut.jsonl", state_path=FOLDER / f"{how}-cut.state")
        train(how, "ragged", on_step=lambda record: record.step == 3, **files)
        _, records = train(how, "ragged", resume=True, **files)
        saw[f"{how}-resumed"] = [asdict(record) for record in records]
        stop = no_better("rank", patience=1)  # 0 in the first process: no better at the second evaluation
        saw[f"{how}-stopped"] = [record.step for record in train(how, "ragged", stop_when=stop)[1]]
        saw[f"{how}-experts"] = experts(how)
        saw[f"{how}-refused"] = refused(how)
    (FOLDER / f"rank{distributed.rank()}.json").write_text(json.dumps(saw))


if __name__ == "__main__":
    with distributed.launched() as device:
        torch.manual_seed(0)
        main()

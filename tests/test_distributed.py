"""Two processes under torchrun learn what one process learns: DDP and FSDP, over gloo on the CPU (run_processes.py)."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import run_processes
import torch
from run_cases import batches, make_model
from run_processes import CASES, STEPS

from llmkit import distributed
from llmkit.checkpoint import read_tensors, weights_of
from llmkit.data import Batch
from llmkit.run import Record
from llmkit.train import fit

HOW = ("ddp", "fsdp")
CASES_OF = [(how, case) for how in HOW for case in CASES if (how, case) != ("fsdp", "muon")]
each_case = pytest.mark.parametrize(("how", "case"), CASES_OF)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """(folder, what each of the two processes saw), after one launch for all tests."""
    if sys.platform == "win32":
        pytest.skip("torchrun over gloo is tested on Linux and macOS")
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    command += ["--master-port", str(port), run_processes.__file__, str(folder)]
    path = os.pathsep.join([str(Path(run_processes.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone():
    """case -> (model, records) in one process."""
    return {case: run_processes.train("ddp", case) for case in CASES}


@each_case
def test_two_processes_learn_what_one_does(together, alone, how, case):
    folder, saw = together
    model, expected = alone[case]
    records = [Record(**values) for values in saw[0][f"{how}-{case}"]]
    assert [(r.step, r.lr, r.tokens) for r in records] == [(r.step, r.lr, r.tokens) for r in expected]
    assert [r.loss for r in records] == pytest.approx([r.loss for r in expected], rel=2e-6)
    assert [r.grad_norm for r in records] == pytest.approx([r.grad_norm for r in expected], rel=2e-5)
    weights, _ = read_tensors(folder / f"{how}-{case}.safetensors")
    for name, weight in weights_of(model).items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=2e-5)


def test_the_cases_are_what_they_should_be():
    """Rows without any target in one of the processes, and clipping that bites."""
    counts = [(run_processes.ragged(step).targets != -100).sum(1) for step in range(STEPS)]
    assert any(n[0::2].any() and not n[1::2].any() for n in counts)
    assert any(n[0::2].sum() != n[1::2].sum() for n in counts)
    arguments, _ = CASES["accumulated"]
    assert min(r.grad_norm for r in run_processes.train("ddp", "accumulated")[1]) > arguments["clip"]


@each_case
def test_all_processes_return_the_records_that_the_first_one_logs(together, how, case):
    folder, saw = together
    lines = (folder / f"{how}-{case}.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == saw[0][f"{how}-{case}"] == saw[1][f"{how}-{case}"]
    assert len(lines) == STEPS


def test_evaluations_are_the_first_processs(together, alone):
    for how in HOW:
        evals = [values["evals"] for values in together[1][1][f"{how}-ragged"] if values["evals"]]
        expected = [r.evals["val"] for r in alone["ragged"][1] if r.evals]
        assert [e["val"] for e in evals] == pytest.approx(expected, rel=1e-5) and {e["rank"] for e in evals} == {0.0}
        assert [saw[f"{how}-stopped"] for saw in together[1]] == [[1, 2, 3, 4]] * 2


@pytest.mark.parametrize("how", HOW)
def test_a_run_of_two_goes_on_bit_for_bit(together, how):
    folder, saw = together

    def timeless(records):
        return [{**r, "tok_s": 0, "seconds": 0, "peak_bytes": 0} for r in records]

    assert timeless(saw[0][f"{how}-resumed"]) == timeless(saw[0][f"{how}-ragged"])
    (cut, _), (whole, _) = (read_tensors(folder / f"{how}-{name}.state") for name in ("cut", "ragged"))
    assert cut.keys() == whole.keys() and all(torch.equal(cut[name], whole[name]) for name in cut)


@pytest.mark.parametrize("how", HOW)
def test_one_process_goes_on_from_the_state_of_two(together, how, tmp_path):
    state = tmp_path / "state"
    state.write_bytes((together[0] / f"{how}-accumulated.state").read_bytes())
    arguments, make_optimizer = CASES["accumulated"]
    model, expected = make_model(7), make_model()
    for each, resume in ((model, True), (expected, False)):
        fit(each, steps=STEPS + 3, optimizer=make_optimizer(each), state_path=state, resume=resume, **arguments)
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("how", HOW)
def test_what_on_step_does_to_a_buffer_reaches_all(together, how):
    first, second = (saw[f"{how}-experts"] for saw in together[1])
    assert first == second and any(any(bias) for bias in first["biases"])
    alone = run_processes.experts(how)["losses"]
    assert first["losses"][0] == pytest.approx(alone[0], rel=1e-5)  # then it is the first process's load that counts


def test_what_would_train_wrongly_is_refused(together):
    for saw in together[1]:
        for how in HOW:
            assert "distributed.wrap(model" in saw[f"{how}-refused"]["unwrapped"]
            assert "row 1 of batches(2)" in saw[f"{how}-refused"]["nan"]
        assert saw["fsdp-refused"]["early"].startswith("the optimizer was made before")
        assert "use optim.adamw" in saw["fsdp-refused"]["muon"]
        assert saw["ddp-refused"]["early"] is None and saw["ddp-refused"]["muon"] is None


# --- Alone ---------------------------------------------------------------------------------------------------------


def test_alone_everything_is_as_if_it_were_not_there(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    model = make_model()
    with distributed.launched() as device:
        assert isinstance(device, torch.device) and distributed.size() == 1 and distributed.is_main()
        assert distributed.wrap(model, "fsdp") is distributed.gathered(model) is distributed.unwrapped(model) is model
        assert distributed.gather([1.0, 2.0]) == [[1.0, 2.0]]
    with pytest.raises(ValueError, match="'zero'"):
        distributed.wrap(model, "zero")


def test_shares_hold_every_row_once_and_their_weights_add_up(monkeypatch):
    batch = batches(0, batch_size=5)
    batch.targets[0, 1:] = -100
    batch.targets[1] = -100
    batch.targets[3] = -100
    shares = []
    monkeypatch.setattr(distributed, "size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(distributed.share(batch))
    (first, weight), (second, nothing) = shares
    assert torch.equal(first.idx, batch.idx[::2]) and torch.equal(first.targets, batch.targets[::2]) and weight == 1.0
    assert nothing == 0.0 and torch.equal(second.idx, batch.idx[:1])  # a row with a target, to keep step
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    assert distributed.share(Batch(batch.idx, batch.targets.clamp_min(0)))[1] == pytest.approx(3 / 5)
    assert distributed.share(Batch(batch.idx, None))[1] == pytest.approx(3 / 5)

"""What a run leaves on disk: its log, its state, and a sentence where the disk refuses; and when to stop early."""

import errno
import json
from dataclasses import asdict

import pytest
import torch
from run_cases import batches, make_model, same_weights

from llmkit import checkpoint, run
from llmkit.checkpoint import CheckpointError
from llmkit.run import Record, append_log, begin_log, no_better
from llmkit.train import fit


def record(step, **values):
    return Record(**{**dict(step=step, loss=2.0, lr=0.1, grad_norm=1.0, tokens=9, tok_s=8.0, seconds=1.5), **values})


# --- The log -------------------------------------------------------------------------------------------------------


def test_a_log_goes_on_where_the_state_was_saved(tmp_path):
    log = tmp_path / "runs" / "log.jsonl"
    assert begin_log(log, 0) == [] and log.read_bytes() == b""
    for step in range(1, 6):
        append_log(log, record(step, evals={"x": 1.0}))
    assert begin_log(log, 3) == [record(step, evals={"x": 1.0}) for step in (1, 2, 3)]
    append_log(log, record(4))
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4]
    assert begin_log(log, 0) == [] and log.read_bytes() == b""
    assert begin_log(None, 3) == []


def test_lines_of_an_older_log_are_read(tmp_path):
    log, old = tmp_path / "log.jsonl", asdict(record(1))
    del old["peak_bytes"]
    log.write_text(json.dumps(old) + "\n")
    append_log(log, record(2, peak_bytes=2**30))
    assert begin_log(log, 2) == [record(1), record(2, peak_bytes=2**30)]


@pytest.mark.parametrize("damage", [b'{"step": 3, "lo', b"\xff\n", b"[1]\n", b'{"other": 1}\n', b"null\n"])
def test_what_is_no_record_ends_the_log(tmp_path, damage):
    log = tmp_path / "log.jsonl"
    for step in (1, 2):
        append_log(log, record(step))
    whole = log.read_bytes()
    log.write_bytes(whole + damage)
    assert begin_log(log, 9) == [record(1), record(2)] and log.read_bytes() == whole


def test_a_last_line_without_its_end_is_cut_off(tmp_path):
    log = tmp_path / "log.jsonl"
    append_log(log, record(1))
    log.write_bytes(log.read_bytes() + json.dumps(asdict(record(2))).encode())
    assert begin_log(log, 2) == [record(1)]
    append_log(log, record(2))
    assert begin_log(log, 2) == [record(1), record(2)]


# --- Disks that refuse ---------------------------------------------------------------------------------------------


def full_disk(tensors, path, metadata):
    path.write_bytes(b"the first half of a file")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_keeps_the_last_state_and_says_what_to_do(tmp_path, monkeypatch):
    state = tmp_path / "state.safetensors"
    expected, model = make_model(), make_model()
    fit(expected, batches, 9)
    fit(model, batches, 9, state_path=state, on_step=lambda record: record.step == 3)
    before = state.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full_disk)
        with pytest.raises(CheckpointError, match="No space left.* unchanged.*Make room.*resume=True"):
            fit(model, batches, 9, state_path=state, save_every=2, resume=True)
    assert state.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == [state.name]
    resumed = make_model(1)
    assert len(fit(resumed, batches, 9, state_path=state, resume=True)) == 6
    assert same_weights(resumed, expected)


def test_a_log_that_cannot_be_written_gets_a_sentence(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write the log .*log\.jsonl.*resume=True"):
        fit(make_model(), batches, 2, log_path=tmp_path / "log.jsonl")


def test_a_state_is_as_readable_as_any_other_file(tmp_path):
    fit(make_model(), batches, 1, state_path=tmp_path / "state.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "state.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_a_killed_writer_left_is_cleared_away(tmp_path):
    unfinished = tmp_path / ".state.safetensors.unfinished"
    for leave in (lambda: unfinished.write_bytes(b"half"), lambda: (unfinished / "deeper").mkdir(parents=True)):
        leave()
        fit(make_model(), batches, 1, state_path=tmp_path / "state.safetensors")
        assert [f.name for f in tmp_path.iterdir()] == ["state.safetensors"]


def test_the_random_state_is_part_of_the_state(tmp_path):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.manual_seed(5)
    run.save_state(tmp_path / "state", model, optimizer, 7, 70, 0.5)
    expected = torch.rand(3)
    assert run.load_state(tmp_path / "state", model, optimizer) == (7, 70, 0.5)
    assert torch.equal(torch.rand(3), expected)


# --- Early stopping ------------------------------------------------------------------------------------------------


def test_no_better_counts_evaluations_since_the_best():
    stop = no_better("val", patience=2)

    def stopped_after(values):
        records = []
        for step, value in enumerate(values):
            records += [record(2 * step), record(2 * step + 1, evals={"val": value, "other": -step})]
            if stop(records):
                return step + 1
        return None

    assert stopped_after([3.0, 2.0, 2.5, 1.9, 2.0, 1.8]) is None
    assert stopped_after([3.0, 2.0, 2.5, 2.0, 1.0]) == 4  # as good as the best is no better
    assert stopped_after([3.0, float("nan"), float("nan")]) == 3
    assert stopped_after([3.0, 4.0]) is None
    assert not stop([]) and not stop([record(1)])


def test_no_better_names_what_it_lacks():
    with pytest.raises(ValueError, match="no 'val' but loss, facts"):
        no_better("val", 1)([record(1, evals={"loss": 1.0, "facts": 0.5})])
    with pytest.raises(ValueError, match="patience=0"):
        no_better("val", 0)


def test_fit_stops_early_and_stays_stopped(tmp_path):
    values = iter([5.0, 4.0, 4.5, 4.0, 3.0, 2.0])
    settings = dict(eval_every=2, stop_when=no_better("val", patience=2))
    settings |= dict(state_path=tmp_path / "state", log_path=tmp_path / "log", resume=True)

    def cut(record):
        return record.step == 6  # after the first evaluation that is no better

    settings["eval_fn"] = lambda model: {"val": next(values)}
    assert len(fit(make_model(), batches, 40, on_step=cut, **settings)) == 6
    model, again = make_model(), make_model(1)
    records = fit(model, batches, 40, **settings)
    assert [r.evals["val"] for r in records if r.evals] == [5.0, 4.0, 4.5, 4.0] and len(records) == 8
    assert fit(again, batches, 40, **settings) == records and same_weights(model, again)
    del settings["log_path"]
    with pytest.raises(ValueError, match="needs log_path"):
        fit(make_model(), batches, 40, **settings)

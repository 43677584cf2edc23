"""A stage trains, can be cut off and resumed, and leaves a checkpoint whose card says what it is."""

import contextlib
import io
import shutil
import signal
from dataclasses import replace

import pytest
import torch

from llmkit import checkpoint, pipeline
from llmkit.config import preset
from llmkit.pipeline import STAGES, Pretraining, progress
from llmkit.run import Record
from llmkit.world import KINDS, World

STAGE = Pretraining(
    "nano", steps=4, batch_size=2, context_length=32, lr=1e-3, n_documents=60, n_validation=60, n_questions=3
)


@pytest.fixture(scope="module", autouse=True)
def small_stage():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "N_TOKENIZER_DOCUMENTS", 3000)
        tokenizer = pipeline.town_tokenizer(World(0))
        patch.setattr(pipeline, "STAGES", {"trial": STAGE})
        patch.setattr(pipeline, "town_tokenizer", lambda world: tokenizer)
        patch.setattr(pipeline, "preset", lambda name: preset(name, context_length=512))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, what was printed) of the whole command."""
    folder, printed = tmp_path_factory.mktemp("finished"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        command("trial", "--work", folder / "work")
    return folder, printed.getvalue().splitlines()


def command(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["pipeline", *map(str, arguments)])
        pipeline.main()


def same_checkpoints(*folders):
    first, second = (checkpoint.load(folder / "trial")[0].state_dict() for folder in folders)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_command_from_nothing_to_a_checkpoint(finished):
    folder, lines = finished
    model, tokenizer = checkpoint.load(folder / "work/checkpoints/trial")
    assert tokenizer.vocab_size == model.config.vocab_size == 1024
    card = checkpoint.card(folder / "work/checkpoints/trial")
    assert card["world"] == World(0).fingerprint and card["tokens"] == 4 * 2 * 32
    assert card["command"] == "python -m llmkit.pipeline trial"
    assert set(card["loss"]) == set(KINDS) and card["loss"]["story"]["floor"] < card["loss"]["story"]["loss"]
    assert card["scores"]["facts/train"]["n"] == 3
    assert "step 4/4" in lines[-2] and "excess" in lines[-2] and "tokens/s  0.0 min left" in lines[-2]
    assert lines[-1] == f"saved {folder / 'work/checkpoints/trial'}"


def test_a_stage_that_is_done_is_not_trained_again(finished, tmp_path):
    work = finished[0] / "work"
    log = (work / "runs/trial/log.jsonl").read_bytes()
    pipeline.pretrain("trial", work, tmp_path)  # resumes at the last step
    assert same_checkpoints(finished[0] / "work/checkpoints", tmp_path)
    assert (work / "runs/trial/log.jsonl").read_bytes() == log and len(log.splitlines()) == 4


def test_ctrl_c_saves_and_the_same_command_goes_on(finished, tmp_path, capsys, monkeypatch):
    def interrupt(record):
        if record.step == 2:
            signal.raise_signal(signal.SIGINT)

    usual = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "progress", lambda steps: interrupt)
        pipeline.pretrain("trial", tmp_path / "work", tmp_path / "out")
    said = capsys.readouterr().out
    assert "stopping after this update" in said and "stopped after update 2, which is saved" in said
    assert not (tmp_path / "out").exists() and signal.getsignal(signal.SIGINT) is usual
    pipeline.pretrain("trial", tmp_path / "work", tmp_path / "out")
    assert same_checkpoints(finished[0] / "work/checkpoints", tmp_path / "out")


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"{")], ids=["cut", "bad"])
def test_a_token_file_that_was_not_finished_is_written_again(finished, tmp_path, spoil):
    folder, world = tmp_path / "data", World(0)
    tokenizer = pipeline.town_tokenizer(world)
    whole = pipeline.tokens(world, tokenizer, 60, folder)
    (header,) = folder.glob("*.json")
    spoil(header)  # as a kill between the file and its header leaves it
    assert (pipeline.tokens(world, tokenizer, 60, folder) == whole).all()


def no_folder(whole, work):
    work.write_text("a file")
    return "work"


def no_state(whole, work):
    shutil.copytree(whole, work)
    (work / "runs/trial/state.safetensors").write_bytes(b"half")
    return "is damaged or no safetensors file"


@pytest.mark.parametrize("spoil", [no_folder, no_state])
def test_what_cannot_run_ends_in_a_sentence(finished, tmp_path, capsys, spoil):
    why = spoil(finished[0] / "work", tmp_path / "work")
    with pytest.raises(SystemExit) as stopped:
        command("trial", "--work", tmp_path / "work")
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and said.startswith("python -m llmkit.pipeline trial: ")
    assert why in said and said.count("\n") == 1


def test_an_unknown_stage_is_answered_with_the_stages(capsys):
    with pytest.raises(SystemExit):
        command("bsae")
    assert "choose from" in (said := capsys.readouterr().err) and "trial" in said


def test_ctrl_c_again_interrupts():
    with pytest.raises(KeyboardInterrupt):
        with pipeline.asked_to_stop() as asked:
            signal.raise_signal(signal.SIGINT)
            assert asked.is_set()
            signal.raise_signal(signal.SIGINT)


def test_progress_tells_the_recent_speed_and_the_time_left(capsys):
    show = progress(1000, every_s=20)
    record = Record(step=401, loss=1.0, lr=0.1, grad_norm=1.0, tokens=401_000, tok_s=5.0, seconds=9_000.0)
    show(record)  # resumed: what was before is no measure
    for _ in range(99):
        record = replace(record, step=record.step + 1, tokens=record.tokens + 1000, seconds=record.seconds + 0.5)
        show(replace(record, evals={"excess": 0.25} if record.step == 430 else None))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ") == ["step 441/1,000", "loss 1.000", "excess 0.250", "2,000 tokens/s", "4.7 min left"]
    assert len(lines) == 2


def test_the_stages_are_listed(capsys):
    command("--list")
    assert "trial" in capsys.readouterr().out and {"base", "draft", "trial"} <= set(STAGES)

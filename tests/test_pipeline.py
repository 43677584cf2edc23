"""A stage trains, can be cut off and resumed, and leaves a checkpoint whose card says what it is."""

import pytest
import torch

from llmkit import checkpoint, pipeline
from llmkit.pipeline import Pretraining
from llmkit.world import KINDS, World


@pytest.fixture
def small_stage(monkeypatch):
    recipe = Pretraining("nano", steps=4, batch_size=2, context_length=32, lr=1e-3, n_documents=60)
    monkeypatch.setattr(pipeline, "STAGES", {"trial": recipe})
    monkeypatch.setattr(pipeline, "N_TOKENIZER_DOCUMENTS", 3000)
    monkeypatch.setattr(pipeline, "N_VALIDATION_DOCUMENTS", 60)
    monkeypatch.setattr(pipeline, "N_QUESTIONS", 3)
    monkeypatch.setattr(pipeline, "preset", lambda name: real_preset(name, context_length=512))


real_preset = pipeline.preset


def test_a_stage_from_nothing_to_a_checkpoint(small_stage, tmp_path, capsys):
    pipeline.pretrain("trial", tmp_path / "work", tmp_path / "out")
    model, tokenizer = checkpoint.load(tmp_path / "out" / "trial")
    assert tokenizer.vocab_size == model.config.vocab_size == 1024
    card = checkpoint.card(tmp_path / "out" / "trial")
    assert card["world"] == World(0).fingerprint and card["tokens"] == 4 * 2 * 32
    assert card["command"] == "python -m llmkit.pipeline trial"
    assert set(card["loss"]) == set(KINDS) and card["loss"]["story"]["floor"] < card["loss"]["story"]["loss"]
    assert card["scores"]["facts/train"]["n"] == 3
    assert "step 4/4" in capsys.readouterr().out


def test_a_stage_that_is_done_is_not_trained_again(small_stage, tmp_path):
    pipeline.pretrain("trial", tmp_path / "work", tmp_path / "a")
    pipeline.pretrain("trial", tmp_path / "work", tmp_path / "b")  # resumes at the last step
    first, second = (checkpoint.load(tmp_path / name / "trial")[0].state_dict() for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len((tmp_path / "work/runs/trial/log.jsonl").read_text().splitlines()) == 4


def test_the_stages_are_listed(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pipeline", "--list"])
    pipeline.main()
    assert "base" in capsys.readouterr().out

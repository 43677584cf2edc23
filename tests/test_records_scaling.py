"""Lesson 07's record: a branch of the trunk is a run of its own, a stopped run goes on, the table is whole."""

import pytest
import torch

from course.records import scaling as experiment
from llmkit import checkpoint
from llmkit.config import preset
from llmkit.cost import parameters
from llmkit.data import PackedBatches, encode_documents
from llmkit.model import Transformer
from llmkit.optim import muon, warmup_stable_decay
from llmkit.train import fit
from llmkit.world import World


@pytest.fixture(scope="module")
def town():
    world, (_, tokenizer) = World(0), checkpoint.load("draft")
    stream = encode_documents((d.text for d in world.documents(200, 3)), tokenizer)
    return stream, experiment.Examination(world, tokenizer, None, n=12)


@pytest.fixture
def small(monkeypatch):
    for name, value in {"WARMUP": 2, "T": 64, "ROWS": 2}.items():
        monkeypatch.setattr(experiment, name, value)


def test_the_family_has_the_presets_in_it():
    nano, tiny = experiment.config(64), experiment.config(128)
    assert tiny == preset("tiny") and parameters(nano).total == parameters(preset("nano")).total


def test_a_branch_of_the_trunk_equals_a_run_of_its_own(town, small, tmp_path):
    stream, examine = town
    *_, last = experiment.points(24, (4, 8), stream, examine, tmp_path, seed=5)
    torch.manual_seed(5)
    model = Transformer(experiment.config(24))
    schedule, optimizer = warmup_stable_decay(8, 2, 2), muon(model, experiment.learning_rate(24))
    fit(model, PackedBatches(stream, 2, 64, 5), 8, optimizer=optimizer, schedule=schedule)
    assert last["loss"] == examine(model) and last["loss"] != last["trunk"]
    assert last["d"] == 8 * 2 * 64 and last["n"] == sum(p.numel() for p in model.parameters())


def test_a_stopped_run_goes_on_to_the_same_numbers(town, small, tmp_path):
    stream, examine = town
    whole = list(experiment.points(24, (4, 8), stream, examine, tmp_path / "whole"))
    begun = experiment.points(24, (4, 8), stream, examine, tmp_path / "stopped")
    assert next(begun) == whole[0]  # and nobody asks for the rest
    assert list(experiment.points(24, (4, 8), stream, examine, tmp_path / "stopped")) == whole


def test_training_again_returns_a_record_and_leaves_the_shipped_one_alone(town, small, tmp_path, monkeypatch):
    stream, examine = town
    monkeypatch.setattr(experiment, "WORK", tmp_path)
    monkeypatch.setattr(experiment, "RUNS", [("town", 24, 0, (4, 8))])
    monkeypatch.setattr(experiment, "stream", lambda world, tokenizer, text: stream)
    monkeypatch.setattr(experiment, "Examination", lambda world, tokenizer, kinds: examine)
    shipped = experiment.FILE.read_bytes()
    record = experiment.train()
    assert [(r["text"], r["d_model"], r["d"]) for r in record["runs"]] == [("town", 24, 512), ("town", 24, 1024)]
    assert record.keys() == experiment.load().keys() and experiment.FILE.read_bytes() == shipped
    monkeypatch.setattr(experiment, "make", lambda *row: pytest.fail("it was there already"))
    assert experiment.train(["town-24"]) == record


def test_an_examination_knows_the_floor_of_each_kind(town):
    _, examine = town
    nats, kinds = sum(d.nats for d in examine.documents), {d.kind for d in examine.documents}
    assert examine.floor["all"] == pytest.approx(nats / sum(len(ids) + 1 for ids in examine.ids), abs=1e-5)
    assert set(examine.floor) == {"all", *kinds}


def test_the_record_has_what_its_lesson_reads():
    record = experiment.load()
    assert record["command"] == "python -m course.records.scaling" and experiment.FILE.stat().st_size < 30_000
    cases = [(r["text"], r["d_model"], r["seed"], r["d"]) for r in record["runs"]]
    tokens = experiment.ROWS * experiment.T
    asked = [(*row[:3], steps * tokens) for row in experiment.RUNS for steps in row[3]]
    assert sorted(cases) == sorted(asked) and len(set(cases)) == len(cases)
    for run in record["runs"]:
        size = parameters(experiment.config(run["d_model"]))
        assert (run["n"], run["n_embedding"]) == (size.total, size.embedding)
        assert all(run[what]["all"] > record["floor"][run["text"]]["all"] for what in ("loss", "trunk"))

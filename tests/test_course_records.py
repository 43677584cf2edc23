"""Recorded experiments: the haystacks are what they say, and the record has what its lesson reads."""

import numpy as np
import pytest
import torch

from course.records import positions as experiment
from llmkit import checkpoint
from llmkit.data import IGNORE_INDEX
from llmkit.world import World


@pytest.fixture(scope="module")
def world():
    return World(0)


@pytest.fixture(scope="module")
def tokenizer():
    return checkpoint.load("draft")[1]


@pytest.fixture(scope="module")
def hay(world, tokenizer):
    return experiment.Haystacks(world, tokenizer, seed=3, n_documents=60)


@pytest.mark.parametrize(
    ("length", "depths", "places"), [(32, [0.0], [0]), (64, [1.0], [49]), (64, [0.9, 0.0], [0, 45])]
)
def test_a_row_has_its_needles_where_they_belong_and_ends_in_the_answer(hay, length, depths, places):
    row = hay.row(np.random.default_rng(0), length, depths)
    needle, word = hay.needle, row[-1]
    found = [i for i in range(len(row)) if row[i : i + len(needle)] == needle]
    assert len(row) == length + 1 and word in hay.words
    assert found == [*places, length - len(needle)]
    assert all(row[i + len(needle)] == word for i in found)


def test_training_is_a_pure_function_of_the_step_and_never_longer_than_it_says(hay):
    batches = experiment.training_batches(hay, seed=0)
    once, again, other = batches(3), batches(3), batches(4)
    assert torch.equal(once.idx, again.idx) and not torch.equal(once.idx, other.idx)
    assert once.idx.shape == (16, experiment.TRAINED)
    assert torch.equal(once.targets[:, :-1], once.idx[:, 1:]) and (once.targets != IGNORE_INDEX).all()


def test_long_rows_begin_with_a_document_so_that_the_floor_is_finite(world, tokenizer, hay):
    rows = experiment.long_rows(hay, 2)
    assert rows.shape == (2, experiment.TESTED + 1) and (rows[:, 0] == tokenizer.eos_id).all()
    floor = experiment.floor_by_position(world, tokenizer, rows)
    assert len(floor) == experiment.TESTED // experiment.BIN and all(0 < x < 3 for x in floor)


def test_a_window_hides_what_is_far_and_changes_no_weight(hay):
    model = experiment.train("rope", hay, steps=1)
    other = experiment.rebuilt(model, sliding_window=8)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    idx = torch.arange(16)[None]
    apart = (model(idx) - other(idx)).abs().amax(-1)[0]  # (T,)
    assert apart[:8].max() < 1e-5 < apart[8:].min()


def test_stretching_changes_angles_and_no_weight(hay):
    model = experiment.train("rope", hay, steps=1)
    other = experiment.stretched(model, "linear")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert torch.equal(other.pos_emb.cos[8], model.pos_emb.cos[1])  # position 8 of 512 stands where 1 of 64 stood
    assert experiment.loss_by_position(model, experiment.long_rows(hay, 2)) != pytest.approx(
        experiment.loss_by_position(other, experiment.long_rows(hay, 2)), abs=1e-4
    )


def test_a_model_that_knows_the_answer_finds_every_needle(hay):
    class Oracle:
        def __call__(self, idx):  # after the question comes what followed it before
            word = torch.stack([row[(row[:-7].unfold(0, 7, 1) == row[-7:]).all(1).nonzero()[0] + 7] for row in idx])
            return torch.nn.functional.one_hot(word, 1024).expand(-1, idx.shape[1], -1).float()

    assert experiment.needles_found(Oracle(), hay, 2, (32, 64), (0.0, 0.5)) == [[1, 1], [1, 1]]
    assert experiment.needles_found(lambda idx: torch.zeros(*idx.shape, 1024), hay, 2, (32,), (0.5,)) == [[0]]


def test_the_record_has_what_its_lesson_reads():
    record = experiment.load()
    assert experiment.FILE.stat().st_size < 100_000
    assert record["command"] == "python -m course.records.positions"
    seeds = {run["seed"] for run in record["runs"]}
    cases = {(run["scheme"], run["seed"]) for run in record["runs"]}
    assert cases == {(s, seed) for s in (*experiment.SCHEMES, *experiment.SCALINGS) for seed in seeds}
    for run in record["runs"]:
        assert len(run["loss"]) == len(record["floor"]) == record["tested"] // record["bin"]
        assert torch.tensor(run["needle"]).shape == (len(record["lengths"]), len(record["depths"]))

"""Records of lesson 06: each fault is made as it says, and the records have what the lesson reads."""

import pytest
import torch

from course.records import broken, packing
from llmkit import checkpoint
from llmkit.data import IGNORE_INDEX, Batch, PackedBatches, encode_documents
from llmkit.world import KINDS, World

BATCH = Batch(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 3, 4, 5]]))


@pytest.fixture(scope="module")
def tokenizer():
    return checkpoint.load("draft")[1]


@pytest.fixture(scope="module")
def documents():
    return World(0).documents(40, seed=3)  # of every kind


@pytest.mark.parametrize(("ahead", "targets"), [(0, [1, 2, 3, 4]), (1, [2, 3, 4, 5]), (2, [3, 4, 5, IGNORE_INDEX])])
def test_targets_stand_where_the_fault_says(ahead, targets):
    moved = broken.shifted(BATCH, ahead)
    assert moved.targets.tolist() == [targets] and torch.equal(moved.idx, BATCH.idx)


def test_what_is_frozen_does_not_move_and_all_else_does(tokenizer, documents):
    packed = PackedBatches(encode_documents((d.text for d in documents), tokenizer), 2, 32, seed=0)
    witness = broken.Witness(tokenizer, [], eval_every=2)
    witness.documents = {}
    broken.train(broken.Recipe(frozen="layer 1"), packed, 2, witness, 2)
    (shot,) = witness.shots
    assert shot["step"] == 2 and shot["moved"].pop("layer 1") == 0 and min(shot["moved"].values()) > 0
    assert list(shot["moved"]) == ["embedding", "layer 0", "layer 2", "layer 3"]


def test_one_batch_over_and_over_is_learned_by_heart(tokenizer, documents):
    packed = PackedBatches(encode_documents((d.text for d in documents), tokenizer), 2, 32, seed=0)
    options = dict(steps=30, eval_fn=None, eval_every=30)
    stuck = broken.train(broken.Recipe(same_batch=True), packed, **options)
    healthy = broken.train(broken.Recipe(), packed, **options)
    assert stuck[0].loss == healthy[0].loss and stuck[-1].loss < healthy[-1].loss - 0.5


def test_distance_is_in_lengths_of_the_first_weights():
    first = [torch.tensor([3.0, 4.0]), torch.tensor([0.0])]
    assert broken.distance([torch.tensor([3.0, 4.0]), torch.tensor([10.0])], first) == 2


def test_the_record_of_broken_runs_has_what_its_lesson_reads():
    record = broken.load()
    assert broken.FILE.stat().st_size < 100_000 and record["command"] == "python -m course.records.broken"
    assert list(record["runs"]) == list(broken.RECIPES) and set(broken.SIGNS) == {*broken.RECIPES} - {broken.HEALTHY}
    healthy, cases = broken.cases(record)
    assert healthy.fault == broken.HEALTHY and [case.fault for case in cases] == list(broken.SIGNS)
    assert cases["ABCDEFGH".index("C")].fault == "targets two ahead"  # the lesson's last section says "run C"
    for case in (healthy, *cases):
        assert case.steps[0] == 1 and case.steps[-1] == case.shots[-1].step == 200
        assert len(case.steps) == len(case.losses) == len(case.grad_norms)
        assert list(case.shots[0].excess) == list(KINDS) and len(case.shots[0].moved) == 5


def test_packed_pairs_differ_in_the_mask_alone(tokenizer, documents):
    stream = encode_documents((d.text for d in documents), tokenizer)
    (apart, loss), (together, _) = (packing.train(stream, doc_mask, 1, seed=0) for doc_mask in (True, False))
    assert any(not torch.equal(a, b) for a, b in zip(apart.parameters(), together.parameters(), strict=True))
    again, _ = packing.train(stream, True, 1, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(apart.parameters(), again.parameters(), strict=True))
    excess = packing.measured(apart, tokenizer, documents)
    assert list(excess) == [*KINDS, packing.ALL] and excess[packing.ALL] > 1 and 6 < loss < 8


def test_the_record_of_packing_has_its_pairs():
    record = packing.load()
    assert record["command"] == "python -m course.records.packing"
    made = [(run["seed"], run["doc_mask"]) for run in record["runs"]]
    assert made == [(seed, doc_mask) for seed in (0, 1, 2) for doc_mask in (True, False)]
    assert [len(pairs) for pairs in packing.without_minus_with(record).values()] == [3] * (len(KINDS) + 2)
    assert all(set(run["excess"]) == {*KINDS, packing.ALL} for run in record["runs"])

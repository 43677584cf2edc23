"""The record of lesson 08: its runs measure what they say, and the file has what the lesson reads."""

import pytest
import torch

from course.records import moe as experiment
from llmkit.config import preset
from llmkit.model import Transformer
from llmkit.world import KINDS


@pytest.fixture(scope="module")
def town():
    return experiment.Town(n_documents=200, n_judged=30)


def test_the_cases_have_the_sizes_that_are_compared():
    sizes = {case: experiment.sizes(case) for case in experiment.CASES}
    assert sizes["sparse"]["parameters"] == pytest.approx(sizes["wide"]["parameters"], rel=0.01)  # a router more
    assert sizes["sparse"]["flops"] == pytest.approx(sizes["dense"]["flops"], rel=0.02)
    assert sizes["wide"]["flops"] > 1.8 * sizes["sparse"]["flops"]
    assert sizes["dense"]["active"] == sizes["dense"]["parameters"]


@pytest.mark.parametrize(("case", "steps"), [("sparse", 20), ("one, bias", 11)])
def test_a_run_is_measured(town, case, steps):
    entry = experiment.run(case, 0, town, steps, every=4)
    assert [step for step, _ in entry["loss"]] == [*range(4, steps, 4), steps]
    assert entry["loss"][0][1] > entry["loss"][-1][1] > 2
    low, high = entry["excess"]["all"][1:]
    assert low < entry["excess"]["all"][0] < high
    ((step, loads),) = entry["load"]
    assert step == 10  # none at step 20, which ends in an evaluation
    assert torch.tensor(loads).sum(-1).allclose(torch.ones(4), atol=5e-3)
    assert set(entry["routes"]) == {document.kind for document in town.judged}
    for shares in entry["routes"].values():
        assert torch.tensor(shares).shape == (4, 8) and torch.tensor(shares).sum(-1).allclose(torch.ones(4), atol=5e-3)


def test_a_dense_model_has_no_routes(town):
    assert experiment.routes(Transformer(preset("nano", context_length=256)), town) == {}


def test_a_run_takes_the_place_of_its_older_self(town, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "FILE", tmp_path / "moe.json")
    for case, seed, loss in (("wide", 1, 3), ("dense", 0, 2), ("wide", 1, 1)):
        experiment.add({"case": case, "seed": seed, "loss": loss}, town)
    assert [(r["case"], r["loss"]) for r in experiment.load()["runs"]] == [("dense", 2), ("wide", 1)]
    assert 0.3 < experiment.load()["floor"] < 0.7


def test_the_record_has_what_its_lesson_reads():
    record = experiment.load()
    assert experiment.FILE.stat().st_size < 150_000
    assert record["command"] == "python -m course.records.moe"
    assert record["balance"] == {case: list(setting[1]) for case, setting in experiment.CASES.items()}
    assert record["sizes"] == {case: experiment.sizes(case) for case in experiment.CASES}
    runs = {(run["case"], run["seed"]): run for run in record["runs"]}
    assert runs.keys() <= {(case, seed) for case in experiment.CASES for seed in experiment.CASES[case][-1]}
    assert {"one, alone", "one, loss", "one, bias", "sparse, alone", "sparse, bias"} <= {case for case, _ in runs}
    for (case, _), run in runs.items():
        steps = experiment.CASES[case][3]
        assert [step for step, _ in run["loss"]] == list(range(50, steps + 1, 50))
        assert all(loss > record["floor"] for _, loss in run["loss"])
        assert set(run["excess"]) == {"all", *KINDS} and all(low < x < high for x, low, high in run["excess"].values())
        sparse = "moe" in experiment.CASES[case][0]
        assert [step for step, _ in run["load"]] == [s for s in range(10, steps, 10) if s % 50] * sparse
        assert set(run["routes"]) == (set(KINDS) if sparse else set())

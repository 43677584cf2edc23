"""The second record of lesson 08: its readers are exact, its runs measure what they say, the file has what is read."""

import math

import pytest

from course.records import knowledge as experiment
from llmkit.world import World


@pytest.fixture(scope="module")
def towns():
    return experiment.Towns(n_documents=300, n_judged=40)


def test_the_cases_have_the_sizes_that_are_compared():
    sizes = {case: experiment.sizes(case) for case in experiment.CASES}
    assert sizes["2 of 32"]["parameters"] == pytest.approx(sizes["wide"]["parameters"], rel=0.02)  # a router more
    for case in ("2 of 8", "2 of 32"):
        assert sizes[case]["flops"] == pytest.approx(sizes["dense"]["flops"], rel=0.04)  # the router again
    assert sizes["wide"]["flops"] > 2.2 * sizes["2 of 32"]["flops"]
    assert sizes["dense"]["parameters"] < sizes["2 of 8"]["parameters"] < sizes["2 of 32"]["parameters"] / 2


def test_the_floor_is_that_of_a_reader_who_knows_all_towns_and_is_told_none(towns):
    worlds = [World(seed) for seed in range(experiment.N_TOWNS)]
    for biography in towns.judged:
        likelihood = sum(math.exp(-world.nats(biography.text, ("bio",))) for world in worlds) / len(worlds)
        assert biography.nats == pytest.approx(-math.log(likelihood), abs=1e-9)
    told_by = [{w for w, world in enumerate(worlds) if math.isfinite(world.nats(b.text))} for b in towns.judged]
    assert set.union(*told_by) == set(range(5)) and all(told_by)


def test_runs_are_measured(towns):
    record = experiment.make(seeds=(0,), towns=towns, say=lambda *news: None, steps=5, every=2)
    assert [run["case"] for run in record["runs"]] == list(experiment.CASES)
    for run in record["runs"]:
        assert [step for step, _ in run["loss"]] == [2, 4, 5]
        excess, low, high = run["excess"]
        assert low < excess < high and excess == pytest.approx(run["loss"][-1][1] - record["floor"], abs=2e-4)
        assert experiment.stored(record, run["case"]) == [1 - excess / (record["stranger"] - record["floor"])]
    first, last = (record["runs"][k]["excess"][0] for k in (0, -1))
    assert experiment.gaps(record, "dense", "wide") == [first - last]


def test_the_record_has_what_its_lesson_reads():
    record = experiment.load()
    assert record["command"] == "python -m course.records.knowledge"
    assert record["sizes"] == {case: experiment.sizes(case) for case in experiment.CASES}
    assert 0.3 < record["floor"] < record["stranger"] < 1.2
    runs = {(run["case"], run["seed"]): run for run in record["runs"]}
    assert list(runs) == [(case, seed) for case in experiment.CASES for seed in experiment.SEEDS]
    for run in runs.values():
        assert [step for step, _ in run["loss"]] == list(range(200, experiment.STEPS + 1, 200))
        assert run["excess"][1] < run["excess"][0] < run["excess"][2]
        assert run["excess"][0] == pytest.approx(run["loss"][-1][1] - record["floor"], abs=2e-4)

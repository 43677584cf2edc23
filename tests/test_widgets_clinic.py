"""The run clinic: every run stands beside the healthy one, and a guess is answered by what is really so."""

import pytest

from llmkit.widgets.clinic import NO_GUESS, REVEAL, Case, Shot, run_clinic
from tests.widget_checks import HOSTILE, assert_bundle, assert_harmless, assert_readable, texts

STEPS = [1, *range(3, 31, 3)]


def case(fault: str, last: float, sample: str = "One kite") -> Case:
    losses = [7.0 + (last - 7.0) * k / (len(STEPS) - 1) for k in range(len(STEPS))]
    shots = [Shot(step, {"story": last + 1 / step}, {"layer 0": 0.1 * step}, f"{sample} {step}") for step in (15, 30)]
    return Case(fault, f"Seen by {last}.", STEPS, losses, [1.0 / step for step in STEPS], shots)


def clinic():
    return run_clinic(case("healthy", 1.0), [case("too <b>high", 3.0), case("copies", 0.02, HOSTILE)], floor=0.5)


def shown(frame, fault_is_high: bool):
    """The frame at the run that has this fault."""
    for name in ("run A", "run B"):
        frame.controls["run"].value = name
        if ("3.00" in texts(frame.svg)) == fault_is_high:
            return frame
    raise AssertionError("no such run")


def test_a_run_is_nameless_until_it_is_guessed():
    frame = shown(clinic(), fault_is_high=True)
    assert "too <b>high" not in texts(frame.svg) and "too <b>high" not in frame.said
    frame.controls["guess"].value = "copies"
    assert frame.said.endswith("no. Of “copies” one would see this: Seen by 0.02.")
    frame.controls["guess"].value = "too <b>high"
    assert frame.said.endswith("step 30: yes, too <b>high. Seen by 3.0.")
    frame.controls["guess"].value = REVEAL
    assert "it is: too <b>high" in frame.said


def test_another_run_asks_anew():
    frame = clinic()
    frame.controls["guess"].value = REVEAL
    frame.controls["run"].value = "run B"
    assert frame.controls["guess"].value == NO_GUESS and "choose a guess" in frame.said


def test_everything_moves_with_the_step_and_stands_beside_the_healthy_run():
    frame = shown(clinic(), fault_is_high=True)
    assert {"healthy run: 1.00 at step 30", "3.03", "3.0"} <= set(texts(frame.svg))
    assert_readable(frame.svg)
    frame.controls["step"].value = 15
    assert {"3.07", "1.5"} <= set(texts(frame.svg)) and "One\u00a0kite\u00a015" in texts(frame.svg)


def test_a_run_below_the_floor_and_a_hostile_sample_are_drawn():
    frame = shown(clinic(), fault_is_high=False)
    assert "0.02" in texts(frame.svg)
    assert_harmless(frame)
    assert_bundle(frame)


def test_runs_that_cannot_be_compared_are_refused():
    other = case("short", 3.0)
    with pytest.raises(ValueError, match=r"'short' has not the snapshots of the healthy run, at steps \[15, 30\]"):
        run_clinic(case("healthy", 1.0), [other._replace(shots=other.shots[:1])], floor=0.5)

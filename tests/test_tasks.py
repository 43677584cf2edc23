"""Verifiers accept the right answer however it goes on, and reject plausible wrong ones."""

import pytest

from llmkit import tasks
from llmkit.world import TASKS, World


@pytest.fixture(scope="module")
def world():
    return World(0)


@pytest.mark.parametrize("name", TASKS)
def test_every_answer_is_verified(world, name):
    task = tasks.load(world, name, "train", 25)
    assert len(task.questions) == 25
    assert all(task.verify(question, question.answer) == 1.0 for question in task.questions)
    others = [other.answer for other in task.questions[1:]]
    wrong = [other for other in others if other != task.questions[0].answer]
    if name != "code":
        assert all(task.verify(task.questions[0], answer) == 0.0 for answer in wrong)
    assert task.verify(task.questions[0], "") == 0.0


def test_a_longer_word_or_number_is_not_the_answer(world):
    question = next(q for q in world.questions("facts", "train", 600) if q.answer == " a grey cat")
    verify = tasks.begins_with_answer
    assert verify(question, " a grey cat. She lives") and verify(question, " a grey cat")
    assert (
        not verify(question, " a grey cattle")
        and not verify(question, "a grey cat")
        and not verify(question, " a grey ")
    )


def test_sums_are_read_from_their_last_number(world):
    question = world.questions("sums_worked", "test", 1)[0]
    total = question.answer.split()[-1]
    verify = tasks.last_number_is_answer
    assert (
        verify(question, f" so it is {total}.\n1 + 1 = 2")
        and not verify(question, f" {total}0")
        and not verify(question, " ?")
    )


def test_code_is_run_not_compared(world):
    question = next(q for q in world.questions("code", "train", 3000) if q.prompt.startswith("def double(x)"))
    verify = tasks.passes_all_cases
    assert verify(question, "\n    return x + x") and verify(question, "\n    y = 2 * x\n    return y")
    assert (
        not verify(question, "    return x * 3")
        and not verify(question, "    return open('x')")
        and not verify(question, "((")
    )


def test_an_unknown_task_is_named(world):
    with pytest.raises(ValueError, match="there are facts, tracking"):
        tasks.load(world, "chess")

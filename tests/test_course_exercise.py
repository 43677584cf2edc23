"""Every exercise file, the future ones too: solutions pass, and every wrong answer is rejected by name."""

import builtins
import inspect
import math
from types import SimpleNamespace

import pytest
import torch

from course import exercise, syllabus
from course.answer import Answer, Mishap, Unwritten, Wrong
from course.exercise import Exercise, check, hint, judge, lesson_file, lessons_with, solution

LESSONS = lessons_with("exercises")
EXERCISES = [pytest.param(e, id=f"{lesson}.{e.name}")
             for lesson in LESSONS for e in lesson_file("exercises", lesson).EXERCISES]
NONSENSE = [0, -1.5, math.nan, True, "text", b"", [], [None], {}, {1: "a"}, torch.zeros(2, 2), (torch.zeros(1), None),
            object(), torch]


def rejection(e, fn):
    """The exception with which a check rejects a function, or None."""
    try:
        e.check(Answer(fn, e.name, e.parameters))
    except Wrong as wrong:
        return wrong


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    exercise._hints_shown.clear()


# ---- the files ----


@pytest.mark.parametrize("e", EXERCISES)
def test_the_solution_passes(e):
    assert judge(e, e.solution).message == ""


def encode_by_rank(ids, merges):
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    while len(ids) > 1:
        i = min(range(len(ids) - 1), key=lambda i: ranks.get((ids[i], ids[i + 1]), len(ranks)))
        if (ids[i], ids[i + 1]) not in ranks:
            break
        ids = ids[:i] + [merges[ids[i], ids[i + 1]]] + ids[i + 2 :]
    return tuple(ids)


@pytest.mark.parametrize(("name", "fn"), [
    ("start.text_nats", lambda probs: -torch.tensor(probs).log().sum()),
    ("start.bits_per_byte", lambda nats, text: math.log2(math.e) * nats / len(bytes(text, "utf8"))),
    ("start.response_loss", lambda nats, loss_mask: (nats * loss_mask).sum() / loss_mask.sum()),
    ("start.preference", lambda chosen, rejected: torch.tensor(chosen - rejected).sigmoid().item()),
    ("tokenization.to_bytes", lambda text: [*bytearray(text, "utf-8")]),
    ("tokenization.count_pairs", lambda words: {p: sum(n * list(zip(w, w[1:], strict=False)).count(p)
                                                       for w, n in words.items())
                                                for w in words for p in zip(w, w[1:], strict=False)}),
    ("tokenization.merge_pair", lambda ids, pair, new_id: [ord(c) for c in "".join(map(chr, ids)).replace(
        "".join(map(chr, pair)), chr(new_id))]),
    ("tokenization.encode", encode_by_rank),
    ("attention.mask", lambda t, s: torch.tensor([[key <= s - t + query for key in range(s)] for query in range(t)])),
    ("attention.weights", lambda q, k, mask: ((q / q.shape[1] ** 0.5) @ k.T + mask.log()).softmax(1)),
    ("attention.induction", lambda att, ids: torch.tensor([sum(att[t, s + 1] for s in range(t) if ids[s] == ids[t])
                                                           for t in range(len(ids)) if ids[t] in ids[:t]]).mean()),
    ("transformer.rms_norm", lambda x, weight, eps: torch.nn.functional.rms_norm(x, x.shape[-1:], weight, eps)),
    ("transformer.block", lambda x, norm1, attn, norm2, mlp: (h := x + attn(norm1(x))) + mlp(norm2(h))),
    ("pretraining.cut", lambda stream, T: [part.unfold(0, T, T) for part in (stream[:-1], stream[1:])]),
    ("pretraining.document_mask", lambda ids: torch.tensor([[s <= t and ids[s] == ids[t] for s in range(len(ids))]
                                                            for t in range(len(ids))])),
    ("pretraining.learning_rate", lambda step, peak, warmup, steps: peak * min(
        (step + 1) / warmup, math.cos(math.pi / 2 * max(0, step - warmup) / (steps - warmup)) ** 2)),
    ("pretraining.excess", lambda model, floor, n: float((torch.tensor(model) - torch.tensor(floor)).sum()
                                                         / (torch.tensor(n) + 1).sum())),
    ("token_to_logits.lens", lambda x, weight, eps, table: (x * weight) @ table.T * (x @ x / len(x) + eps) ** -0.5),
    ("token_to_logits.shares", lambda parts, weight, eps, row: parts.mul(weight).mv(row)
                                                                / (parts.sum(0).square().mean() + eps).sqrt()),
    ("positions.turn", lambda x, m, theta: torch.cat([(z := torch.complex(*x.chunk(2)) * torch.exp(
        1j * m * theta ** (-torch.arange(0, len(x), 2) / len(x)))).real, z.imag])),
    ("positions.ntk_theta", lambda theta, s, D: math.exp(math.log(theta) + math.log(s) * D / (D - 2))),
    ("mixture_of_experts.expert_weights", lambda logits, k: logits.masked_fill(
        logits < logits.topk(k).values[:, -1:], -math.inf).softmax(-1)),
    ("mixture_of_experts.balance_loss", lambda probs, experts: probs.shape[1] * torch.dot(
        torch.nn.functional.one_hot(experts, probs.shape[1]).sum(1).float().mean(0), probs.mean(0))),
    ("mixture_of_experts.find_room", lambda experts, n_expert, room: torch.nn.functional.one_hot(
        experts.flatten(), n_expert).cumsum(0).gather(1, experts.view(-1, 1)).view_as(experts) <= room),
])
def test_other_right_answers_pass_too(name, fn):
    assert judge(exercise.find(name), fn).message == ""


@pytest.mark.parametrize("e", EXERCISES)
def test_every_wrong_answer_is_rejected_by_name(e):
    assert len(e.wrong) >= 3
    told = {}
    for fn, words in e.wrong:
        wrong = rejection(e, fn)
        assert type(wrong) is Wrong, f"{words}: {wrong!r} could be said of any exercise"
        assert words in str(wrong)
        told.setdefault(str(wrong), []).append(words)
    for message, words in told.items():
        assert len(set(words)) == 1, f"two mistakes, {words}, share a message: {message}"


@pytest.mark.parametrize("e", EXERCISES)
def test_whatever_a_function_returns_the_check_answers(e):
    for value in NONSENSE:
        verdict = judge(e, lambda *args, value=value: value)
        assert not verdict.passed and len(verdict.message) > 10 and "cannot be looked at" not in verdict.message
    assert "ZeroDivisionError" in judge(e, lambda *args: 1 / 0).message
    assert judge(e, lambda *args: ...) == exercise.Verdict(False, begun=False)


@pytest.mark.parametrize("e", EXERCISES)
def test_a_page_is_complete(e):
    assert e.difficulty in (1, 2, 3) and len(e.hints) == 3 and len(set(e.hints)) == 3
    assert all(f"`{name}`" in e.statement for name in e.parameters)
    assert e.name not in dir(builtins)  # a learner defines it in a notebook
    assert "\n" not in "".join(e.hints)


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_has_three_exercises_of_three_difficulties(lesson):
    exercises = lesson_file("exercises", lesson).EXERCISES
    assert {e.difficulty for e in exercises} == {1, 2, 3}
    assert len({e.name for e in exercises}) == len(exercises) >= 3
    assert lesson in {row.name.partition("_")[2] for row in syllabus.lessons()}


class Mute(Exception):
    def __str__(self):
        raise RuntimeError


def test_an_exception_that_cannot_say_what_it_is_gets_a_verdict():
    def raises(x):
        raise Mute

    assert judge(DOUBLE, raises).message == "what it gives cannot be looked at: RuntimeError."


# ---- what the tests above would see ----


def double(x):
    return 2 * x


def check_double(answer):
    answer(3).should_be(6, (9, "That is the square."))


DOUBLE = Exercise(double, "Return twice `x`.", 1, check_double, ("Twice.", "Times two.", "2 * x"),
                  ((lambda x: x * x, "square"),))


@pytest.mark.parametrize(("fn", "kind"), [
    (double, type(None)), (lambda x: x * x, Wrong), (lambda x: x, Mishap), (lambda x: print(x), Mishap),
    (lambda x: ..., Unwritten),
])
def test_a_rejection_by_name_is_told_from_a_general_one(fn, kind):
    assert type(rejection(DOUBLE, fn)) is kind


# ---- what a lesson calls ----


@pytest.fixture
def lesson(monkeypatch):
    monkeypatch.setattr(exercise, "lesson_file", lambda folder, name: SimpleNamespace(EXERCISES=(DOUBLE,)))


@pytest.mark.parametrize(("fn", "start"), [
    (double, "✓ start.double: right.\n"),
    (lambda x: x * x, "✗ start.double: That is the square.\n"),
    (lambda x: x, "✗ start.double: double(3) should be 6, but yours gives 3.\n"),
    (lambda x: ..., "○ start.double: not written yet. Put your code in place of the dots; hint('start.double')"),
    (6, "✗ start.double: check needs your function, but it was given the number 6. Name the function"),
    ("2 * x", "✗ start.double: check needs your function, but it was given text."),
    (None, "★☆☆  double(x)\n\nReturn twice `x`.\n\nWhen it is written: check('start.double', double)\n"),
    (lambda x: print(x) or 2 * x, "Your function printed:\n  3\n\n✓ start.double: right.\n"),
])
def test_check_says_what_it_found_and_never_raises(lesson, capsys, fn, start):
    assert check("start.double", fn) is None
    assert capsys.readouterr().out.startswith(start)


def test_a_long_message_is_wrapped(lesson, capsys):
    check("start.double", lambda x: [x] * 100)
    assert all(len(line) <= exercise.WIDTH for line in capsys.readouterr().out.splitlines())


def test_each_hint_brings_one_more_up_to_three(lesson, capsys):
    for n in (1, 2, 3, 3):
        hint("start.double")
        out = capsys.readouterr().out
        assert [f"Hint {i} of 3" in out for i in (1, 2, 3)] == [i <= n for i in (1, 2, 3)]
        assert ("solution('start.double')" in out) == (n == 3)


def test_the_solution_is_shown_as_its_source(lesson, capsys):
    solution("start.double")
    assert capsys.readouterr().out == inspect.getsource(double)


def test_what_was_done_is_recorded(lesson):
    check("start.double", lambda x: ...)
    hint("start.double")
    check("start.double", lambda x: x)
    check("start.double", double)
    check("start.double", lambda x: x)
    solution("start.double")
    assert exercise.progress.load()["exercises"] == {
        "start.double": {"attempts": 3, "solved": True, "hints": 1, "solution_seen": True}}


@pytest.mark.parametrize(("name", "words"), [
    ("start.text_nat", "Did you mean start.text_nats"), ("start", "Lesson start has: text_nats"),
    ("stat.text_nats", "There are for: .*start"), ("__init__.x", "no exercises for '__init__'"),
    ("../clean.x", "no exercises for"),
])
def test_a_wrong_name_is_answered_with_those_that_exist(name, words):
    with pytest.raises(LookupError, match=words):
        check(name)


# ---- in a notebook ----

CELLS = ["""
from course import answer
from course.lesson import check, hint, quiz
answer.SECONDS = 2
kept = [1, 2, 3]
check("start.text_nats")
""", """
def text_nats(probs):
    total = 0
    while True:
        total += 1

check("start.text_nats", text_nats)
""", """
def text_nats(probs):
    return kept[7]

check("start.text_nats", text_nats)
""", """
def text_nats(probs):
    import math
    print("so far", len(kept))
    return -sum(map(math.log, probs))

check("start.text_nats", text_nats)
"""]


def test_a_notebook_goes_on_after_an_endless_loop(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    stated, endless, failing, right = ("".join(o.text for o in cell.outputs) for cell in notebook.cells)
    assert stated.startswith("★☆☆  text_nats(probs)")
    assert "endless loop?\nIt was at line " in endless and ("while True:" in endless or "total += 1" in endless)
    assert "IndexError: list index out of range.\nIt was at line 2: return kept[7]" in failing
    assert "  so far 3\n" in right and right.endswith("✓ start.text_nats: right.\n")

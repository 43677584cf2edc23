"""The truth is true: probabilities of the town sum to one, agree with each other and with samples, and leak nothing."""

import hashlib
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from llmkit import checkpoint
from llmkit.tokenizer import Tokenizer
from llmkit.world import KINDS, MIX, TASKS, ImpossiblePrefix, World
from llmkit.world.exact import WordFilter, text_logprob
from llmkit.world.functions import bodies, programs, value
from llmkit.world.grammar import Grammar, Memory, enumerate_documents
from llmkit.world.pattern import RULES, apply, is_held_out
from llmkit.world.sums import NUMBERS, firsts, seconds, worked_pair, worked_terms


@pytest.fixture(scope="module")
def world():
    return World(0)


@pytest.fixture(scope="module")
def tokenizer(world):
    return Tokenizer.train([d.text for d in world.documents(3000, seed=1)], vocab_size=600)


@pytest.fixture(scope="module")
def documents(world):
    """What several tests read."""
    return world.documents(4000, seed=12)


class Miniature(Grammar):
    """Small enough to enumerate whole: shared beginnings, several derivations, a loop, draws without repeats."""

    def start(self):
        return Memory(n=0), ((self.say, "start"),)

    def again(self, memory):
        if memory["n"] == 2:
            return [(1.0, (), memory)]
        return [(0.25, (), memory), (0.75, (" ", (self.say, "line"), (self.again,)), memory.add(n=memory["n"] + 1))]


class MiniatureTown:
    words = {"pet": ["cat", "cats", "cat a"], "number": ["1", "11"]}
    first_names = ["A", "An", "Ann"]
    pronouns = {name: ["she", "her", "her", "She", "Her"] for name in first_names}


@pytest.fixture(scope="module")
def miniature():
    phrases = {
        "start": ["{line}{again}", "[3] {A}: {number}{number2}{again}", "A\n\n  {A}"],
        "line": [
            "{A} and {B} saw {a:pet}",
            "{A} and {B} saw a {pet}",
            "{B} is {A}'s {pet}",
            "  {number}\n\n{number2}.",
        ],
    }
    return Miniature("mini", phrases, MiniatureTown())


@pytest.fixture(scope="module")
def miniature_table(miniature):
    table = Counter()
    for p, text in enumerate_documents(miniature.start()):
        table[text] += p
    return table


# -- the miniature world, enumerated whole ----------------------------------------
def test_the_miniature_world_sums_to_one(miniature_table):
    assert len(miniature_table) > 1000
    assert math.fsum(miniature_table.values()) == pytest.approx(1, abs=1e-12)


def test_text_logprob_sums_all_derivations(miniature, miniature_table):
    start = [(1.0, miniature.start())]
    ambiguous = 0
    for text, p in list(miniature_table.items())[::7]:
        assert text_logprob(start, text) == pytest.approx(math.log(p), abs=1e-10)
        ambiguous += " saw a cat" in text
    assert ambiguous  # "a" is said by the phrase or by the word's article: two derivations


def test_next_token_probs_equal_enumeration(miniature, miniature_table):
    """Against brute force over all documents' encodings, after every prefix of some documents, with two tokenizers."""
    rng = random.Random(0)
    for vocab_size in (265, 275):  # bytes only, and with merges
        tokenizer = Tokenizer.train(list(miniature_table), vocab_size)
        word_filter = WordFilter([(1.0, miniature.start())], tokenizer)
        encoded = [((*tokenizer.encode(text), tokenizer.eos_id), p) for text, p in miniature_table.items()]
        for ids, _ in rng.sample(encoded, 12):
            for n in range(len(ids)):
                expected = np.zeros(tokenizer.vocab_size)
                for other, p in encoded:
                    if other[:n] == ids[:n]:
                        expected[other[n]] += p
                probs = word_filter.next_token_probs(ids[:n])
                np.testing.assert_allclose(probs, expected / expected.sum(), atol=1e-12)


# -- the town ----------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_chain_rule(world, tokenizer, kind, split):
    """Along a document, its end included, the exact costs of the tokens add up to the exact cost of the text."""
    for document in world.documents(6 if kind == "passage" else 12, seed=5, kinds=(kind,), split=split):  # long ones
        ids = [*tokenizer.encode(document.text), tokenizer.eos_id]
        assert world.token_nats(ids, tokenizer, (kind,), split).sum() == pytest.approx(document.nats, abs=1e-9)


def test_chain_rule_of_the_mixture(world, tokenizer):
    documents = world.documents(20, seed=6)
    ids = [i for d in documents for i in (*tokenizer.encode(d.text), tokenizer.eos_id)]
    assert world.token_nats(ids, tokenizer).sum() == pytest.approx(sum(d.nats for d in documents), abs=1e-8)


def test_next_token_probs_agree_with_token_nats(world, tokenizer):
    document = world.documents(1, seed=8, kinds=("passage",))[0]
    ids = [*tokenizer.encode(document.text), tokenizer.eos_id]
    nats = world.token_nats(ids, tokenizer)
    for t in range(0, len(ids), 5):
        probs = world.next_token_probs([tokenizer.eos_id, *ids[:t]], tokenizer)
        assert probs.dtype == np.float64 and probs.sum() == pytest.approx(1, abs=1e-12)
        assert -math.log(probs[ids[t]]) == pytest.approx(nats[t], abs=1e-10)


@pytest.mark.parametrize("kinds, split", [
    *(((kind,), "train") for kind in KINDS), *(((kind,), "test") for kind in ("hops", "sums", "pattern", "function")),
    (None, "train"), (None, "test"),
])  # fmt: skip
def test_samples_follow_the_truth(world, tokenizer, kinds, split):
    """Chi-squared: among documents that share a beginning, the next tokens come as often as the truth says."""
    n_bins = 0
    by_prefix: dict[tuple, Counter] = {}
    for document in world.documents(4000, 9, kinds, split):
        ids = [*tokenizer.encode(document.text), tokenizer.eos_id]
        for n in range(min(len(ids), 12)):
            by_prefix.setdefault(tuple(ids[:n]), Counter())[ids[n]] += 1
    largest = sorted((p for p in by_prefix if len(by_prefix[p]) > 1), key=lambda p: -by_prefix[p].total())[:6]
    for prefix in largest:
        counts = by_prefix[prefix]
        probs = world.next_token_probs(prefix, tokenizer, kinds, split)
        assert all(probs[i] > 0 for i in counts)
        common = [i for i in np.argsort(-probs) if probs[i] * counts.total() >= 5]
        seen = np.array([*(counts[i] for i in common), counts.total() - sum(counts[i] for i in common)])
        expected = np.array([*probs[common], max(1 - probs[common].sum(), 0)]) * counts.total()
        keep = expected > 1e-9
        assert seen[~keep].sum() == 0
        if keep.sum() > 1:
            n_bins += keep.sum()
            assert chisquare(seen[keep], expected[keep], sum_check=False).pvalue > 1e-4, tokenizer.decode(prefix)
    assert n_bins > 2


@pytest.mark.parametrize("kind", KINDS)
def test_mean_cost_is_the_entropy(world, kind):
    """Two halves of a sample agree on the floor within their standard errors: nats is a well-behaved mean."""
    nats = np.array([d.nats for d in world.documents(100, seed=10, kinds=(kind,))])
    assert np.isfinite(nats).all() and (nats > 0).all()
    a, b = nats[::2], nats[1::2]
    assert abs(a.mean() - b.mean()) <= 4.5 * math.hypot(a.std() / len(a) ** 0.5, b.std() / len(b) ** 0.5) + 1e-9


def test_impossible_texts(world, tokenizer):
    assert world.nats("Once upon a time, in a distant land.") == math.inf
    assert world.nats("") == math.inf
    with pytest.raises(ImpossiblePrefix, match="no document of the town begins"):
        world.next_token_probs(tokenizer.encode("Once upon"), tokenizer)
    with pytest.raises(ImpossiblePrefix):  # a token sequence that the tokenizer itself would never write
        world.next_token_probs([ord("O"), ord("n"), ord("e"), *tokenizer.encode(" quiet day,")], tokenizer)
    nats = world.token_nats([*tokenizer.encode("One quiet dragon"), tokenizer.eos_id], tokenizer)
    assert np.isinf(nats).sum() == 1 and np.isnan(nats).any() and np.isfinite(nats[0])


def test_mixture_is_the_weighted_sum_of_its_kinds(world):
    text = world.documents(1, seed=11, kinds=("sums",))[0].text
    share = MIX["sums"] / sum(MIX.values())
    assert world.nats(text) == pytest.approx(world.nats(text, kinds=("sums",)) - math.log(share), abs=1e-9)


def test_stranger_pays_for_the_facts(world):
    stranger = World(0, stranger=True)
    document = next(d for d in world.documents(50, seed=3, kinds=("bio",)) if "friend" not in d.text)
    assert stranger.nats(document.text, kinds=("bio",)) > document.nats + math.log(20)
    story = world.documents(1, seed=3, kinds=("story",))[0]
    assert stranger.nats(story.text, kinds=("story",)) == story.nats


def test_the_town_is_frozen(world):
    """Cards and records name this fingerprint. A change of rules that changes its texts must raise VERSION, too."""
    assert world.fingerprint == "813c15c8aec71da6"
    for split, digest in (("train", "426e97fbbbf2170a"), ("test", "db6875528291107e")):
        text = "\0".join(document.text for document in world.documents(1000, 1, split=split))
        assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest, split


def test_same_seed_same_world_and_other_seed_other_facts(world):
    assert [d.text for d in World(0).documents(20, seed=4)] == [d.text for d in world.documents(20, seed=4)]
    assert World(0).fingerprint == world.fingerprint != World(1).fingerprint
    assert World(1).town.by_name.keys() != world.town.by_name.keys()


def test_another_town_is_one_file(tmp_path, world):
    source = (Path(__file__).parents[1] / "llmkit/world/hollowmere.toml").read_text(encoding="utf-8")
    (tmp_path / "town.toml").write_text(source.replace("Ada", "Zsófia").replace("Mill Lane", "Szép utca"), "utf-8")
    other = World(0, town=tmp_path / "town.toml")
    tokenizer = Tokenizer.train([d.text for d in other.documents(500, seed=1)], 400)
    document = next(d for d in other.documents(500, seed=2) if "Zsófia" in d.text)
    ids = [*tokenizer.encode(document.text), tokenizer.eos_id]
    assert other.token_nats(ids, tokenizer).sum() == pytest.approx(document.nats, abs=1e-9)
    (tmp_path / "bad.toml").write_text(source.replace("{place2}", "{palce}"), "utf-8")
    with pytest.raises(ValueError, match=r"\[story\].*\{palce\}"):
        World(0, town=tmp_path / "bad.toml")


def test_a_town_with_windows_line_ends_is_the_same_town(tmp_path, world):
    source = (Path(__file__).parents[1] / "llmkit/world/hollowmere.toml").read_bytes()
    (tmp_path / "town.toml").write_bytes(source.replace(b"\n", b"\r\n"))
    assert World(0, town=tmp_path / "town.toml").fingerprint == world.fingerprint


# -- splits ----------------------------------------
def test_residents_of_the_three_sets_never_meet(world, documents):
    groups = world.town.residents
    names = {group: {r.name for r in residents} for group, residents in groups.items()}
    assert sum(map(len, names.values())) == len(set().union(*names.values())) == 220
    hidden = names["sft"] | names["test"]
    text = "\n".join(d.text for d in documents)
    assert not [name for name in hidden if name in text]
    assert sum(name in text for name in names["known"]) > 95
    for group, residents in groups.items():
        assert {r.fact("friend") for r in residents} <= names[group]


def test_held_out_sums_patterns_and_functions_cannot_be_written_in_training(world):
    for kind in ("sums", "pattern", "function", "hops"):
        for document in world.documents(12, seed=13, kinds=(kind,), split="test"):
            assert world.nats(document.text, kinds=(kind,), split="test") < math.inf
            if kind != "pattern":  # a few lines may fit a rule of training as well
                assert world.nats(document.text) == math.inf, document.text
    assert all(not set(seconds(a, NUMBERS, "train")) & set(seconds(a, NUMBERS, "test")) for a in NUMBERS)
    assert firsts(NUMBERS, "train") == NUMBERS
    train, test = ({p for group in programs(split).values() for p in group} for split in ("train", "test"))
    assert test and not train & test
    assert 4 <= sum(map(is_held_out, RULES)) <= len(RULES) // 2


# -- what the texts say is true ----------------------------------------
@given(st.integers(10, 99), st.integers(10, 99), st.lists(st.integers(1, 9), min_size=2, max_size=5))
@settings(max_examples=50, deadline=None)
def test_worked_sums_are_right(a, b, terms):
    for steps, total in ((worked_pair(a, b), a + b), (worked_terms(tuple(terms)), sum(terms))):
        equations = [step.split(" = ") for step in steps.split(", ")]
        assert all(sum(map(int, left.split(" + "))) == int(right) for left, right in equations)
        assert int(equations[-1][1]) == total


def test_every_body_computes_what_its_docstring_says():
    from llmkit.sandbox import run_function

    for split in ("train", "test"):
        for program in [p for group in programs(split).values() for p in group][::3]:
            for body in bodies(program):
                for x in (-3, 0, 5, 12):
                    assert run_function(f"def f(x):\n{body}", x) == value(program, x)


def test_patterns_follow_their_rule():
    order, words = ("fruit", "animal", "colour"), ("plum", "dog", "red")
    assert apply(("third", "first"), order, words) == "red plum"
    assert apply(("animal", "colour", "fruit"), order, words) == "dog red plum"


def test_texts_are_well_formed(documents):
    for document in documents:
        text = document.text
        assert "{" not in text and "  " not in text.replace("    ", "") and text == text.strip()
        for vowel in "aeiou":
            assert f" a {vowel}" not in text, text
        if document.kind in ("story", "bio", "hops"):
            assert text[-1] in ".!" and (text[0].isupper() or text[0] == '"'), text


def test_documents_fit_the_context(documents):
    _, tokenizer = checkpoint.load("draft")
    lengths = Counter()
    for document in documents:
        lengths[document.kind] = max(lengths[document.kind], len(tokenizer.encode(document.text)) + 1)
    assert max(lengths[kind] for kind in KINDS if kind != "passage") <= 256 and lengths["passage"] <= 512


def test_stories_are_most_of_the_text(documents):
    size = Counter()
    for document in documents:
        size[document.kind] += len(document.text)
    assert 0.4 <= size["story"] / size.total() <= 0.6 and len(size) == len(KINDS)


@pytest.mark.parametrize("task", TASKS)
def test_questions_are_the_same_every_time_and_answers_are_certain(world, task):
    """A training question's answer is the only continuation with the prompt that the town could write."""
    questions = world.questions(task, "train", 20)
    assert questions == world.questions(task, "train", 20) and len({q.prompt for q in questions}) > 15
    kind = {
        "facts": "bio",
        "tracking": "story",
        "belief": "story",
        "reading": "passage",
        "hops": "hops",
        "hops_worked": "hops",
        "sums": "sums",
        "sums_worked": "sums",
        "patterns": "pattern",
        "code": "function",
    }[task]
    tokenizer = Tokenizer.train(["no merges"], 265)
    for question in questions[:5]:
        if question.choices:
            assert question.answer in question.choices
        prompt = tokenizer.encode(question.prompt)
        answer = tokenizer.encode(question.answer if task != "code" else question.answer[:4])
        nats = world.token_nats([*prompt, *answer], tokenizer, kinds=(kind,))[len(prompt) :]
        assert (np.exp(-nats) > (0.999 if task not in ("code", "patterns") else 0.4)).all()


def test_wrong_names_say_what_there_is(world):
    with pytest.raises(ValueError, match="there are facts"):
        world.questions("riddles")
    with pytest.raises(ValueError, match="there are train, test"):
        world.documents(1, seed=0, split="validation")
    with pytest.raises(ValueError, match="no kinds"):
        world.documents(1, seed=0, kinds=("poem",))
    with pytest.raises(ValueError, match="there are train, sft, test"):
        world.questions("facts", "known")

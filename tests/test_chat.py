import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit import chat
from llmkit.tokenizer import SPECIAL_TOKENS, Tokenizer

ASK = {"role": "user", "content": "Where is Ann?"}
SAY = {"role": "assistant", "content": "At home."}
RULE = {"role": "system", "content": "Be brief."}
CONTENT = st.lists(st.sampled_from(SPECIAL_TOKENS) | st.text(st.characters(exclude_categories=["Cs"]))).map("".join)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["Where is Ann? At home. Be brief."] * 2, 280)


def test_the_template_by_hand(tokenizer):
    special, encode = tokenizer.special_tokens, tokenizer.encode
    ids, loss_mask = chat.render([RULE, ASK, SAY], tokenizer)
    header = [special["<|endoftext|>"], special["<|system|>"], *encode("Be brief."), special["<|end|>"]]
    header += [special["<|user|>"], *encode("Where is Ann?"), special["<|end|>"], special["<|assistant|>"]]
    answer = [*encode("At home."), special["<|end|>"]]
    assert ids == header + answer
    assert loss_mask == [False] * len(header) + [True] * len(answer)
    assert chat.prompt([RULE, ASK], tokenizer) == header
    assert tokenizer.decode(ids) == (
        "<|endoftext|><|system|>Be brief.<|end|><|user|>Where is Ann?<|end|><|assistant|>At home.<|end|>"
    )


def test_a_tokenizer_without_roles_is_refused():
    with pytest.raises(ValueError, match=r"no <\|system\|>.*another chat format"):
        chat.prompt([ASK], Tokenizer([], ["<|endoftext|>"]))


def test_every_answer_of_a_long_conversation_is_learned(tokenizer):
    ids, loss_mask = chat.render([ASK, SAY, ASK, SAY], tokenizer)
    learned = [id for id, learn in zip(ids, loss_mask, strict=True) if learn]
    assert tokenizer.decode(learned) == "At home.<|end|>" * 2


def test_the_prompt_is_how_the_rendered_conversation_begins(tokenizer):
    start = chat.prompt([ASK, SAY, ASK], tokenizer)
    ids, loss_mask = chat.render([ASK, SAY, ASK, SAY], tokenizer)
    assert ids[: len(start)] == start and all(loss_mask[len(start) :])


@given(st.lists(CONTENT, min_size=2, max_size=5), st.booleans())
def test_no_content_can_forge_a_special_token(tokenizer, contents, led):
    roles = ["system"] * led + ["user", "assistant"] * 3
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    if messages[-1]["role"] == "user":
        messages.append(SAY)
    ids, _ = chat.render(messages, tokenizer)
    special, turn, turns = set(tokenizer.special_tokens.values()), [], []
    for id in ids[1:]:
        turn.append(id)
        if id == tokenizer.special_tokens["<|end|>"]:
            turns.append(turn)
            turn = []
    assert turn == [] and len(turns) == len(messages)
    for (header, *said, _), message in zip(turns, messages, strict=True):
        assert header == tokenizer.special_tokens[f"<|{message['role']}|>"]
        assert special.isdisjoint(said) and tokenizer.decode(said) == message["content"]


@pytest.mark.parametrize(
    ("messages", "error", "sentence"),
    [
        ([SAY], ValueError, "message 0 has the role 'assistant', but here comes the turn of 'user'"),
        ([ASK, ASK], ValueError, "message 1 has the role 'user', but here comes the turn of 'assistant'"),
        ([ASK, RULE, SAY], ValueError, "message 1 has the role 'system'"),
        ([RULE, RULE, ASK, SAY], ValueError, "message 1 has the role 'system'"),
        ([{"role": "tool", "content": "x"}, SAY], ValueError, "message 0 has the role 'tool'"),
        ([ASK], ValueError, "last message must be the assistant's .*chat.prompt"),
        ([], ValueError, "last message must be the assistant's"),
        ([{"role": "user"}, SAY], ValueError, "message 0 must be"),
        (["Hello", SAY], ValueError, "message 0 must be"),
        ([ASK, SAY | {"content": None}], TypeError, "content of message 1 must be a str, not NoneType"),
        ("Hello", TypeError, "messages must be a list such as"),
        (ASK, TypeError, "messages must be a list such as"),
        ([ASK, SAY | {"content": "\ud800"}], ValueError, "lone surrogate"),
    ],
)
def test_bad_messages_are_explained(tokenizer, messages, error, sentence):
    with pytest.raises(error, match=sentence):
        chat.render(messages, tokenizer)


def test_a_prompt_ends_with_the_user(tokenizer):
    with pytest.raises(ValueError, match="last message must be the user's .*chat.render"):
        chat.prompt([ASK, SAY], tokenizer)

"""The Jinja form of the chat template, run by transformers, against `chat.render` and `chat.prompt`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from llmkit import chat
from llmkit.tokenizer import SPECIAL_TOKENS, Tokenizer

CONTENT = st.lists(st.sampled_from([*SPECIAL_TOKENS, "{{ 1 }}", "\n"]) | st.text("ab é <&{}%#'\"")).map("".join)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["nothing to learn, nothing to forge"], 270)


def by_transformers(messages, add_generation_prompt, template=chat.JINJA_TEMPLATE, **options):
    options["add_generation_prompt"] = add_generation_prompt
    return render_jinja_template([messages], None, None, template, **options)


@given(st.lists(CONTENT, min_size=3, max_size=6), st.booleans())
def test_the_text_is_the_same(tokenizer, contents, led):
    roles = ["system"] * led + ["user", "assistant"] * 3
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    if messages[-1]["role"] == "user":
        ids = chat.prompt(messages, tokenizer)
        rendered, _ = by_transformers(messages, add_generation_prompt=True)
    else:
        ids, _ = chat.render(messages, tokenizer)
        rendered, _ = by_transformers(messages, add_generation_prompt=False)
    assert rendered == [tokenizer.decode(ids)]


def test_the_loss_is_where_transformers_sees_the_assistant_speak(tokenizer):
    # The same template with the assistant's words between the tags by which transformers finds them.
    marked = chat.JINJA_TEMPLATE.replace(
        "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}",
        "{{ '<|' + message['role'] + '|>' }}{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
        "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}",
    )
    messages = [
        {"role": role, "content": content}
        for role, content in [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
    ]
    (text,), (spans,) = by_transformers(messages, False, marked, return_assistant_tokens_mask=True)
    assert text == by_transformers(messages, False)[0][0]
    ids, loss_mask = chat.render(messages, tokenizer)
    learned = [tokenizer.decode([id]) for id, learn in zip(ids, loss_mask, strict=True) if learn]
    assert "".join(learned) == "".join(text[start:end] for start, end in spans) == "two<|end|>four<|end|>"

"""Chat: messages to ids, and which of them a model learns to say.

    <|endoftext|><|system|>text<|end|><|user|>text<|end|><|assistant|>text<|end|>…

The system message is optional and comes first; then user and assistant take turns, the user first. Every message is
encoded as plain text between special ids, so no message can forge the end of its turn or another's role. The loss is on
what the assistant says and on the <|end|> with which it stops, and nowhere else.
"""

from collections.abc import Sequence

from llmkit.tokenizer import Tokenizer

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}

# The same text for other programs: transformers' apply_chat_template, and what reads its files.
JINJA_TEMPLATE = (
    "{{ '<|endoftext|>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def render(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Ids and loss mask, of equal length, of a conversation that ends with the assistant."""
    _check(messages, last="assistant")
    return _render(messages, tokenizer)


def prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Ids of a conversation that ends with the user, and the header after which the assistant speaks."""
    _check(messages, last="user")
    return _render(messages, tokenizer)[0] + [tokenizer.special_tokens["<|assistant|>"]]


def _render(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    special = tokenizer.special_tokens
    if missing := [name for name in ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>") if name not in special]:
        raise ValueError(f"this tokenizer has no {missing[0]}: its model was trained for another chat format, or none")
    ids, loss_mask = [tokenizer.eos_id], [False]
    for message in messages:
        said = [*tokenizer.encode(message["content"]), special["<|end|>"]]
        ids += [special[f"<|{message['role']}|>"], *said]
        loss_mask += [False] + [message["role"] == "assistant"] * len(said)
    return ids, loss_mask


def _check(messages: Sequence[Message], last: str) -> None:
    """Raises on anything but (system)? (user assistant)* up to a message of the role `last`."""
    if isinstance(messages, (str, dict)):
        raise TypeError('messages must be a list such as [{"role": "user", "content": "Hello"}]')
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise ValueError(f'message {i} must be {{"role": …, "content": …}}, not {message!r:.60}')
        if not isinstance(message["content"], str):
            raise TypeError(f"the content of message {i} must be a str, not {type(message['content']).__name__}")
    roles = [message["role"] for message in messages]
    led = roles[:1] == ["system"]
    expected = ["system"] * led + [("user", "assistant")[i % 2] for i in range(len(roles) - led)]
    for i, (role, turn) in enumerate(zip(roles, expected, strict=True)):
        if role != turn:
            raise ValueError(f"message {i} has the role {role!r}, but here comes the turn of {turn!r}")
    if roles[-1:] != [last]:
        other = {"assistant": "chat.prompt", "user": "chat.render"}[last]
        raise ValueError(f"the last message must be the {last}'s (for one that ends otherwise there is {other})")

"""Chat box: talk to any checkpoint in the chat template, and put another beside it to answer the same messages.

A message is wrapped as `llmkit.chat` wraps it; what the model writes up to its <|end|> is its turn. Each model sees its
own answers, so two conversations may part. A checkpoint that never saw messages answers all the same, and it shows:
its turn seldom ends. Chat has no truth beside it: the town's generator writes documents.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import ipywidgets
import torch

from llmkit import chat
from llmkit.generate import stream
from llmkit.model import Transformer
from llmkit.plots import MODEL
from llmkit.tokenizer import Tokenizer
from llmkit.widgets import svg
from llmkit.widgets.continuation import EVERY_S, NOBODY, Run, choices, chosen, together
from llmkit.widgets.frame import Frame, Picture
from llmkit.widgets.training import wrap

WIDTH, GAP, LINE, PAD, N_LINES = 800, 24, 18, 6, 16


class Turn(NamedTuple):
    """What an assistant has said so far; `ended`: it closed its turn itself."""

    said: str
    n_tokens: int
    ended: bool = False


def chat_box(
    checkpoints: Mapping[str, tuple[Transformer, Tokenizer]],
    message: str = "Hello!",
    temperature: float = 0.0,
    max_new_tokens: int = 60,
) -> Frame:
    """Type a message, press Send. `checkpoints`: by name, what `checkpoint.load` returns; two can be asked at once."""
    wide = {"description_width": "initial"}
    controls = choices(checkpoints) | {
        "message": ipywidgets.Text(message, description="message", layout={"width": "700px"}, continuous_update=False),
        "temperature": ipywidgets.FloatSlider(
            temperature, min=0, max=2, step=0.1, description="temperature", style=wide
        ),
    }
    send = ipywidgets.Button(description="Send", button_style="primary")
    stop = ipywidgets.Button(description="Stop", disabled=True)
    anew = ipywidgets.Button(description="New conversation")
    run, talks = Run(), {name: [] for name in checkpoints}  # each checkpoint's messages

    def show(checkpoint, beside=NOBODY, **_):
        names = chosen(checkpoint, beside)
        return draw({name: talks[name] for name in names}, "Press Send.")

    frame = Frame("Chat box", show, controls, [send, stop, anew])

    def steps() -> Iterator[None]:
        """One token of each model a step; ends with both turns in the conversations."""
        state = frame.state
        names = chosen(state["checkpoint"], state.get("beside", NOBODY))
        begun = {name: talks[name] for name in names}
        asked = {name: [*talk, {"role": "user", "content": state["message"]}] for name, talk in begun.items()}
        run.stopped, send.disabled, stop.disabled = False, True, False
        try:
            drawn = time.monotonic()
            runs = [answer(*checkpoints[name], asked[name], state["temperature"], max_new_tokens) for name in asked]
            turns = []
            for turns in together(runs):
                if run.stopped:
                    break
                if time.monotonic() - drawn > EVERY_S:
                    frame.show(draw(_with(asked, turns), "…"))
                    drawn = time.monotonic()
                yield
            if all(talks[name] is talk for name, talk in begun.items()):  # else a new conversation has been begun
                talks.update(_with(asked, turns))
                frame.show(draw({name: talks[name] for name in asked}, verdict(dict(zip(asked, turns, strict=True)))))
        except Exception as error:  # such as a conversation that outgrows the context
            frame.explain(error)
        finally:
            send.disabled, stop.disabled = False, True

    def forget(_):
        run.stop()
        talks.update({name: [] for name in checkpoints})
        frame.redraw("A new conversation.")

    send.on_click(lambda _: run.start(steps()))
    stop.on_click(lambda _: run.stop())
    anew.on_click(forget)
    return frame


def answer(
    model: Transformer, tokenizer: Tokenizer, messages: Sequence[chat.Message], temperature: float, max_new_tokens: int
) -> Iterator[Turn]:
    """The assistant's turn after each new token, the first without any. Raises ValueError where `generate` does."""
    idx, ids = torch.tensor([chat.prompt(messages, tokenizer)]), []
    ends = (tokenizer.special_tokens["<|end|>"], tokenizer.eos_id)
    yield Turn("", 0)
    for token in stream(model, idx, max_new_tokens, eos_id=ends[0], temperature=temperature):
        if int(token) in ends:
            yield Turn(tokenizer.decode(ids), len(ids), ended=True)
            return
        ids.append(int(token))
        yield Turn(tokenizer.decode(ids), len(ids))


def _with(asked: Mapping[str, list], turns: Sequence[Turn]) -> dict[str, list]:
    """The conversations with the turns at their ends."""
    said = zip(asked.items(), turns, strict=True)
    return {name: [*talk, {"role": "assistant", "content": turn.said}] for (name, talk), turn in said}


def verdict(turns: Mapping[str, Turn]) -> str:
    """How long each turn is, and whether the model ended it."""
    return " ".join(
        f"{name}: {turn.n_tokens} tokens, {'and the end of its turn' if turn.ended else 'its turn not ended'}."
        for name, turn in turns.items()
    )


def draw(talks: Mapping[str, Sequence[chat.Message]], said: str) -> Picture:
    """The ends of one conversation, or of two side by side."""
    width = WIDTH if len(talks) == 1 else (WIDTH - GAP) / 2
    parts, heights = [], []
    for k, (name, messages) in enumerate(talks.items()):
        bubbles, height = column(name, messages, width)
        parts.append(svg.group(bubbles, transform=f"translate({1 + k * (width + GAP):g} 1)"))
        heights.append(height)
    last = " ".join(f"{name}: {messages[-1]['content']}" for name, messages in talks.items() if messages)
    return Picture(svg.drawing(WIDTH + 2, max(heights) + 2, parts, f"Conversation. {last}"), said)


def column(name: str, messages: Sequence[chat.Message], width: float) -> tuple[list[str], float]:
    """(parts, height) of a conversation: the user's messages framed at the right, the model's tinted at the left."""
    n_cells = int((0.8 * width - 2 * PAD) / (svg.CELL * 13))
    texts = [(message["role"] == "user", wrap(message["content"] or "…", n_cells)[:N_LINES]) for message in messages]
    while sum(len(lines) + 1 for _, lines in texts) > N_LINES and len(texts) > 2:
        texts = texts[2:]
    parts, y = [svg.text(0, 14, svg.shorten(name, width), font_weight="bold")], 24.0
    if len(texts) < len(messages):
        words = f"({len(messages) - len(texts)} messages before)"
        parts.append(svg.text(width, 14, words, text_anchor="end", font_size=11))
    for is_user, lines in texts:
        size = max(svg.mono_width(line) for line in lines) + 2 * PAD
        x = width - size if is_user else 0.0
        style = {"stroke": "currentColor", "stroke_opacity": 0.5} if is_user else {"fill_opacity": 0.25}
        parts.append(svg.rect(x, y, size, LINE * len(lines) + PAD, "none" if is_user else MODEL, rx=6, **style))
        rows = [svg.text(x + PAD, y + LINE * (k + 1) - 3, line) for k, line in enumerate(lines)]
        parts.append(svg.group(rows, font_family=svg.MONO))
        y += LINE * len(lines) + PAD + 8
    return parts, max(y, 24.0 + LINE * 5)

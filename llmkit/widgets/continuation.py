"""Continuation box: any checkpoint goes on with a text, and the town says whether it could have written it.

A token is drawn, shown, and the next one drawn; the page is given time in between, so the run can be stopped. At the
end the exact cost of the text stands beside the model's, and the first token that the town cannot write is framed.
"""

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import ipywidgets
import numpy as np
import torch

from llmkit.generate import stream
from llmkit.logprobs import token_logprobs
from llmkit.model import Transformer
from llmkit.plots import MODEL, TRUTH
from llmkit.tokenizer import Tokenizer
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture
from llmkit.world import World

WIDTH, LINE, MIN_LINES = 800, 22, 5
EVERY_S = 0.05  # between two drawings of a run


class Page(NamedTuple):
    """What is written: ids after the leading eos, the first `n_prompt` of them the learner's."""

    ids: tuple[int, ...]
    n_prompt: int
    ended: bool = False  # whether the model has closed the document
    impossible: int | None = None  # place of the first id that the town cannot write
    verdict: str = ""


def continuation_box(
    checkpoints: Mapping[str, tuple[Transformer, Tokenizer]],
    world: World | None = None,
    prompt: str = "One stormy evening,",
    temperature: float = 1.0,
    max_new_tokens: int = 80,
) -> Frame:
    """Write a beginning, press Continue. `checkpoints`: by name, what `checkpoint.load` returns."""
    wide, late = {"description_width": "initial"}, {"continuous_update": False}
    controls = {
        "checkpoint": ipywidgets.Dropdown(options=list(checkpoints), description="checkpoint", style=wide),
        "prompt": ipywidgets.Text(prompt, description="prompt", layout={"width": "700px"}, **late),
        "temperature": ipywidgets.FloatSlider(
            temperature, min=0, max=2, step=0.1, description="temperature", style=wide
        ),
        "max_new_tokens": ipywidgets.IntSlider(max_new_tokens, min=1, max=200, description="tokens", style=wide),
    }
    go = ipywidgets.Button(description="Continue", button_style="primary")
    stop = ipywidgets.Button(description="Stop", disabled=True)
    run = Run()

    def show_prompt(checkpoint, prompt, temperature, max_new_tokens):
        run.stopped = True
        tokenizer = checkpoints[checkpoint][1]
        ids = tuple(tokenizer.encode(prompt))
        return draw(Page(ids, len(ids), verdict="Press Continue."), tokenizer)

    frame = Frame("Continuation box", show_prompt, controls, [go, stop])

    def steps() -> Iterator[None]:
        """One token a step; ends with the verdict."""
        state = frame.state
        model, tokenizer = checkpoints[state["checkpoint"]]
        run.stopped, go.disabled, stop.disabled = False, True, False
        try:
            drawn = time.monotonic()
            for page in pages(model, tokenizer, state["prompt"], state["temperature"], state["max_new_tokens"]):
                if run.stopped:
                    break
                if time.monotonic() - drawn > EVERY_S:
                    frame.show(draw(page, tokenizer))
                    drawn = time.monotonic()
                yield
            if frame.state["prompt"] == state["prompt"]:
                frame.show(draw(judge(page, model, tokenizer, world), tokenizer))
        except ValueError as error:  # a prompt that outgrows the context
            frame.say(str(error))
        finally:
            go.disabled, stop.disabled = False, True

    go.on_click(lambda _: run.start(steps()))
    stop.on_click(lambda _: run.stop())
    return frame


class Run:
    """Steps of long work, on the kernel's event loop where there is one, so that clicks are heard between them."""

    def __init__(self):
        self.stopped, self.task = False, None

    def start(self, steps: Iterator[None]) -> None:
        try:
            self.task = asyncio.get_running_loop().create_task(self._pump(steps))
        except RuntimeError:  # no loop runs: a script or a test
            for _ in steps:
                pass

    async def _pump(self, steps: Iterator[None]) -> None:
        for _ in steps:
            await asyncio.sleep(0.001)

    def stop(self) -> None:
        self.stopped = True


def pages(model, tokenizer, prompt: str, temperature: float, max_new_tokens: int, generator=None) -> Iterator[Page]:
    """The page after each new token, the first without any. Raises ValueError where `generate` does."""
    ids = tuple(tokenizer.encode(prompt))
    n_prompt, idx = len(ids), torch.tensor([[tokenizer.eos_id, *ids]])
    yield Page(ids, n_prompt)
    for token in stream(
        model, idx, max_new_tokens, eos_id=tokenizer.eos_id, temperature=temperature, generator=generator
    ):
        token = int(token)
        if token == tokenizer.eos_id:
            yield Page(ids, n_prompt, ended=True)
            return
        ids = (*ids, token)
        yield Page(ids, n_prompt)


@torch.no_grad()
def judge(page: Page, model: Transformer, tokenizer: Tokenizer, world: World | None) -> Page:
    """The page with what its text costs the model and the truth, in nats."""
    ids = [*page.ids, tokenizer.eos_id] if page.ended else list(page.ids)
    if not ids:
        return page._replace(verdict="Nothing is written.")
    idx = torch.tensor([[tokenizer.eos_id, *ids]], device=model.tok_emb.weight.device)
    cost = -float(token_logprobs(model(idx[:, :-1]), idx[:, 1:]).double().sum())
    words = f"{len(page.ids) - page.n_prompt} tokens{', and the end' if page.ended else ''}. "
    words += f"The text costs the model {cost:.1f} nats"
    if world is None:
        return page._replace(verdict=f"{words}.")
    nats = world.token_nats(ids, tokenizer)
    if np.isfinite(nats).all():
        whole = "a document of the town" if page.ended else "the beginning of a document of the town"
        return page._replace(verdict=f"{words}, and the truth {nats.sum():.1f}: it is {whole}.")
    first = int(np.argmin(np.isfinite(nats)))
    token = svg.visible_bytes(tokenizer.token_bytes(ids[first]))
    what = "end there" if first == len(page.ids) else f"go on with “{token}”"
    who = "your prompt" if first < page.n_prompt else "the model"
    words += f". The town cannot write it: where {who} wrote what is framed, no document can {what}."
    return page._replace(impossible=first, verdict=words)


def draw(page: Page, tokenizer: Tokenizer) -> Picture:
    """Tokens in lines: the prompt plain, the model's on blue, the first impossible one framed."""
    x, y, tints, frames, labels = 0.0, 0.0, [], [], []
    for place, i in enumerate(page.ids):
        for label in re.split("(?<=⏎)", svg.visible_bytes(tokenizer.token_bytes(i)).replace("␣", "\u00a0")):
            width = svg.mono_width(label)
            if x and x + width > WIDTH:
                x, y = 0.0, y + LINE
            if place >= page.n_prompt:
                tints.append(svg.rect(x, y, width - 1, LINE - 3, MODEL))
            if place == page.impossible:
                frames.append(svg.rect(x, y + 1, width - 1, LINE - 5, "none"))
            labels.append(svg.text(x, y + 14, label))
            x, y = (0.0, y + LINE) if label.endswith("⏎") else (x + width, y)
    if page.ended:
        frames += [svg.rect(x + 4, y + 1, 34, LINE - 5, "none")] if page.impossible == len(page.ids) else []
        labels.append(svg.text(x + 8, y + 14, "end", font_style="italic"))
    parts = [
        svg.group(tints, fill_opacity=0.3),
        svg.group(frames, stroke=TRUTH, stroke_width=2.5),
        svg.group(labels, font_family=svg.MONO),
    ]
    text = tokenizer.decode(page.ids)
    height = max(y + LINE, LINE * MIN_LINES)
    picture = svg.drawing(WIDTH + 2, height, [svg.group(parts, transform="translate(1 1)")], f"Continued text: {text}")
    return Picture(picture, page.verdict or f"{len(page.ids) - page.n_prompt} tokens …")

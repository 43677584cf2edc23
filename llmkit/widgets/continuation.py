"""Continuation box: any checkpoint goes on with a text, and the town says whether it could have written it.

A token is drawn, shown, and the next one drawn; the page is given time in between, so the run can be stopped. At the
end the exact cost of the text stands beside the model's, and the first token that the town cannot write is framed.
Two checkpoints can write side by side. One continuation is there from the beginning, always the same.
"""

import asyncio
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
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

WIDTH, LINE, MIN_LINES, GAP = 800, 22, 4, 24
COSTS, LABEL, BAR = 60, 48, 400  # below the text: height, and the widths of a name and of the longest bar
NOBODY = "nobody"
EVERY_S = 0.05  # between two drawings of a run


class Page(NamedTuple):
    """What is written: ids after the leading eos, the first `n_prompt` of them the learner's."""

    ids: tuple[int, ...]
    n_prompt: int
    ended: bool = False  # whether the model has closed the document
    impossible: int | None = None  # place of the first id that the town cannot write
    nats: Mapping[str, float] = {}  # what the text costs the model and the truth, once it is judged
    verdict: str = ""


def continuation_box(
    checkpoints: Mapping[str, tuple[Transformer, Tokenizer]],
    world: World | None = None,
    prompt: str = "One stormy evening,",
    temperature: float = 1.0,
    max_new_tokens: int = 80,
) -> Frame:
    """Write a beginning, press Continue. `checkpoints`: by name, what `checkpoint.load` returns; two can be asked."""
    wide, late = {"description_width": "initial"}, {"continuous_update": False}
    controls = choices(checkpoints) | {
        "prompt": ipywidgets.Text(prompt, description="prompt", layout={"width": "700px"}, **late),
        "temperature": ipywidgets.FloatSlider(
            temperature, min=0, max=2, step=0.1, description="temperature", style=wide
        ),
        "max_new_tokens": ipywidgets.IntSlider(max_new_tokens, min=1, max=200, description="tokens", style=wide),
    }
    go = ipywidgets.Button(description="Continue", button_style="primary")
    stop = ipywidgets.Button(description="Stop", disabled=True)
    run = Run()

    def show_prompt(prompt, checkpoint, beside=NOBODY, **_):
        run.stopped = True
        names = chosen(checkpoint, beside)
        begun = [tuple(checkpoints[name][1].encode(prompt)) for name in names]
        sheet = [Page(ids, len(ids), verdict="Press Continue." * (k == 0)) for k, ids in enumerate(begun)]
        return draw(sheet, names, [checkpoints[name][1] for name in names])

    frame = Frame("Continuation box", show_prompt, controls, [go, stop])

    def steps(seed: int | None = None) -> Iterator[None]:
        """One token of each model a step; ends with the verdicts."""
        state = frame.state
        names = chosen(state["checkpoint"], state.get("beside", NOBODY))
        models, tokenizers = zip(*(checkpoints[name] for name in names), strict=True)
        run.stopped, go.disabled, stop.disabled = False, True, False
        try:
            drawn = time.monotonic()
            runs = [pages(m, t, state["prompt"], state["temperature"], state["max_new_tokens"], seed)
                    for m, t in zip(models, tokenizers, strict=True)]  # fmt: skip
            for sheet in together(runs):
                if run.stopped:
                    break
                if time.monotonic() - drawn > EVERY_S:
                    frame.show(draw(sheet, names, tokenizers))
                    drawn = time.monotonic()
                yield
            if frame.state == state:
                judged = [judge(page, m, t, world) for page, m, t in zip(sheet, models, tokenizers, strict=True)]
                frame.show(draw(judged, names, tokenizers))
        except Exception as error:  # such as a prompt that outgrows the context
            frame.explain(error)
        finally:
            go.disabled, stop.disabled = False, True

    go.on_click(lambda _: run.start(steps()))
    stop.on_click(lambda _: run.stop())
    for _ in steps(seed=0):  # at once: where no kernel runs, this is the picture that is left
        pass
    return frame


def choices(checkpoints: Mapping[str, object]) -> dict[str, ipywidgets.Dropdown]:
    """Controls that choose a checkpoint and, where there are several, another to stand beside it."""
    style, names = {"description_width": "initial"}, list(checkpoints)
    controls = {"checkpoint": ipywidgets.Dropdown(options=names, description="checkpoint", style=style)}
    if len(names) > 1:
        controls["beside"] = ipywidgets.Dropdown(options=[NOBODY, *names], description="beside", style=style)
    return controls


def chosen(checkpoint: str, beside: str) -> list[str]:
    """The names that the two controls stand on."""
    return [checkpoint] if beside == NOBODY else [checkpoint, beside]


def together(runs: Sequence[Iterator]) -> Iterator[list]:
    """The latest item of each iterator, all moved on by one a step, until the last has ended."""
    going, latest = list(runs), [None] * len(runs)
    while True:
        moved = False
        for k, steps in enumerate(going):
            item = next(steps, None)
            if item is not None:
                latest[k], moved = item, True
        if not moved:
            return
        yield list(latest)


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


def pages(
    model: Transformer, tokenizer: Tokenizer, prompt: str, temperature: float, max_new_tokens: int, seed=None
) -> Iterator[Page]:
    """The page after each new token, the first without any. Raises ValueError where `generate` does."""
    generator = None if seed is None else torch.Generator(model.tok_emb.weight.device).manual_seed(seed)
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
        return page._replace(nats={"model": cost}, verdict=f"{words}.")
    nats = world.token_nats(ids, tokenizer)
    page = page._replace(nats={"model": cost, "truth": float(nats.sum())})
    if np.isfinite(nats).all():
        whole = "a document of the town" if page.ended else "the beginning of a document of the town"
        return page._replace(verdict=f"{words}, and the truth {nats.sum():.1f}: it is {whole}.")
    first = int(np.argmin(np.isfinite(nats)))
    token = svg.visible_bytes(tokenizer.token_bytes(ids[first]))
    what = "end there" if first == len(page.ids) else f"go on with “{token}”"
    who = "your prompt" if first < page.n_prompt else "the model"
    words += f". The town cannot write it: where {who} wrote what is framed, no document can {what}."
    return page._replace(impossible=first, verdict=words)


def draw(sheet: Sequence[Page], names: Sequence[str], tokenizers: Sequence[Tokenizer]) -> Picture:
    """One page, or two side by side under their names: the prompt plain, the model's tokens on blue."""
    width = WIDTH if len(sheet) == 1 else (WIDTH - GAP) / 2
    top = 0 if len(sheet) == 1 else LINE
    written = [write(page, tokenizer, width) for page, tokenizer in zip(sheet, tokenizers, strict=True)]
    foot = top + max(LINE * MIN_LINES, *(depth for _, depth in written), 0)
    parts, said = [], []
    for k, (page, name, (tokens, _)) in enumerate(zip(sheet, names, written, strict=True)):
        head = [svg.text(0, 14, svg.shorten(name, width), font_weight="bold")] if top else []
        body = svg.group(tokens, transform=f"translate(0 {top})")
        below = svg.group(costs(page, width), transform=f"translate(0 {svg.number(foot)})")
        parts.append(svg.group([*head, body, below], transform=f"translate({1 + k * (width + GAP):g} 1)"))
        verdict = page.verdict or f"{len(page.ids) - page.n_prompt} tokens …"
        said.append(f"{name}: {verdict}" if top and page.ids[page.n_prompt :] else verdict if not k else "")
    texts = [tokenizer.decode(page.ids) for page, tokenizer in zip(sheet, tokenizers, strict=True)]
    label = "Continued text: " + " Beside it: ".join(texts)
    return Picture(svg.drawing(WIDTH + 2, foot + COSTS, parts, label), " ".join(said).strip())


def write(page: Page, tokenizer: Tokenizer, width: float) -> tuple[list[str], float]:
    """(parts, height) of a page's tokens in lines; the first that the town cannot write is framed."""
    x, y, tints, frames, labels = 0.0, 0.0, [], [], []
    for place, i in enumerate(page.ids):
        for label in re.split("(?<=⏎)", svg.visible_bytes(tokenizer.token_bytes(i)).replace("␣", "\u00a0")):
            size = svg.mono_width(label)
            if x and x + size > width:
                x, y = 0.0, y + LINE
            if place >= page.n_prompt:
                tints.append(svg.rect(x, y, size - 1, LINE - 3, MODEL))
            if place == page.impossible:
                frames.append(svg.rect(x, y + 1, size - 1, LINE - 5, "none"))
            labels.append(svg.text(x, y + 14, label))
            x, y = (0.0, y + LINE) if label.endswith("⏎") else (x + size, y)
    if page.ended:
        frames += [svg.rect(x + 4, y + 1, 34, LINE - 5, "none")] if page.impossible == len(page.ids) else []
        labels.append(svg.text(x + 8, y + 14, "end", font_style="italic"))
    parts = [
        svg.group(tints, fill_opacity=0.3),
        svg.group(frames, stroke=TRUTH, stroke_width=2.5),
        svg.group(labels, font_family=svg.MONO),
    ]
    return parts, y + LINE


def costs(page: Page, width: float) -> list[str]:
    """What the text costs the model and the truth, as bars; nothing before it is judged."""
    if not page.nats:
        return []
    most = max(cost for cost in page.nats.values() if math.isfinite(cost)) or 1.0
    parts = [svg.text(0, 14, "what the whole text costs, in nats: less is more probable", font_size=11)]
    for k, (who, cost) in enumerate(page.nats.items()):
        y, size = 20 + 18 * k, (min(BAR, width - 2 * LABEL) * cost / most if math.isfinite(cost) else 0)
        parts.append(svg.text(0, y + 12, who))
        parts.append(svg.rect(LABEL, y, size, 15, {"model": MODEL, "truth": TRUTH}[who]))
        words = f"{cost:.1f}" if size else "∞: the town cannot write it"
        parts.append(svg.text(LABEL + size + 4, y + 12, words))
    return parts

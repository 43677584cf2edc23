"""Report card: every stage of the model's life on every task, with 95 % intervals, from the checkpoints' cards."""

from collections.abc import Mapping

import ipywidgets

from llmkit.plots import MODEL
from llmkit.widgets import svg
from llmkit.widgets.frame import Frame, Picture

STAGES = ("draft", "base", "sft", "dpo", "reasoning")  # rows of the course; those without a card are to come
LABEL, COLUMN, BAR, ROW, TOP = 90, 74, 62, 44, 36


def report_card(cards: Mapping[str, dict]) -> Frame:
    """`cards`: what `checkpoint.card` returns, by stage; their scores are keyed "task/split"."""
    splits = sorted({key.partition("/")[2] for card in cards.values() for key in card.get("scores", {})}, reverse=True)
    if not splits:
        raise ValueError("none of the cards holds scores: they are written by `python -m llmkit.pipeline`")
    choice = ipywidgets.Dropdown(options=splits, description="questions", style={"description_width": "initial"})
    return Frame("Report card", lambda split: draw(cards, split), {"split": choice})


def draw(cards: Mapping[str, dict], split: str) -> Picture:
    """Rows are stages, columns tasks; a cell is a score, and under it its bar with the interval."""
    rows = {stage: _scores(cards.get(stage, {}), split) for stage in dict.fromkeys([*STAGES, *cards])}
    tasks = list(dict.fromkeys(task for scores in rows.values() for task in scores))
    parts = [
        svg.text(LABEL + COLUMN * k, 12 + 14 * half, svg.shorten(word, COLUMN - 4, 11), font_size=11)
        for k, task in enumerate(tasks)
        for half, word in enumerate(task.split("_", 1))
    ]
    for row, (stage, scores) in enumerate(rows.items()):
        y = TOP + ROW * row
        parts.append(svg.line(0, y, LABEL + COLUMN * len(tasks), y, stroke_opacity=0.2))
        name = svg.shorten(stage, LABEL - 8)
        parts.append(svg.text(0, y + 20, name, font_weight="bold" if scores else None))
        if not scores:
            parts.append(svg.text(LABEL, y + 20, "to come", font_style="italic", font_size=12))
        for task, score in scores.items():
            parts += _cell(LABEL + COLUMN * tasks.index(task), y, score)
    width, height = LABEL + COLUMN * len(tasks), TOP + ROW * len(rows)
    said = " ".join(_sentence(stage, scores) for stage, scores in rows.items() if scores)
    return Picture(svg.drawing(width, height, parts, f"Scores of each stage on {split} questions"), said)


def _scores(card: dict, split: str) -> dict[str, dict]:
    named = (key.partition("/") + (score,) for key, score in card.get("scores", {}).items())
    return {task: score for task, _, its_split, score in named if its_split == split}


def _cell(x: float, y: float, score: dict) -> list[str]:
    middle = y + 31
    low, high = (x + BAR * score[end] for end in ("low", "high"))
    return [
        svg.text(x, y + 18, f"{score['value']:.0%}"),
        svg.rect(x, middle - 4, BAR, 8, fill_opacity=0.12),
        svg.rect(x, middle - 4, BAR * score["value"], 8, MODEL),
        svg.line(low, middle, high, middle, stroke_width=1.5),
        svg.line(low, middle - 5, low, middle + 5, stroke_width=1.5),
        svg.line(high, middle - 5, high, middle + 5, stroke_width=1.5),
    ]


def _sentence(stage: str, scores: dict[str, dict]) -> str:
    best = max(scores, key=lambda task: scores[task]["value"])
    worst = min(scores, key=lambda task: scores[task]["value"])
    spans = (f"{task} {scores[task]['low']:.0%} to {scores[task]['high']:.0%}" for task in (best, worst))
    return f"{stage}: best at {next(spans)}, worst at {next(spans)}."

"""Texts other than the town's: real English and real code, for which nobody knows the floor.

Three sources need no network: the language reference and the standard library that every Python carries (read from the
learner's own installation, never copied into the course, so they differ a little between Python versions), and the
learner's own files. One does: data sets streamed from the Hugging Face hub. Each gives `Document`s in an order that is
always the same. What cannot be had raises `TextUnavailable`, one sentence that says what to do.

`split` keeps validation honest: whole documents go to one side, and paragraphs that stand on both are taken out of
validation. The reference needs it: topics such as "compound" contain topics such as "if", 17 % of the text is such
repetition, and of 13 words in a row from ten whole documents a third stood in the others too (with `split` 0.3 %).
"""

import hashlib
import random
import re
import sys
import sysconfig
import tokenize
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

REPEAT_LENGTH = 50  # characters: shorter paragraphs may stand on both sides of a split
SKIPPED = {"test", "tests", "idle_test", "encodings", "idlelib", "lib2to3", "pydoc_data", "turtledemo"}
_PARAGRAPH = re.compile(r".+?(?:\n\s*\n|\Z)", re.DOTALL)  # with the blank lines after it: they join to the text


class TextUnavailable(ValueError):
    """A text cannot be had. A notebook shows the sentence alone."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for this
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True)
class Document:
    text: str
    name: str  # of the document within its source
    source: str


# ---- offline ----


def python_reference() -> list[Document]:
    """The Python language reference by topics, sorted by name: about 0.5 MB of technical English in 80 documents."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise TextUnavailable(
            "this Python came without pydoc_data.topics, its reference manual: use a Python from python.org or conda, "
            "or another text, such as corpora.own_text(folder)"
        ) from None
    source = f"Python {sys.version_info.major}.{sys.version_info.minor} reference"
    return [Document(topics[name], name, source) for name in sorted(topics)]


def standard_library(max_bytes: int = 1_000_000) -> list[Document]:
    """Source code of Python's own modules, whole files, at most `max_bytes` of UTF-8 together.

    In the order of a hash of their names, so that any budget buys a mixture. Without tests, code tables and data.
    """
    root, left, documents = Path(sysconfig.get_path("stdlib")), max_bytes, []
    modules = {name: path for path in root.rglob("*.py") if (name := _module_name(path.relative_to(root)))}
    for name in sorted(modules, key=lambda name: hashlib.sha256(name.encode()).digest()):
        with tokenize.open(modules[name]) as file:  # knows the encoding that a source file declares
            text = file.read()
        size = len(text.encode())
        if text.strip() and size <= left:
            documents.append(Document(text, name, f"Python {sys.version_info.major}.{sys.version_info.minor} library"))
            left -= size
    if not documents:
        why = "is too little for any module" if modules else "buys nothing: this Python came without its source code"
        raise TextUnavailable(f"a budget of {max_bytes:,} bytes {why}; corpora.python_reference() has English text")
    return documents


def _module_name(path: Path) -> str | None:
    """json.decoder for json/decoder.py; None for what is no module or says little: tests, tables, build records."""
    parts = path.with_suffix("").parts
    wanted = all(part.isidentifier() for part in parts) and not SKIPPED & set(parts)
    return ".".join(parts).removesuffix(".__init__") if wanted and not parts[-1].startswith("_sysconfig") else None


def own_text(path: str | Path) -> list[Document]:
    """A text file of yours, or all text files in a folder and below, sorted by path; UTF-8, line ends made "\\n".

    Hidden files are left out. In a folder, what is no text is left out with a warning that says what and why; one file
    that is no text, or a folder without any, is a TextUnavailable.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise TextUnavailable(f"there is nothing at {root}: it was looked for from {Path.cwd()}; give the whole path")
    if root.is_file():
        return [Document(_read(root), root.name, str(path))]
    documents, problems = [], []
    for file in sorted(root.rglob("*"), key=lambda file: file.relative_to(root).parts):
        inside = file.relative_to(root)
        if file.is_file() and not any(part.startswith(".") for part in inside.parts):
            try:
                documents.append(Document(_read(file), inside.as_posix(), str(path)))
            except TextUnavailable as problem:
                problems.append(str(problem))
    if not documents:
        raise TextUnavailable(f"no file in the folder {root} is a text" + "".join(f"; {p}" for p in problems[:3]))
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        warnings.warn(f"left out: {'; '.join(problems[:5])}{more}", stacklevel=2)
    return documents


def _read(file: Path) -> str:
    """The text of one file, or a TextUnavailable that says why it has none."""
    try:
        with file.open("rb") as stream:
            data = stream.read(8192)
            if data.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise TextUnavailable(f"{file} is UTF-16: save it as UTF-8")
            if b"\0" in data:
                raise TextUnavailable(f"{file} is binary: export it as plain text")
            data += stream.read()
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise TextUnavailable(f"{file} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} is {data[error.start]:#x}"
        raise TextUnavailable(f"{file} is no UTF-8 ({byte}): save it as UTF-8") from None
    if not text.strip():
        raise TextUnavailable(f"{file} is empty")
    return text


# ---- online ----


def stream(name: str, n: int, column: str = "text", **options) -> Iterator[Document]:
    """The first `n` rows of a data set of the Hugging Face hub, fetched as they are asked for; empty ones are left out.

    `options` go to `datasets.load_dataset`; without split="…" it is "train". TextUnavailable without the package or
    the network, for an unknown name, split or column, and when the connection breaks.
    """
    try:
        import datasets
        from huggingface_hub.constants import ENDPOINT
    except ImportError:
        raise TextUnavailable(
            "streaming needs the package datasets: install it with `pip install datasets` (in a notebook: %pip) and "
            "restart the kernel; corpora.python_reference() needs neither package nor network"
        ) from None
    local = "data_files" in options or Path(name).exists()
    if not local and not _answers(ENDPOINT):
        raise TextUnavailable(
            f"the Hugging Face hub cannot be reached, so {name!r} cannot be streamed: go online and try again, or use "
            "corpora.python_reference(), which needs no network"
        )
    return _rows(datasets, name, n, column, {"split": "train"} | options)


def _answers(url: str, timeout_s: float = 5.0) -> bool:
    """Whether anybody answers there; datasets itself would try for 23 seconds."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return True  # an error is an answer
    except OSError:
        return False
    return True


def _rows(datasets, name: str, n: int, column: str, options: dict) -> Iterator[Document]:
    try:
        rows = datasets.load_dataset(name, streaming=True, **options)
        for i, row in enumerate(islice(rows, n)):
            if column not in row:
                raise TextUnavailable(f"{name!r} has the columns {', '.join(row)}: choose one of them with column=")
            if (row[column] or "").strip():
                yield Document(row[column], str(i), f"{name}/{options['split']}")
    except TextUnavailable:
        raise
    except Exception as error:  # whatever the hub, the network or the data set did
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TextUnavailable(f"{name!r} cannot be streamed: {reason}") from None


# ---- training and validation ----


def cut(documents: Sequence[Document], max_characters: int = 5_000) -> list[Document]:
    """Documents cut at blank lines into parts of at most `max_characters`; a longer paragraph stays whole.

    Parts of notes are named notes#1, notes#2, … and join to it.
    """
    parts = []
    for document in documents:
        texts = [""]
        for paragraph in _PARAGRAPH.findall(document.text):
            if texts[-1] and len(texts[-1]) + len(paragraph) > max_characters:
                texts.append("")
            texts[-1] += paragraph
        names = [f"{document.name}#{i}" for i in range(1, len(texts) + 1)] if len(texts) > 1 else [document.name]
        parts += [replace(document, text=text, name=part) for text, part in zip(texts, names, strict=True)]
    return parts


def split(
    documents: Sequence[Document], validation: float = 0.1, seed: int = 0
) -> tuple[list[Document], list[Document]]:
    """(train, validation): whole documents, drawn by `seed` until validation has its share of the characters.

    A paragraph of REPEAT_LENGTH characters or more that training holds too, white space aside, is taken out of
    validation, which so can end up with less than its share. Both keep the order of `documents`.
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation is a share between 0 and 1, not {validation}")
    if len(documents) < 2:
        raise ValueError("to split takes two documents or more: corpora.cut(documents) makes parts of a long one")
    left, chosen = validation * sum(len(d.text) for d in documents), set()
    for i in random.Random(f"split {seed}").sample(range(len(documents)), len(documents)):
        if len(documents[i].text) <= left:
            chosen.add(i)
            left -= len(documents[i].text)
    if not chosen:
        raise ValueError(f"no document is as short as {validation:.0%} of all: corpora.cut(documents) makes parts")
    train = [d for i, d in enumerate(documents) if i not in chosen]
    seen = {_key(paragraph) for d in train for paragraph in _PARAGRAPH.findall(d.text)} - {""}
    held = [_without(d, seen) for i, d in enumerate(documents) if i in chosen]
    held = [d for d in held if d.text.strip()]
    if not held:
        raise ValueError("every paragraph of the validation documents stands in the training documents as well")
    return train, held


def _key(paragraph: str) -> str:
    """What makes a paragraph equal to another: its words, if they are long enough."""
    words = " ".join(paragraph.split())
    return words if len(words) >= REPEAT_LENGTH else ""


def _without(document: Document, seen: set[str]) -> Document:
    return replace(document, text="".join(p for p in _PARAGRAPH.findall(document.text) if _key(p) not in seen))

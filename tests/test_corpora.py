import re
import sys
import types
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit import corpora
from llmkit.corpora import Document, TextUnavailable, cut, own_text, python_reference, split, standard_library, stream

LONG = "This paragraph has more than fifty characters, so that it counts as a repetition."


# ---- what Python carries ----


def test_the_reference_is_half_a_megabyte_of_english():
    documents = python_reference()
    assert [d.name for d in documents] == sorted(d.name for d in documents)
    text = {d.name: d.text for d in documents}
    assert 75 <= len(text) <= 120 and 400_000 < sum(map(len, text.values())) < 700_000
    assert '"if" statement' in text["if"] and "conditional" in text["if"]
    assert {d.source for d in documents} == {f"Python {sys.version_info.major}.{sys.version_info.minor} reference"}


def test_a_python_without_its_reference_gets_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(TextUnavailable, match="without pydoc_data.topics.*own_text"):
        python_reference()


def test_the_library_is_code_within_its_budget():
    documents = standard_library(300_000)
    assert 280_000 < sum(len(d.text.encode()) for d in documents) <= 300_000
    assert documents == standard_library(300_000) and len({d.name for d in documents}) == len(documents) > 10
    for document in documents:
        compile(document.text, document.name, "exec")
        assert not set(document.name.split(".")) & corpora.SKIPPED


def test_a_larger_budget_holds_common_modules_under_their_import_names():
    names = {d.name for d in standard_library(100_000_000)}
    assert {"json", "json.decoder", "heapq", "asyncio.events", "__future__"} <= names
    assert not [name for name in names if "sysconfigdata" in name or "site-packages" in name]


def test_no_budget_and_no_source_code_get_a_sentence(monkeypatch, tmp_path):
    with pytest.raises(TextUnavailable, match="10 bytes is too little"):
        standard_library(10)
    monkeypatch.setattr(corpora.sysconfig, "get_path", lambda name: str(tmp_path / "python311.zip"))
    with pytest.raises(TextUnavailable, match="without its source code"):
        standard_library()


# ---- the learner's own ----


def test_one_file(tmp_path):
    (tmp_path / "diary.txt").write_bytes(b"\xef\xbb\xbfDear diary,\r\nna\xc3\xafve.\r")
    assert own_text(tmp_path / "diary.txt") == [
        Document("Dear diary,\nnaïve.\n", "diary.txt", str(tmp_path / "diary.txt"))
    ]


def test_a_folder_in_order_without_what_is_hidden(tmp_path, recwarn):
    for name in ("b.txt", "a/z.md", "a/b/c.py", ".git/config", "a/.secret", "b/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [d.name for d in own_text(str(tmp_path))] == ["a/b/c.py", "a/z.md", "b/x", "b.txt"]
    assert all(d.text == d.name and d.source == str(tmp_path) for d in own_text(str(tmp_path)))
    assert not recwarn.list


BAD = {
    "picture.png": (b"\x89PNG\0\0", "picture.png is binary: export it"),
    "old.txt": (b"na\xefve, in another code", r"old.txt is no UTF-8 \(byte 2 is 0xef\): save it as UTF-8"),
    "windows.txt": ("text".encode("utf-16"), "windows.txt is UTF-16: save it as UTF-8"),
    "nothing.txt": (b" \n", "nothing.txt is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_text_is_an_error(tmp_path, name):
    (tmp_path / name).write_bytes(BAD[name][0])
    with pytest.raises(TextUnavailable, match=BAD[name][1]):
        own_text(tmp_path / name)
    with pytest.raises(TextUnavailable, match=f"no file in the folder .* is a text; .*{BAD[name][1]}"):
        own_text(tmp_path)


def test_in_a_folder_it_is_left_out_and_named(tmp_path):
    for name, (data, _) in BAD.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "good.txt").write_text("good")
    with pytest.warns(UserWarning) as warned:
        assert [d.text for d in own_text(tmp_path)] == ["good"]
    assert len(warned) == 1 and all(re.search(message, str(warned[0].message)) for _, message in BAD.values())
    for i in range(3):
        (tmp_path / f"{i}.bin").write_bytes(b"\0")
    with pytest.warns(UserWarning, match="left out: .*; and 2 more$"):
        own_text(tmp_path)


def test_a_missing_path_and_an_empty_folder(tmp_path):
    with pytest.raises(TextUnavailable, match=re.escape(f"nothing at {tmp_path / 'gone'}: it was looked for from")):
        own_text(tmp_path / "gone")
    with pytest.raises(TextUnavailable, match=re.escape(f"no file in the folder {tmp_path} is a text")):
        own_text(tmp_path)


def test_an_unreadable_file(tmp_path, monkeypatch):
    def refuse(self, mode):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "locked.txt").write_text("locked")
    monkeypatch.setattr(corpora.Path, "open", refuse)
    with pytest.raises(TextUnavailable, match=r"locked.txt cannot be read \(Permission denied\)"):
        own_text(tmp_path / "locked.txt")


def test_a_notebook_shows_the_sentence_alone():
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    shown = []
    shell._showtraceback = lambda etype, evalue, stb: shown.append(shell.InteractiveTB.stb2text(stb))
    shell.run_cell("from llmkit import corpora\ncorpora.own_text('/no/such/place')")
    assert len(shown) == 1 and shown[0].startswith("TextUnavailable: there is nothing at") and "\n" not in shown[0]


# ---- streamed ----


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for datasets and for the hub's server; returns what to answer with."""
    answer = types.SimpleNamespace(rows=[], error=None, calls=[], online=True)

    def load_dataset(name, **options):
        answer.calls.append((name, options))
        yield from answer.rows
        if answer.error:
            raise answer.error

    constants = types.SimpleNamespace(ENDPOINT="https://hub.invalid")
    for name, module in (
        ("datasets", types.SimpleNamespace(load_dataset=load_dataset)),
        ("huggingface_hub", types.SimpleNamespace(constants=constants)),
        ("huggingface_hub.constants", constants),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(corpora, "_answers", lambda url: answer.online and url == constants.ENDPOINT)
    return answer


def test_a_stream_gives_rows_as_they_are_asked_for(hub):
    hub.rows, hub.error = [{"text": "one"}, {"text": " "}, {"text": None}, {"text": "four"}], OSError("asked too far")
    documents = list(stream("some/stories", 4))
    assert documents == [Document("one", "0", "some/stories/train"), Document("four", "3", "some/stories/train")]
    assert hub.calls == [("some/stories", {"split": "train", "streaming": True})]
    next(stream("some/stories", 1, column="text", split="test", revision="x"))
    assert hub.calls[1][1] == {"split": "test", "revision": "x", "streaming": True}


def test_without_the_package_a_sentence(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TextUnavailable, match="`pip install datasets`"):
        stream("some/stories", 1)


def test_offline_a_sentence_at_once(hub):
    hub.online = False
    with pytest.raises(TextUnavailable, match="hub cannot be reached, so 'some/stories'"):
        stream("some/stories", 1)
    hub.rows = [{"text": "from a file"}]
    assert [d.text for d in stream("text", 1, data_files="x.txt")] == ["from a file"]


def test_every_failure_on_the_way_is_a_sentence(hub):
    hub.rows, hub.error = [{"text": "one"}], ConnectionError("the line broke\nand more")
    rows = stream("some/stories", 5)
    assert next(rows).text == "one"
    with pytest.raises(TextUnavailable, match="'some/stories' cannot be streamed: the line broke$"):
        next(rows)
    with pytest.raises(TextUnavailable, match="'some/stories' has the columns text: choose one of them with column="):
        next(stream("some/stories", 1, column="story"))


def test_whether_a_server_answers():
    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    assert corpora._answers(url)  # even a refusal is an answer
    server.shutdown()
    server.server_close()
    assert not corpora._answers(url)


# ---- split ----

PARAGRAPH = st.text("ab ", max_size=8).map(lambda text: text and f"{text} {LONG}") | st.sampled_from(
    ["", "short", LONG]
)
TEXT = st.lists(PARAGRAPH, min_size=1, max_size=5).map("\n\n".join)
DOCUMENTS = st.lists(TEXT, min_size=2, max_size=8).map(
    lambda texts: [Document(text, str(i), "test") for i, text in enumerate(texts)]
)


def keys(documents):
    return {" ".join(p.split()) for d in documents for p in re.split(r"\n\s*\n", d.text)}


@given(DOCUMENTS, st.integers(0, 3))
def test_no_long_paragraph_stands_on_both_sides(documents, seed):
    try:
        train, held = split(documents, 0.5, seed)
    except ValueError as error:
        assert re.match("no document is as short|every paragraph", str(error))
        return
    assert all(len(key) < corpora.REPEAT_LENGTH for key in keys(train) & keys(held))
    names = [d.name for d in train]
    assert not set(names) & {d.name for d in held} and names == sorted(names)
    assert all(d == documents[int(d.name)] for d in train)
    assert all(key in keys([documents[int(d.name)]]) for d in held for key in keys([d]) if len(key) > 60)


def test_the_reference_is_split_without_leaks_in_its_proportions():
    documents = python_reference()
    train, held = split(documents, validation=0.1, seed=0)
    assert split(documents, validation=0.1, seed=0) == (train, held) != split(documents, validation=0.1, seed=1)
    total = sum(len(d.text) for d in documents)
    assert 0.89 < sum(len(d.text) for d in train) / total < 0.92
    assert 0.03 < sum(len(d.text) for d in held) / total <= 0.1

    def runs(documents):
        for words in (d.text.split() for d in documents):
            yield from zip(*(words[i:] for i in range(13)), strict=False)

    seen, whole = set(runs(train)), [d for d in documents if d.name in {h.name for h in held}]
    leaked, was = ([run in seen for run in runs(side)] for side in (held, whole))
    assert sum(leaked) / len(leaked) < 0.01 < 0.2 < sum(was) / len(was)


def test_a_document_without_repetition_stays_as_it_is():
    documents = [Document(f"{i}{LONG}\n\n\n    indented\n \n\nend\n", str(i), "test") for i in range(4)]
    train, held = split(documents, 0.3)
    assert len(held) == 1 and {*train, *held} == set(documents)


def test_what_cannot_be_split_says_why():
    one, two = Document(f"{LONG}\n\n" * 4, "one", "test"), Document(LONG, "two", "test")
    for documents, share, message in [
        ([one], 0.1, "two documents or more: corpora.cut"),
        ([one, one], 0.1, "no document is as short as 10% of all: corpora.cut"),
        ([one, two], 0.5, "every paragraph of the validation"),
        ([one, two], 1.0, "between 0 and 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            split(documents, share)


@given(TEXT, st.integers(1, 300))
def test_parts_join_to_the_document(text, max_characters):
    document = Document(text, "notes", "test")
    parts = cut([document], max_characters)
    assert "".join(part.text for part in parts) == text
    assert all(len(part.text) <= max_characters or len(keys([part]) - {""}) <= 1 for part in parts)
    names = ["notes"] if len(parts) == 1 else [f"notes#{i}" for i in range(1, len(parts) + 1)]
    assert [part.name for part in parts] == names


def test_a_long_file_of_ones_own_can_be_cut_and_split():
    text = "\n\n".join(f"Paragraph {i}. {LONG}" for i in range(100))
    train, held = split(cut([Document(text, "novel.txt", "test")], 500), 0.1)
    assert len(train) > 8 * len(held) and held[0].name.startswith("novel.txt#")

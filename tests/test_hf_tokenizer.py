"""hf_tokenizer: ours there and back, ids derived by hand, and what is no byte-level BPE said in a sentence."""

import json

import pytest

from llmkit.checkpoint import CheckpointError
from llmkit.hf_tokenizer import PRINTED, HFTokenizer, read_tokenizer, tokenizer_files
from llmkit.tokenizer import Tokenizer

TEXT = "the miller's mill stands by the mill pond, the miller said: 中文 é 12"


@pytest.fixture(scope="module")
def ours():
    return Tokenizer.train([TEXT], 290)


def write(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return folder


def test_there_and_back(ours, tmp_path):
    again = read_tokenizer(write(tmp_path, tokenizer_files(ours, 64)))
    assert isinstance(again, Tokenizer) and again == ours and again.encode(TEXT) == ours.encode(TEXT)


def small():
    """GPT-2's order: bytes as they are printed first, then the merges: "a", "b" -> "ab" and " ", "ab" -> " ab"."""
    vocab = {char: i for i, char in enumerate(PRINTED.values())} | {"ab": 256, "Ġab": 257, "<|eos|>": 258}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "added_tokens": [{"id": 258, "content": "<|eos|>", "special": True}],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b", "Ġ ab"]},
    }


def read(folder, data, **files):
    return read_tokenizer(write(folder, {"tokenizer.json": data, **files}))


def test_ids_by_hand(tmp_path):
    tokenizer = read(tmp_path, small(), **{"tokenizer_config.json": {"eos_token": {"content": "<|eos|>"}}})
    assert isinstance(tokenizer, HFTokenizer) and (tokenizer.vocab_size, tokenizer.eos_id) == (259, 258)
    a, b, eos = ord("a") - 33, ord("b") - 33, 258
    assert tokenizer.encode("abab ab b") == [256, 256, 257, list(PRINTED).index(32), b]
    assert tokenizer.encode("aba<|eos|>")[:2] == [256, a] and eos not in tokenizer.encode("aba<|eos|>")
    assert tokenizer.decode([257, eos, a]) == " ab<|eos|>a" and tokenizer.token_bytes(257) == b" ab"
    assert tokenizer.pre_tokens("it's 12") == ["it", "'s", " 12"]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT and tokenizer.encode("") == []


def test_the_eos_of_config_json_serves_where_the_tokenizer_names_none(tmp_path):
    write(tmp_path, {"tokenizer.json": small()})
    assert read_tokenizer(tmp_path, eos_id=7).eos_id == 7
    assert read_tokenizer(tmp_path).eos_id is None


def test_digits_apart_nfc_and_whole_words(tmp_path):
    data = small()
    digits = {"type": "Digits", "individual_digits": True}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, data["pre_tokenizer"]]}
    data["normalizer"], data["model"]["ignore_merges"] = {"type": "NFC"}, True
    data["model"]["vocab"]["abb"] = 259  # no merge makes it
    tokenizer = read(tmp_path, data)
    assert tokenizer.pre_tokens("a 12b") == ["a", " ", "1", "2", "b"]
    assert tokenizer.encode("abb") == [259] and tokenizer.encode("abba")[0] == 256
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "\xe9"


def test_bad_input_is_refused(tmp_path):
    tokenizer = read(tmp_path, small())
    with pytest.raises(ValueError, match="300 is no token id"):
        tokenizer.decode([300])
    with pytest.raises(ValueError, match="surrogate"):
        tokenizer.encode("half \ud800")
    data = small()
    del data["model"]["vocab"]["x"]
    tokenizer = read(tmp_path, data)
    assert tokenizer.encode("ab") == [256]
    with pytest.raises(ValueError, match="' axb' has a byte"):
        tokenizer.encode("ab axb")


def test_no_tokenizer_is_none_and_another_form_a_sentence(tmp_path):
    assert read_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(CheckpointError, match="tokenizer.model, but no tokenizer.json"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda data: data["model"].update(type="Unigram"), "Unigram"),
        (lambda data: data["model"].update(byte_fallback=True), "byte fallback"),
        (lambda data: data["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (lambda data: data.update(normalizer={"type": "Lowercase"}), "Lowercase"),
        (lambda data: data["pre_tokenizer"].update(add_prefix_space=True), "a space put first"),
        (lambda data: data.update(pre_tokenizer={"type": "Metaspace"}), "Metaspace"),
        (lambda data: data.update(pre_tokenizer=None), "cuts texts with None"),
        (lambda data: data["added_tokens"].append(dict(id=259, content="   ", special=False)), "'   '"),
        (lambda data: data["model"]["vocab"].pop("ab"), "damaged"),
        (lambda data: data.pop("model"), "damaged"),
        (lambda data: data["model"]["merges"].append("ab"), "damaged"),
        (lambda data: data["model"]["vocab"].update(ab=10**12), "damaged"),
    ],
)
def test_what_is_no_byte_level_bpe_is_named(tmp_path, spoil, message):
    data = small()
    spoil(data)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, data)


def test_a_broken_file_is_named(tmp_path):
    for text in ("{", "[" * 100_000):
        with pytest.raises(CheckpointError, match="tokenizer.json is damaged"):
            read(tmp_path, text)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="tokenizer.json is damaged"):
        read_tokenizer(tmp_path)

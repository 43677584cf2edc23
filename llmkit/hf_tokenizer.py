"""Hugging Face's tokenizer.json, for byte-level BPE: ours written so that AutoTokenizer loads it, others' read.

A byte-level BPE is a list of regexes that cut text, an id for each byte, and merges by rank (see `tokenizer`). Ours has
one regex and ids in a fixed order; GPT-2, Llama 3, Qwen and SmolLM have other regexes and orders. `read_tokenizer`
gives our `Tokenizer` where the file describes one, and else an `HFTokenizer`: the same interface, the file's own ids.
Departures from AutoTokenizer: names of special tokens in a text are plain text, nothing is put before or after it, and
no Unigram, WordPiece or SentencePiece-style BPE is read: a sentence says so.

In the file a token is written in printable characters, one for each byte, as GPT-2 prints them: a space is "Ġ".
"""

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import regex

from llmkit import chat
from llmkit.checkpoint import CheckpointError
from llmkit.tokenizer import PATTERN, SPECIAL_TOKENS, Merge, Tokenizer, pairs_of

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = sorted(set(range(256)) - set(_VISIBLE))
PRINTED = {byte: chr(byte) for byte in _VISIBLE} | {byte: chr(256 + i) for i, byte in enumerate(_HIDDEN)}
BYTE = {char: byte for byte, char in PRINTED.items()}


class HFTokenizer:
    """A byte-level BPE with regexes and ids of its own; `encode` and `decode` as `Tokenizer` has them.

    Lossless, unless the file asks for NFC (Qwen does): then texts come back with accents composed.
    """

    def __init__(self, splits, merges, vocab, special_tokens, eos_id, nfc=False, whole_words=False, files=None):
        """splits: regexes, each cutting the pieces of the one before. merges: (left, right, new) ids by rank.
        vocab: id -> bytes. whole_words: a pre-token that is a token needs no merges (Llama 3). files: name -> text."""
        self.special_tokens, self.eos_id, self.nfc, self.files = special_tokens, eos_id, nfc, files or {}
        self._splits = [regex.compile(pattern) for pattern in splits]
        self._bytes = {**vocab, **{id: name.encode() for name, id in special_tokens.items()}}
        self.vocab_size = max(self._bytes) + 1
        self._id_of = {data: id for id, data in vocab.items()}
        self._whole = self._id_of if whole_words else {}
        self._merges = {chr(a) + chr(b): (rank, chr(new)) for rank, (a, b, new) in enumerate(merges)}
        self._words: dict[str, tuple[int, ...]] = {}  # memo of encode_word

    def pre_tokens(self, text: str) -> list[str]:
        """Cuts text at the regexes; what a regex does not match is a piece too."""
        pieces = [unicodedata.normalize("NFC", text) if self.nfc else text]
        for pattern in self._splits:
            pieces = [part for piece in pieces for part in _cut(pattern, piece)]
        return pieces

    def encode_word(self, pre_token: str) -> tuple[int, ...]:
        """BPE of one pre-token: merge the pair of the lowest rank, until none is left. Memoised."""
        if pre_token not in self._words:
            data = pre_token.encode()
            ids = [self._id_of.get(data[i : i + 1]) for i in range(len(data))]
            ids = [self._whole[data]] if data in self._whole else ids
            if None in ids:
                raise ValueError(f"{pre_token!r:.40} has a byte for which this tokenizer has no token")
            word = "".join(map(chr, ids))
            while known := self._merges.keys() & set(pairs_of(word)):
                pair = min(known, key=self._merges.__getitem__)
                word = word.replace(pair, self._merges[pair][1])
            self._words[pre_token] = tuple(map(ord, word))
        return self._words[pre_token]

    def encode(self, text: str) -> list[int]:
        """Ids of a text; names of special tokens are plain text. ValueError on a lone surrogate, and on a byte that
        the training text did not have (AutoTokenizer leaves it out)."""
        return [id for pre_token in self.pre_tokens(text) for id in self.encode_word(pre_token)]

    def token_bytes(self, id: int) -> bytes:
        return self.decode_bytes([id])

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of any ids (list, array or tensor of one dimension). ValueError on an id that is no token."""
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        if wrong := [id for id in ids if id not in self._bytes]:
            raise ValueError(f"{wrong[0]!r:.40} is no token id of this tokenizer (ids go up to {self.vocab_size - 1})")
        return b"".join([self._bytes[id] for id in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any ids; bytes that are not UTF-8, such as half a character, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"HFTokenizer(vocab_size={self.vocab_size}, eos_id={self.eos_id})"


def _cut(pattern, text: str) -> Iterable[str]:
    end = 0
    for match in pattern.finditer(text):
        yield from filter(None, (text[end : match.start()], match.group()))
        end = match.end()
    if text[end:]:
        yield text[end:]


def read_tokenizer(folder: Path, eos_id: int | None = None) -> Tokenizer | HFTokenizer | None:
    """The tokenizer of a model's folder, None if it has none. `eos_id` serves where the files name no eos token.

    CheckpointError if tokenizer.json is damaged, or is no byte-level BPE.
    """
    if not (folder / FILES[0]).exists():
        if other := [path.name for pattern in ("*.model", "vocab*", "merges*") for path in folder.glob(pattern)]:
            raise CheckpointError(
                f"{folder} has a tokenizer in {other[0]}, but no tokenizer.json: load it with transformers' "
                "AutoTokenizer and save_pretrained it, which writes one"
            )
        return None
    try:
        files = {name: (folder / name).read_text(encoding="utf-8") for name in FILES if (folder / name).exists()}
        data, about = json.loads(files[FILES[0]]), json.loads(files.get(FILES[1], "{}"))
        added = {token["content"]: token["id"] for token in data.get("added_tokens") or []}
        eos = about.get("eos_token")
        eos = eos["content"] if isinstance(eos, dict) else eos
        parts = _parse(data)
        return _ours(parts, added) or HFTokenizer(
            **parts, special_tokens=added, eos_id=added.get(eos, eos_id), files=files
        )
    except CheckpointError as error:
        raise CheckpointError(f"{folder / FILES[0]} {error}: only byte-level BPE is read here") from None
    except (
        OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, regex.error
    ) as error:  # fmt: skip
        raise CheckpointError(f"{folder / FILES[0]} is damaged, or no tokenizer file ({error!r:.100})") from None


def _parse(data: dict) -> dict:
    """What `HFTokenizer` is made of; a CheckpointError ends the sentence "FILE …" if it cannot express the file."""
    model, normalizer = data["model"], data.get("normalizer")
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback"):
        raise CheckpointError(f"holds a {model.get('type')} tokenizer" + " with byte fallback" * ("merges" in model))
    if used := [name for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]:
        raise CheckpointError(f"uses the option {used[0]} of BPE")
    if normalizer and normalizer["type"] != "NFC":
        raise CheckpointError(f"changes texts before it encodes them (normalizer {normalizer['type']})")
    for token in data.get("added_tokens") or []:
        if not token["special"] and not set("<[|") & set(token["content"]):
            raise CheckpointError(f"cuts the added token {token['content']!r} out of ordinary text")
    vocab = model["vocab"]
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    in_bytes = {id: bytes(map(BYTE.get, name)) for name, id in vocab.items() if set(name) <= BYTE.keys()}
    return dict(
        splits=_splits(data.get("pre_tokenizer")),
        merges=[(vocab[left], vocab[right], vocab[left + right]) for left, right in merges],
        vocab=in_bytes,
        nfc=normalizer is not None,
        whole_words=bool(model.get("ignore_merges")),
    )


def _splits(pre_tokenizer: dict | None) -> list[str]:
    """The regexes of a pre-tokenizer that ends with ByteLevel."""
    *steps, last = (pre_tokenizer or {}).get("pretokenizers") or [pre_tokenizer or {"type": None}]
    if last["type"] != "ByteLevel" or last.get("add_prefix_space", True):
        raise CheckpointError(f"cuts texts with {last['type']}" + ", a space put first" * (last["type"] == "ByteLevel"))
    splits = []
    for step in steps:
        if step["type"] == "Digits" and step["individual_digits"]:
            splits.append(r"\p{N}")
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            pattern = step["pattern"]
            splits.append(pattern["Regex"] if "Regex" in pattern else regex.escape(pattern["String"]))
        else:
            raise CheckpointError(f"cuts texts with {step['type']} {step.get('behavior', '')}".rstrip())
    return splits + [GPT2_PATTERN] * last.get("use_regex", True)


def _ours(parts: dict, added: dict[str, int]) -> Tokenizer | None:
    """The same as a `Tokenizer` (without the counts of training), if its regex and its order of ids are ours."""
    n = 256 + len(parts["merges"])
    plain = parts["splits"] == [PATTERN] and not parts["nfc"] and not parts["whole_words"]
    ordered = all(parts["vocab"].get(byte) == bytes([byte]) for byte in range(256))
    ordered = ordered and [new for *_, new in parts["merges"]] == list(range(256, n))
    if plain and ordered and sorted(added.values()) == [*range(n, n + len(added))] and SPECIAL_TOKENS[0] in added:
        return Tokenizer([Merge(a, b, 0) for a, b, _ in parts["merges"]], sorted(added, key=added.get))


def tokenizer_files(tokenizer: Tokenizer | HFTokenizer, context_length: int) -> dict[str, str]:
    """Name -> text of the files by which AutoTokenizer, and what reads its files, encodes alike."""
    if isinstance(tokenizer, HFTokenizer):
        return tokenizer.files
    pieces = [tokenizer.token_bytes(id) for id in range(256 + len(tokenizer.merges))]
    names = ["".join(map(PRINTED.get, piece)) for piece in pieces]
    if len(set(names)) < len(names):
        raise CheckpointError("two tokens have the same bytes, which tokenizer.json cannot hold: train on other text")
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": name, **flags} for name, id in tokenizer.special_tokens.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: id for id, name in enumerate(names)},
            "merges": [[names[merge.left], names[merge.right]] for merge in tokenizer.merges],
        },
    }
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": SPECIAL_TOKENS[0],
        "pad_token": SPECIAL_TOKENS[0],
        "chat_template": chat.JINJA_TEMPLATE,
    }
    return {FILES[0]: json.dumps(data, ensure_ascii=False, indent=1), FILES[1]: json.dumps(about, indent=1)}

"""Models in Hugging Face's layout, read and written: Llama, Qwen3, Qwen3-MoE and GPT-2.

    model, tokenizer = load_hf("a/folder")        save_hf("a/folder", model, tokenizer)

A folder holds config.json (see `hf_config`), the tokenizer (see `hf_tokenizer`) and the weights as safetensors, in one
file or in several with an index. Ours are the same tensors, named and cut otherwise: query, key and value are stacked,
so are gate and up and a layer's experts, and GPT-2's matrices are transposed (it writes a linear layer as x W). Logits
and ids equal transformers' (tests/parity). Departures: weights become float32, and weights that are pickled are not
read at all.
"""

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmkit.checkpoint import CheckpointError, weights_of
from llmkit.config import ModelConfig
from llmkit.hf_config import read_config, write_config
from llmkit.hf_tokenizer import FILES as TOKENIZER_FILES
from llmkit.hf_tokenizer import HFTokenizer, read_tokenizer, tokenizer_files
from llmkit.model import Transformer
from llmkit.positions import position_embedding
from llmkit.tokenizer import Tokenizer

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
GENERATION = "generation_config.json"
WRITTEN = {WEIGHTS, CONFIG, GENERATION, *TOKENIZER_FILES}
LLAMA_NAMES = {  # ours: theirs, stacked in this order
    "tok_emb": ("model.embed_tokens",),
    "norm_f": ("model.norm",),
    "lm_head": ("lm_head",),
    "blocks.*.norm1": ("model.layers.*.input_layernorm",),
    "blocks.*.norm2": ("model.layers.*.post_attention_layernorm",),
    "blocks.*.attn.qkv": tuple(f"model.layers.*.self_attn.{x}_proj" for x in "qkv"),
    "blocks.*.attn.q_norm": ("model.layers.*.self_attn.q_norm",),
    "blocks.*.attn.k_norm": ("model.layers.*.self_attn.k_norm",),
    "blocks.*.attn.out": ("model.layers.*.self_attn.o_proj",),
    "blocks.*.mlp.gate_up": ("model.layers.*.mlp.gate_proj", "model.layers.*.mlp.up_proj"),
    "blocks.*.mlp.down": ("model.layers.*.mlp.down_proj",),
}
GPT2_NAMES = {
    "tok_emb": ("transformer.wte",),
    "pos_emb": ("transformer.wpe",),
    "norm_f": ("transformer.ln_f",),
    "lm_head": ("lm_head",),
    "blocks.*.norm1": ("transformer.h.*.ln_1",),
    "blocks.*.norm2": ("transformer.h.*.ln_2",),
    "blocks.*.attn.qkv": ("transformer.h.*.attn.c_attn",),
    "blocks.*.attn.out": ("transformer.h.*.attn.c_proj",),
    "blocks.*.mlp.up": ("transformer.h.*.mlp.c_fc",),
    "blocks.*.mlp.down": ("transformer.h.*.mlp.c_proj",),
}
QWEN3_MOE_NAMES = LLAMA_NAMES | {"blocks.*.mlp.router": ("model.layers.*.mlp.gate",)}
NAMES = {"llama": LLAMA_NAMES, "qwen3": LLAMA_NAMES, "qwen3_moe": QWEN3_MOE_NAMES, "gpt2": GPT2_NAMES}
EXPERT_NAMES = {"gate_up": ("gate_proj", "up_proj"), "down": ("down_proj",)}  # each expert's, stacked in this order
BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias)$")  # old files hold these constants


def load_hf(path_or_repo: str | Path) -> tuple[Transformer, Tokenizer | HFTokenizer | None]:
    """(model, tokenizer) of a local folder, or of a repository of the Hugging Face hub, which is downloaded once.

    The model is in float32, in evaluation mode, on the CPU; the tokenizer is None if the folder has none. Text is
    encoded without the tokens that some models want first (Llama 3's <|begin_of_text|>). CheckpointError, in one
    sentence, for what cannot be read: it names the architecture, the setting or the tensor.
    """
    folder = _folder(path_or_repo)
    try:
        values = _read_json(folder / CONFIG)
        family, config = read_config(values)
        eos_id = values.get("eos_token_id")
        tokenizer = read_tokenizer(folder, eos_id[0] if isinstance(eos_id, list) and eos_id else eos_id)
        _check_ids(tokenizer, config)
        stored = _stored(folder, family, config.tie_embeddings)
        with torch.device("meta"):  # shapes without memory: no weights are drawn only to be overwritten
            model = Transformer(config)
        _check(_cut(family, config, weights_of(model)), stored)
    except CheckpointError as error:
        raise CheckpointError(f"cannot load {folder}: {error}") from None
    model.pos_emb = position_embedding(config)  # RoPE's tables are in no file
    weights = {name: torch.zeros_like(weight, device="cpu") for name, weight in weights_of(model).items()}
    parts = _cut(family, config, weights)  # all but the router's bias, which stays 0
    for path in {stored[name][0] for name in parts}:
        with safe_open(path, framework="pt") as file:
            for name, part in parts.items():
                if stored[name][0] == path:
                    part.copy_(file.get_tensor(stored[name][1]))
    model.load_state_dict(weights, strict=False, assign=True)
    if config.tie_embeddings:
        model.lm_head.weight = model.tok_emb.weight
    return model.eval(), tokenizer


def save_hf(path: str | Path, model: Transformer, tokenizer: Tokenizer | HFTokenizer | None) -> Path:
    """Write a folder that transformers' AutoModelForCausalLM and AutoTokenizer load; returns its path.

    The weights keep their dtype. A folder that is there is replaced if it holds nothing but such files. CheckpointError
    if no architecture is such a model, if it was taken apart (adapters, quantization), or if the disk refuses.
    """
    path, config, weights = Path(path), model.config, weights_of(model)
    family, values = write_config(config)
    with torch.device("meta"):
        plain = weights_of(Transformer(config))
    if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in plain.items()}:
        raise CheckpointError("these are not a plain model's weights: merge adapters, undo quantization, then save")
    if any(weight.any() for name, weight in weights.items() if name.endswith("mlp.bias")):
        raise CheckpointError("a router's bias is not 0, and Qwen3-MoE has none: train with the balance loss")
    _check_ids(tokenizer, config)
    if path.exists() and not (path.is_dir() and {file.name for file in path.iterdir()} <= WRITTEN):
        raise CheckpointError(f"{path} holds other things than an exported model: save to a new folder of its own")
    eos_id = None if tokenizer is None else tokenizer.eos_id
    about = dict(bos_token_id=eos_id, eos_token_id=eos_id, pad_token_id=eos_id)
    values |= about | dict(torch_dtype=str(model.tok_emb.weight.dtype).removeprefix("torch."))
    if isinstance(tokenizer, Tokenizer) and "<|end|>" in tokenizer.special_tokens:
        about["eos_token_id"] = [eos_id, tokenizer.special_tokens["<|end|>"]]  # a chat stops at either
    files = {CONFIG: json.dumps(values, indent=1), GENERATION: json.dumps(about, indent=1)}
    files |= {} if tokenizer is None else tokenizer_files(tokenizer, config.context_length)
    parts = _cut(family, config, weights)
    _write(path, {name: x.cpu().clone(memory_format=torch.contiguous_format) for name, x in parts.items()}, files)
    return path


def _write(path: Path, tensors: dict[str, Tensor], files: dict[str, str]) -> None:
    """A new folder, whole or not at all."""
    path = path.resolve() if path.is_symlink() else path  # the link stays
    fresh = path.with_name(f".{path.name}.unfinished")
    try:
        shutil.rmtree(fresh, ignore_errors=True)  # left by a process that was killed
        fresh.mkdir(parents=True)
        save_file(tensors, fresh / WEIGHTS, metadata={"format": "pt"})  # transformers insists on the metadata
        for name, text in files.items():
            (fresh / name).write_text(text, encoding="utf-8", newline="\n")
        if path.exists():
            shutil.rmtree(path)
        fresh.rename(path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise CheckpointError(f"cannot write {path} ({error})") from None


def _check_ids(tokenizer, config: ModelConfig) -> None:
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} ids and the model's vocabulary {config.vocab_size}: "
            "they do not belong together"
        )


def _cut(family: str, config: ModelConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Views of our tensors under their names: stacks cut, GPT-2's matrices transposed."""
    parts, kv = {}, config.n_kv_head * config.head_dim
    for name, tensor in weights.items():
        module, _, kind = name.rpartition(".")
        layer = (re.findall(r"^blocks\.(\d+)", module) or [""])[0]
        if module.endswith(".mlp"):  # experts, stacked, and the router's bias
            for e, expert in enumerate(tensor if kind in EXPERT_NAMES else ()):
                for their, part in zip(EXPERT_NAMES[kind], expert.chunk(len(EXPERT_NAMES[kind])), strict=True):
                    parts[f"model.layers.{layer}.mlp.experts.{e}.{their}.weight"] = part
            continue
        theirs = NAMES[family][re.sub(r"^blocks\.\d+", "blocks.*", module)]
        if family == "gpt2" and layer and tensor.dim() == 2:
            tensor = tensor.T
        n = tensor.shape[0]
        sizes = {1: [n], 2: [n // 2, n // 2], 3: [n - 2 * kv, kv, kv]}[len(theirs)]
        for their, part in zip(theirs, tensor.split(sizes), strict=True):
            parts[f"{their.replace('*', layer)}.{kind}"] = part
    return parts


def _stored(folder: Path, family: str, tied: bool) -> dict[str, tuple[Path, str, list[int], str]]:
    """Tensor's name -> (file, name in the file, shape, dtype). A tied head and the constants of old files are left out;
    GPT-2's first files call their tensors h.0… instead of transformer.h.0…"""
    stored = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}
                stored |= {key: (path, key, x.get_shape(), x.get_dtype()) for key, x in slices.items()}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path.name} is missing, damaged or no safetensors file ({error})") from None
    if family == "gpt2" and not any(key.startswith("transformer.") for key in stored):
        stored = {key if key == "lm_head.weight" else f"transformer.{key}": value for key, value in stored.items()}
    if tied:
        stored.pop("lm_head.weight", None)
    return {key: value for key, value in stored.items() if not BUFFERS.search(key)}


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        weight_map = _read_json(folder / INDEX).get("weight_map")
        names = weight_map.values() if isinstance(weight_map, dict) else ()
        if not names or any(Path(str(name)).name != name for name in names):
            raise CheckpointError(f"{INDEX} does not name the files beside it")
        return [folder / name for name in sorted(set(names))]
    if pickled := [path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern)]:
        raise CheckpointError(
            f"its weights are pickled ({pickled[0]}), and to load them could run any code: convert them to safetensors "
            "(transformers: from_pretrained, then save_pretrained) on a machine that may be lost"
        )
    raise CheckpointError(f"it holds no weights ({WEIGHTS}, or {INDEX} and the files it names)")


def _check(wanted: dict[str, Tensor], stored: dict) -> None:
    if missing := sorted(wanted.keys() - stored.keys()):
        raise CheckpointError(f"the tensor {missing[0]} is missing ({len(missing)} of {len(wanted)} are)")
    if unknown := sorted(stored.keys() - wanted.keys()):
        raise CheckpointError(f"the tensor {unknown[0]} has no place in the model (one of {len(unknown)})")
    for name, part in wanted.items():
        shape, dtype = stored[name][2:]
        if list(shape) != list(part.shape):
            raise CheckpointError(f"the tensor {name} is {tuple(shape)}, but by config.json {tuple(part.shape)}")
        if dtype not in ("F64", "F32", "F16", "BF16"):
            raise CheckpointError(f"the tensor {name} holds {dtype}, not plain floating-point numbers")


def _folder(path_or_repo: str | Path) -> Path:
    """The local folder, downloaded from the hub if need be."""
    folder = Path(path_or_repo)
    if folder.is_dir():
        return folder
    if isinstance(path_or_repo, Path) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path_or_repo) or folder.exists():
        raise CheckpointError(f"there is no folder {path_or_repo}: give a model's folder, or a repository's name")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(
            f"there is no folder {path_or_repo}, and to download a repository of that name huggingface_hub is needed: "
            'pip install "llmkit[hf]"'
        ) from None
    try:
        patterns = [*WRITTEN, INDEX, "model-*.safetensors"]
        return Path(snapshot_download(path_or_repo, allow_patterns=patterns))
    except Exception as error:  # no connection, no such repository, no right to read it: the library has many kinds
        raise CheckpointError(
            f"there is no folder {path_or_repo}, and the hub gave no repository of that name "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason'}): "
            "check the name and the connection, or download it elsewhere and give the folder"
        ) from None


def _read_json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is missing or damaged ({error})") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path.name} must hold a JSON object, not a {type(values).__name__}")
    return values

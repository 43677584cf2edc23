"""Checkpoints: a model on disk as safetensors and JSON, never as pickle, and never half-written.

A checkpoint is a folder: `model.safetensors` (float32 or bfloat16, a tied weight once), `config.json` (ModelConfig),
`tokenizer.json`, and `card.json`: what the caller says about it (data, steps, scores, `world`: the fingerprint of the
town it learned) with the weights' SHA-256 and the tokenizer's fingerprint, by which damage and mix-ups are found.

Atomic: all is written beside the target and flushed to the disk, then renamed. A folder cannot replace another in one
rename, so the old one first steps aside as `.NAME.old`; a crash between the two renames is mended at the next access.
"""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from llmkit.config import ModelConfig
from llmkit.model import Transformer
from llmkit.tokenizer import Tokenizer

WEIGHTS, CONFIG, TOKENIZER, CARD = FILES = ("model.safetensors", "config.json", "tokenizer.json", "card.json")
REMEDY = "save it again, or restore it from where it came"
SHIPPED = Path(__file__).resolve().parent.parent / "course" / "checkpoints"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written; the message says what is wrong and what to do."""


# --- Files that appear whole or not at all -------------------------------------------------------------------------


def write_tensors(path: str | Path, tensors: dict[str, Tensor], info: dict) -> None:
    """One safetensors file, `info` (plain JSON values) in its header; an old file stays until the new one is whole."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")  # a folder: safetensors adds a temporary file
    fresh, tensors = unfinished / path.name, {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    try:
        _remove(unfinished)  # left by a process that was killed
        unfinished.mkdir(parents=True)
        _save_file(tensors, fresh, {"info": json.dumps(info)})
        _flush(fresh)
        os.replace(fresh, path)
        _flush(path.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path} ({error}); what was there before is unchanged") from error
    finally:
        _remove(unfinished)


def _save_file(tensors: dict[str, Tensor], path: Path, info: dict[str, str] | None = None) -> None:
    """safetensors' writer, with the permissions that every other new file gets: it lets nobody but its owner read."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata=info)
    path.chmod(mode)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors (on the CPU, as stored) and the info that `write_tensors` wrote; CheckpointError if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # the clone lets go of the file
            info = json.loads((file.metadata() or {}).get("info", "{}"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: {REMEDY}") from None
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error}): {REMEDY}") from None
    return tensors, info


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder to be filled, which takes the place of `folder` if nothing is raised."""
    folder = folder.resolve() if folder.is_symlink() else folder  # the link stays
    _mend(folder)
    if folder.exists() and not (folder.is_dir() and {f.name for f in folder.iterdir()} <= set(FILES)):
        raise CheckpointError(f"{folder} holds other things than a checkpoint: save to a new folder of its own")
    fresh, old = folder.with_name(f".{folder.name}.unfinished"), _aside(folder)
    try:
        shutil.rmtree(fresh, ignore_errors=True)  # left by a process that was killed
        fresh.mkdir(parents=True)
        yield fresh
        for path in (*fresh.iterdir(), fresh):
            _flush(path)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.rename(folder, old)
        os.rename(fresh, folder)
        _flush(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        _mend(folder)
        if isinstance(error, (OSError, SafetensorError)):
            raise CheckpointError(f"cannot write {folder} ({error}); what was there before is unchanged") from error
        raise


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _mend(folder: Path) -> None:
    """After a crash between the two renames: put the old checkpoint back."""
    if folder.name and not folder.exists() and _aside(folder).exists():
        os.rename(_aside(folder), folder)


def _flush(path: Path) -> None:
    """Have the operating system write the file or folder to the disk now."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- Checkpoints ---------------------------------------------------------------------------------------------------


def save(path: str | Path, model: Transformer, tokenizer: Tokenizer, card: dict, dtype=torch.float32) -> Path:
    """Write the checkpoint folder `path`, replacing the checkpoint that is there; returns the path.

    `card` is a dict of plain JSON values; weights are stored as `dtype`, float32 or bfloat16. CheckpointError if they
    do not fit `model.config` or are not finite, if the tokenizer is another vocabulary's, or if the disk refuses.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, not {dtype}")
    if not isinstance(tokenizer, Tokenizer):
        raise CheckpointError(f"a checkpoint has a Tokenizer, not {tokenizer!r}: save others with hf.save_hf")
    path, weights = Path(path), weights_of(model)
    _check_fit(model.config, {name: w.shape for name, w in weights.items()}, "the model")
    _check_vocabulary(model.config, tokenizer, "the model")
    if bad := [name for name, w in weights.items() if not w.isfinite().all()]:
        raise CheckpointError(f"{bad[0]} holds NaN or infinite weights: train from the last good state, then save")
    weights = {name: w.to("cpu", dtype).contiguous() for name, w in weights.items()}
    with _replacing(path) as folder:
        _save_file(weights, folder / WEIGHTS)
        tokenizer.save(folder / TOKENIZER)
        _write_json(folder / CONFIG, model.config.to_dict())
        seals = {"weights_sha256": _sha256(folder / WEIGHTS), "tokenizer": tokenizer.fingerprint}
        _write_json(folder / CARD, {**card, **seals})
    return path


def load(name_or_path: str | Path, device: torch.device | str | None = None) -> tuple[Transformer, Tokenizer]:
    """(model, tokenizer): the model in float32 and evaluation mode, on the CPU unless a device is given.

    Looked for as a path, then in the folder that the environment variable LLMKIT_CHECKPOINTS names, then among the
    shipped checkpoints. CheckpointError, in one sentence, if it is missing, damaged, or made for another world.
    """
    folder = find(name_or_path)
    about = card(folder)
    _check_world(folder, about)
    values = _read_json(folder / CONFIG)
    try:
        config = ModelConfig.from_dict(values)
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG} does not describe a model ({error}): {REMEDY}") from None
    with _explained(folder / TOKENIZER):
        tokenizer = Tokenizer.load(folder / TOKENIZER)
    _check_vocabulary(config, tokenizer, folder)
    if about.get("tokenizer", tokenizer.fingerprint) != tokenizer.fingerprint:
        raise CheckpointError(f"{folder / TOKENIZER} is not the tokenizer that this model was trained with: {REMEDY}")
    tensors, _ = read_tensors(folder / WEIGHTS)
    if about.get("weights_sha256", "") not in ("", _sha256(folder / WEIGHTS)):
        raise CheckpointError(f"{folder / WEIGHTS} is not what was saved (its checksum differs): {REMEDY}")
    _check_fit(config, {name: t.shape for name, t in tensors.items()}, folder)
    if odd := [name for name, t in tensors.items() if not t.is_floating_point()]:
        raise CheckpointError(f"{folder / WEIGHTS} holds {tensors[odd[0]].dtype} weights in {odd[0]}: {REMEDY}")
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten: leave the caller's seed alone
        model = Transformer(config)
    with torch.no_grad():
        for name, weight in weights_of(model).items():
            weight.copy_(tensors[name])
    return model.to(device or "cpu").eval(), tokenizer


def card(name_or_path: str | Path) -> dict:
    """What the checkpoint's card says, without loading the model."""
    return _read_json(find(name_or_path) / CARD)


def available() -> list[str]:
    """The names that `load` knows."""
    found = {path.parent.name for shelf in _shelves() for path in shelf.glob(f"*/{WEIGHTS}")}
    return sorted(name for name in found if not name.startswith("."))


def find(name_or_path: str | Path) -> Path:
    """The folder of a checkpoint; CheckpointError, with the names there are, if there is none."""
    places = [Path(name_or_path)]
    if places[0].name == str(name_or_path):  # a bare name
        places += [shelf / name_or_path for shelf in _shelves()]
    for place in places:
        _mend(place)
        if any((place / name).is_file() for name in FILES):
            return place
    names, looked = ", ".join(available()) or "none yet", " or ".join(map(str, places))
    if places[0].exists():
        raise CheckpointError(f"{places[0]} is no checkpoint folder (it has no {WEIGHTS}); names available: {names}")
    raise CheckpointError(f"there is no checkpoint {str(name_or_path)!r}, at {looked}; names available: {names}")


def _shelves() -> list[Path]:
    own = os.environ.get("LLMKIT_CHECKPOINTS")
    return [Path(own), SHIPPED] if own else [SHIPPED]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with each tensor once: a tied weight goes by its first name."""
    once = {name for name, _ in model.named_parameters()}
    again = {name for name, _ in model.named_parameters(remove_duplicate=False)} - once
    return {name: tensor for name, tensor in model.state_dict().items() if name not in again}


def _check_fit(config: ModelConfig, shapes: dict[str, torch.Size], where) -> None:
    with torch.device("meta"):  # shapes without memory
        wanted = {name: tensor.shape for name, tensor in weights_of(Transformer(config)).items()}
    if missing := sorted(wanted.keys() - shapes.keys()):
        problem = f"{missing[0]} is missing ({len(missing)} of {len(wanted)} tensors are)"
    elif unknown := sorted(shapes.keys() - wanted.keys()):
        problem = f"{unknown[0]} is no tensor of such a model (one of {len(unknown)})"
    elif wrong := [name for name in wanted if wanted[name] != shapes[name]]:
        problem = f"{wrong[0]} is {tuple(shapes[wrong[0]])} but must be {tuple(wanted[wrong[0]])}"
    else:
        return
    raise CheckpointError(
        f"the weights of {where} do not fit its config: {problem}; merge adapters and undo quantization before saving, "
        "or restore the files that belong together"
    )


def _check_vocabulary(config: ModelConfig, tokenizer: Tokenizer, where) -> None:
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"the tokenizer knows {tokenizer.vocab_size} tokens but {where} has a vocabulary of {config.vocab_size}: "
            "use the tokenizer that the model was trained with"
        )


def _check_world(folder: Path, about: dict) -> None:
    if "world" in about and about["world"] != (here := _world_fingerprint()):
        raise CheckpointError(
            f"{folder} was trained on another version of the town ({about['world']}, here {here}), so the truth "
            "beside it would be wrong: train it again, or use the version of the course that it came with"
        )


@functools.cache
def _world_fingerprint() -> str:
    from llmkit.world import World  # costly to import, and needed only here

    return World().fingerprint


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: {REMEDY}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): {REMEDY}") from None


def _read_json(path: Path) -> dict:
    with _explained(path):
        values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(values).__name__}: {REMEDY}")
    return values


def _write_json(path: Path, values: dict) -> None:
    try:
        text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path.name} takes plain, finite JSON values only: {error}") from None
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

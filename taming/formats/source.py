"""A file of somebody else's weights as it lies about: which files belong together, dictionaries in
dictionaries, and the prefixes that wrappers leave on names.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from taming.config import from_plain, to_plain
from taming.errors import UserError
from taming.formats.content import Content, check_tensors
from taming.formats.fitting import count
from taming.formats.unpickler import read_restricted
from taming.weights import is_safetensors, is_tensors, read_safetensors

INDEX = ".index.json"  # of weights in several files
SHARDS = 10_000
# In the order in which they are taken: averages are what their makers publish figures of
WRAPPERS = ("ema", "model_ema", "params_ema", "ema_state_dict", "state_dict", "model")
WRAPPERS += ("module", "net", "params", "weights", "generator", "vae", "vqgan", "model_state_dict")
AVERAGES = WRAPPERS[:4]
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "vqgan.", "vae.")
BESIDE = ("loss.", "discriminator.", "optimizer", "model_ema.", "ema.", "lpips.", "perceptual")
OF_TRAINING = ("optim", "lr_", "sched", "disc", "loss", "scaler", "rng", "callback")
DEPTH = 4  # of dictionaries in dictionaries


@dataclass
class Source:
    """What somebody else wrote.

    Args:
        path: the file; for weights in several files, their index.
        raw: what is in it.
        config: the configuration that the caller names.
    """

    path: Path
    raw: dict[str, Any]
    config: Path | None = None
    notes: list[str] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The tensors by name, without wrappers; empty where there are none."""
        nested = self._unwrapped(self.raw, DEPTH)
        if not nested:
            return {}
        weights = without_prefixes(nested, self.path)
        check_tensors(weights, self.path)
        return weights

    @cached_property
    def card(self) -> dict[str, Any]:
        """The JSON that came with it: the caller's, else config.json beside it; empty where there
        is none, or one that can't be read.
        """
        path = self.card_path
        return {} if path is None else read_json(path)

    @property
    def card_path(self) -> Path | None:
        if self.config is not None:
            return self.config if self.config.suffix == ".json" else None
        path = self.path.parent / "config.json"
        return path if path.is_file() else None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.weights.items()}

    def has(self, *names: str) -> bool:
        return all(name in self.weights for name in names)

    def has_part(self, part: str) -> bool:
        """Whether any name has this in it."""
        return any(part in name for name in self.weights)

    def _unwrapped(self, node: Any, depth: int) -> dict[str, Tensor]:
        """The dictionary of tensors inside dictionaries; of several, the first of WRAPPERS."""
        if is_tensors(node):
            return node
        if not isinstance(node, dict) or not depth:
            return {}
        tensors = {k: v for k, v in node.items() if isinstance(k, str) and isinstance(v, Tensor)}
        parts = {
            k: v
            for k, v in node.items()
            if not str(k).startswith(OF_TRAINING) and holds_tensors(v, depth)
        }
        named = next((name for name in WRAPPERS if name in parts), None)
        if tensors and named is None and len(tensors) > len(parts):
            return tensors  # with numbers of their training beside them
        if named is None and len(parts) > 1:  # a dictionary for each module
            modules = {k: self._unwrapped(v, depth - 1) for k, v in parts.items()}
            return {f"{k}.{n}": t for k, module in modules.items() for n, t in module.items()}
        if named is None:
            return self._unwrapped(next(iter(parts.values())), depth - 1) if parts else {}
        for name in node.keys() - {named}:
            reason = f"the weights under '{named}' are taken"
            self.unused[str(name)] = reason if name in parts else "not needed for weights"
        if named in AVERAGES:
            self.notes.append(f"the averaged weights are taken ('{named}')")
        return self._unwrapped(parts[named], depth - 1)


def tokenizer_content(
    source: Source,
    name: str,
    model: dict[str, Any],
    weights: dict[str, Tensor],
    unknown: Iterable[str] = (),
    *,
    size: int = 256,
    configs: tuple[str, ...] = (),
    allow: Iterable[str] = (),
) -> Content:
    """Somebody else's tokenizer as the content of a first stage of ours.

    Args:
        source: the file; its notes and what is unused of it are taken over.
        name: of the format.
        model: the target and the parameters of ours.
        weights: under our names.
        unknown: tensors that no model of theirs has.
        size: side of the images that it was trained on.
        configs: files that its configuration was read from.
        allow: see Content.
    """
    plain = {"model": model, "variables": {"size": size}}
    return Content(
        stage="first",
        config=to_plain(from_plain(plain, str(source.path))),
        weights=weights,
        batches=0,
        figures={},
        unused=dict(source.unused),
        notes=list(source.notes),
        unknown=sorted(unknown),
        source=name,
        configs=configs,
        path=str(source.path),
        allow=tuple(allow),
    )


def holds_tensors(node: Any, depth: int) -> bool:
    """Whether it is a dictionary of tensors, or one with such a dictionary inside."""
    if not isinstance(node, dict) or not depth:
        return False
    return is_tensors(node) or any(holds_tensors(value, depth - 1) for value in node.values())


def without_prefixes(weights: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """The same tensors without what DistributedDataParallel (`module.`), torch.compile
    (`_orig_mod.`) and wrapping modules put before their names.

    Raises:
        UserError: two tensors would have the same name.
    """
    names = {name: name.replace("_orig_mod.", "") for name in weights}
    while True:
        core = [name for name in names.values() if not name.startswith(BESIDE)]
        prefix = next((p for p in PREFIXES if core and all(n.startswith(p) for n in core)), None)
        if prefix is None:
            break
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
    if len(set(names.values())) < len(names):
        twice = [short for short in names.values() if list(names.values()).count(short) > 1]
        raise UserError(f"'{path}' has {count(set(twice), 'tensor')} twice, under two prefixes")
    return {short: weights[name] for name, short in names.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: it can't be read, or is something else.
    """
    try:
        if path.stat().st_size > 2**26:
            raise ValueError("it is larger than any configuration")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:80]
        raise UserError(f"'{path}' can't be read as JSON ({reason})") from None
    if not isinstance(value, dict):
        raise UserError(f"'{path}' holds a {type(value).__name__}, not a configuration")
    return value


def is_index(path: Path) -> bool:
    return path.name.endswith(INDEX)


def shards(path: Path) -> list[Path]:
    """The files that an index names, each in the index's own folder.

    Raises:
        UserError: it is no index, names a file elsewhere, or one that is missing.
    """
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"'{path}' names no files (weight_map); is it an index of weights?")
    names = sorted({str(name) for name in places.values()})
    if len(names) > SHARDS:
        raise UserError(f"'{path}' names {len(names)} files; is it an index of weights?")
    for name in names:
        if Path(name).name != name or name in ("", ".", ".."):
            raise UserError(f"'{path}' names '{name[:60]}', which is no file of its own folder")
        if not (path.parent / name).is_file():
            raise UserError(f"'{path}' names '{name}', which is missing; download that file too")
    return [path.parent / name for name in names]


def read_shards(path: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index names.

    Raises:
        UserError: a file can't be read, or lacks what the index promises.
    """
    places = read_json(path).get("weight_map") or {}
    weights: dict[str, Tensor] = {}
    for file in shards(path):
        part = read_safetensors(file)[1] if is_safetensors(file) else read_restricted(file)
        if not is_tensors(part):
            raise UserError(f"'{file}' holds no tensors by name")
        weights |= part  # type: ignore[operator]
    _compare_names(places.keys(), weights, path)
    return weights


def _compare_names(names: Iterable[str], weights: dict[str, Tensor], path: Path) -> None:
    missing = set(names) - weights.keys()
    if missing:
        raise UserError(
            f"'{path}' lists {count(missing, 'tensor')} that its files do not have; download them"
            " again"
        )

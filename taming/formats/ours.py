"""Saving and loading: a file holds the weights and, in plain types, the configuration that rebuilds
their model.

Two containers, one content: `.ckpt` (what training writes: everything that an exact resume needs)
and `.safetensors` (weights and configuration only, for passing on). Published checkpoints are read
too, with the YAML that came with them (compvis/).
"""

import json
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from taming.errors import UserError
from taming.files import write_atomically
from taming.formats.checksums import (
    compare_checksums,
    damaged,
    damaged_record,
    parsed,
    write_checksums,
)
from taming.formats.content import Content, content_of, malformed
from taming.formats.int8 import FACTORS, quantized, restored, suits
from taming.formats.sharded import is_sharded, read_sharded
from taming.formats.unpickler import load_torch, read_restricted
from taming.weights import is_safetensors, read_safetensors


def read_raw(path: str | Path) -> dict:
    """The dictionary in a .ckpt, memory-mapped: by torch's safe loader, or, where that refuses, by
    one that rebuilds tensors and leaves all else inert.

    Raises:
        UserError: it can't be read, a checksum of a file of ours differs, or it is no dictionary;
            where the last checkpoint is damaged and a best one lies beside it, that is named.
    """
    path = Path(path)
    try:
        if is_safetensors(path):
            raise UserError(f"'{path}' is a safetensors file, which holds no state of a training")
        raw = _read_archive(path)
    except UserError as error:
        best = path.with_name("best.ckpt")
        if path.name != "last.ckpt" or not best.is_file():
            raise
        raise UserError(f"{error}; '{best}' is there too") from None
    if not isinstance(raw, dict):
        raise UserError(f"'{path}' holds a {type(raw).__name__}, not a checkpoint")
    return raw


def read_ours(path: Path, allow: Iterable[str] = ()) -> tuple[Content | None, dict]:
    """The Content of a file of ours; None, with what is in it, where somebody else wrote it.

    Args:
        path: a .ckpt or .safetensors file; its content counts, not its ending.
        allow: packages whose classes the caller admits.
    """
    if is_sharded(path):
        return _from_state(read_sharded(path), path, allow), {}
    if not is_safetensors(path):
        raw = read_raw(path)
        return (_from_state(raw, path, allow) if "taming" in raw else None), raw
    metadata, weights = read_safetensors(path)
    if "taming" not in metadata:
        return None, {"state_dict": weights}
    if "taming.checksums" in metadata:
        compare_checksums(metadata["taming.checksums"], metadata["taming"], weights, path)
    weights = restored(weights, path)
    loss = _take(weights, "loss.")
    weights = {name: weights[name] for name in weights if not name.startswith("loss.")}
    return content_of(parsed(metadata["taming"], path), weights, loss, path, allow), {}


def is_ours(path: Path) -> bool:
    """Whether a file says that taming wrote it."""
    if is_safetensors(path):
        return "taming" in read_safetensors(path)[0]
    if not zipfile.is_zipfile(path):
        return False
    try:
        raw = load_torch(path, True, weights_only=True)
    except Exception:  # torch raises many kinds; ours it can read
        return False
    return isinstance(raw, dict) and "taming" in raw


def save_safetensors(
    path: str | Path, content: Content, half: bool = False, int8: bool = False
) -> None:
    """Writes weights and configuration for passing on.

    Args:
        path: the file.
        content: what it is to hold.
        half: floats in half precision, and in a quarter (float8) the decoder of a condition's
            tokenizer, which no sample needs.
        int8: the matrices of priors in 8 bits, see int8.py, everything else as `half` says.

    Raises:
        UserError: a number is too large for half precision, or the file can't be written.
    """
    from safetensors.torch import save_file

    sources = {**content.weights, **{f"loss.{k}": v for k, v in content.loss.items()}}
    tensors = {}
    for name, tensor in sources.items():
        if int8 and suits(name, tensor):
            tensors[name], tensors[f"{name}{FACTORS}"] = quantized(tensor)
        else:
            tensors[name] = _stored(name, tensor, half)
    text = json.dumps(
        {
            "stage": content.stage,
            "config": content.config,
            "batches": content.batches,
            "figures": content.figures,
            "card": content.card.plain(),
        }
    )
    metadata = {"taming": text, "taming.checksums": write_checksums(text, tensors)}
    write_atomically(path, lambda file: save_file(tensors, file, metadata=metadata))


def _read_archive(path: Path) -> object:
    """What torch wrote, whichever of its formats."""
    zipped = zipfile.is_zipfile(path)
    record = damaged_record(path) if zipped else None
    try:
        try:
            raw = load_torch(path, zipped, weights_only=True)
        except Exception:  # torch raises many kinds
            raw = read_restricted(path)
    except UserError:
        if record:
            raise damaged(path, f"'{record}'") from None
        raise
    # Torch can be told to write no checksums, so that those of others' files prove nothing
    if record and isinstance(raw, dict) and "taming" in raw:
        raise damaged(path, f"'{record}'")
    return raw


def _from_state(raw: dict, path: Path, allow: Iterable[str]) -> Content:
    metadata, state = raw["taming"], raw.get("state_dict")
    averaged = metadata.get("averaged") if isinstance(metadata, dict) else None
    if not _has_names(state) or not _has_names(averaged or {}):
        raise malformed(path, "state_dict or averaged holds no tensors by name")
    weights = {**_take(state, "model."), **_take(averaged or {}, "averaged.")}
    return content_of(metadata, weights, _take(state, "loss."), path, allow)


def _has_names(tensors: Any) -> TypeGuard[dict[str, Tensor]]:
    return isinstance(tensors, dict) and all(isinstance(name, str) for name in tensors)


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names start with the prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _stored(name: str, tensor: Tensor, half: bool) -> Tensor:
    if not half or not tensor.is_floating_point() or tensor.element_size() == 1:
        return tensor.contiguous().clone()
    unneeded = name.startswith("conditioner.first_stage.decoder.")
    dtype = torch.float8_e4m3fn if unneeded else torch.float16
    highest = tensor.abs().max().item() if tensor.numel() else 0.0
    if torch.finfo(dtype).max < highest < math.inf:
        raise UserError(
            f"'{name}' reaches {highest:.3g}, but {dtype} only {torch.finfo(dtype).max:.3g};"
            " convert without --half"
        )
    return tensor.to(dtype).contiguous()

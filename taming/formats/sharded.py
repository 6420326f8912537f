"""Checkpoints of which each process wrote its part: a folder of safetensors files, as
torch.distributed.checkpoint lays them out, beside `state.json` with all that is no tensor. Nothing
in them is run.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taming.errors import UserError, first_line

ENDING, STATE = ".sharded", "state.json"
ITEMS, TENSOR = "__items__", "__tensor__"


def is_sharded(path: str | Path) -> bool:
    """Whether this is such a folder, and complete: its JSON is written last."""
    return str(path).endswith(ENDING) and Path(path, STATE).is_file()


def newest_sharded(run: Path, name: str = "last") -> Path | None:
    """The newest complete one of a run folder."""
    folders = sorted((run / "checkpoints").glob(f"{name}-*{ENDING}"))
    return next((folder for folder in reversed(folders) if is_sharded(folder)), None)


def last_checkpoint(run: Path) -> Path | None:
    """Where a run folder's training resumes."""
    last = run / "checkpoints" / "last.ckpt"
    sharded = newest_sharded(run)
    if sharded is None or (last.is_file() and last.stat().st_mtime > sharded.stat().st_mtime):
        return last if last.is_file() else None
    return sharded


def split(tree: Any, tensors: dict[str, Tensor], place: str = "") -> Any:
    """What JSON can hold of a state; its tensors go into `tensors` by their place in it."""
    if isinstance(tree, Tensor):
        tensors[place] = tree.detach()
        return {TENSOR: place}
    if isinstance(tree, dict):
        items = [[key, split(value, tensors, f"{place}/{key}")] for key, value in tree.items()]
        return {ITEMS: items}
    if isinstance(tree, list | tuple):
        return [split(value, tensors, f"{place}/{i}") for i, value in enumerate(tree)]
    return tree


def joined(plain: Any, tensors: dict[str, Tensor]) -> Any:
    """The state that `split` took apart."""
    if isinstance(plain, list):
        return [joined(value, tensors) for value in plain]
    if isinstance(plain, dict) and TENSOR in plain:
        return tensors[plain[TENSOR]]
    if isinstance(plain, dict):
        return {key: joined(value, tensors) for key, value in plain[ITEMS]}
    return plain


def read_sharded(folder: str | Path) -> dict[str, Any]:
    """The state that a .ckpt would hold, its tensors put together from all parts.

    Raises:
        UserError: a part is missing or damaged.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        plain = json.loads(Path(folder, STATE).read_text(encoding="utf-8"))
        metadata = dcp.HuggingFaceStorageReader(str(folder)).read_metadata()
        tensors = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)
        return joined(plain, tensors)
    except Exception as error:  # of files, JSON, safetensors, planners
        reason = " ".join(first_line(error).split())[:120] or type(error).__name__
        raise UserError(
            f"checkpoint '{folder}' is incomplete or damaged ({reason}); all its files have to be"
            " there"
        ) from None

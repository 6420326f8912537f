"""Saving what no process holds alone: each writes its part of a checkpoint, the first writes what
is no tensor last. And optimizer states back to their shares.
"""

import json
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from taming.files import write_atomically
from taming.formats.sharded import ENDING, STATE, split


def save_sharded(state: dict, folder: Path, name: str, batches: int) -> Path:
    """Writes `folder/NAME-BATCHES.sharded`, and removes earlier ones of this name; every process
    has to call this.

    Raises:
        UserError: the disk is full ...
    """
    path = folder / f"{name}-{batches:08d}{ENDING}"
    tensors: dict[str, Tensor] = {}
    plain = split(state, tensors)
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    if dist.get_rank() == 0:
        shutil.rmtree(path, ignore_errors=True)  # of a run that was killed here
        path.mkdir(parents=True)
    dist.barrier()
    dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(path), save_distributed=True))
    dist.barrier()
    if dist.get_rank() == 0:
        text = json.dumps(plain)
        write_atomically(path / STATE, lambda file: file.write_text(text, encoding="utf-8"))
        for earlier in folder.glob(f"{name}-*{ENDING}"):
            if earlier != path:
                shutil.rmtree(earlier, ignore_errors=True)
    return path


def spread_states(optimizer: torch.optim.Optimizer, state: dict) -> dict:
    """An optimizer's state whose moments are spread as its weights are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    entries = {}
    for number, entry in state["state"].items():
        parameter = parameters[int(number)]
        entries[number] = {
            key: distribute_tensor(value, parameter.device_mesh, parameter.placements)
            if isinstance(parameter, DTensor) and value.shape == parameter.shape
            else value
            for key, value in entry.items()
        }
    return {**state, "state": entries}

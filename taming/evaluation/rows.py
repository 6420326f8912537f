"""Numbers per picture, on disk: measured in batches of any size, by any number of processes,
interrupted and taken up again, and read in the pictures' order.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate
from tqdm import tqdm

from taming.errors import UserError

Rows = dict[str, np.ndarray]
"""What was measured, one row per picture; arrays live on disk."""


@dataclass
class RowStore:
    """Where rows are kept and how they are made. folder: one for each stamp, so that what was
    measured otherwise is never taken up.
    """

    folder: Path
    batch_size: int = 32
    device: torch.device = torch.device("cpu")

    @property
    def rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0

    @property
    def world(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1

    def wait(self) -> None:
        if dist.is_initialized():
            dist.barrier()


def processes() -> None:
    """Under torchrun: joins the others."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")


def measure(
    name: str,
    dataset: Dataset,
    function: Callable[[dict], dict[str, Tensor]],
    place: RowStore,
    mark: str = "",
) -> Rows:
    """function: a batch -> tensors (B, ...), each row of which depends on its own picture only.
    mark: rows with another one are not taken up. Pictures that are done are not measured again.
    With several processes all return the same rows, so every figure is that of one.
    """
    if not len(dataset):
        raise UserError(f"{name}: there are no pictures to measure")
    folder = place.folder / f"{name} {mark}".strip()
    if place.rank == 0 and not (folder / "done.npy").is_file():
        first = _measured(function, dataset, [0], place)
        folder.mkdir(parents=True, exist_ok=True)
        for key, value in first.items():
            np.lib.format.open_memmap(
                folder / f"{key}.values.npy", "w+", value.dtype, (len(dataset), *value.shape[1:])
            ).flush()
        done = np.lib.format.open_memmap(folder / ".done.tmp", "w+", np.uint8, (len(dataset),))
        done.flush()
        # Last, so that a kill before it starts anew
        (folder / ".done.tmp").rename(folder / "done.npy")
    place.wait()
    done = np.load(folder / "done.npy", mmap_mode="r+")
    rows = {
        path.name.removesuffix(".values.npy"): np.load(path, mmap_mode="r+")
        for path in sorted(folder.glob("*.values.npy"))
    }
    left = np.flatnonzero(done == 0)
    parts = [left[i : i + place.batch_size] for i in range(0, len(left), place.batch_size)]
    place.wait()  # nobody marks a row before all have read which are left
    bar = tqdm(
        total=len(dataset),
        initial=len(dataset) - len(left),
        desc=name,
        unit="picture",
        disable=None if place.rank == 0 else True,
        file=sys.stderr,
    )
    for number, part in enumerate(parts):
        if number % place.world == place.rank:
            for key, value in _measured(function, dataset, part.tolist(), place).items():
                rows[key][part] = value
                rows[key].flush()
            done[part] = 1
            done.flush()
        bar.update(len(part))
    bar.close()
    place.wait()
    for key, values in rows.items():
        finite = (
            np.isfinite(values).reshape(len(values), -1).all(axis=1)
            if np.issubdtype(values.dtype, np.floating)
            else np.ones(1, bool)
        )
        if not finite.all():
            which = int(np.flatnonzero(~finite)[0])
            raise UserError(
                f"{name}: {key} of picture {which} ({_name(dataset, which)}) is NaN or infinite;"
                " does the network fit these pictures?"
            )
    return rows


@torch.no_grad()
def _measured(
    function: Callable, dataset: Dataset, indices: list[int], place: RowStore
) -> dict[str, np.ndarray]:
    batch = next(
        iter(
            DataLoader(
                Subset(dataset, indices),
                batch_size=len(indices),
                collate_fn=together,
                generator=torch.Generator(),
            )
        )
    )
    batch = {k: v.to(place.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    return {key: value.detach().cpu().numpy() for key, value in function(batch).items()}


def together(items: list[dict]) -> dict:
    """Stacks tensors and numbers; names become a list. Raises UserError for pictures of different
    sizes.
    """
    for key in items[0]:
        sizes = {
            tuple(item[key].shape[-2:]): item.get("name")
            for item in items
            if isinstance(item[key], Tensor) and item[key].ndim >= 2
        }
        if len(sizes) > 1:
            (one, first), (other, second) = list(sizes.items())[:2]
            raise UserError(
                f"'{first}' is {one[0]}x{one[1]} and '{second}' {other[0]}x{other[1]} (height x"
                " width); give --size HxW to bring all to one size"
            )
    names = [item["name"] for item in items if "name" in item]
    batch = default_collate([{k: v for k, v in item.items() if k != "name"} for item in items])
    return {**batch, "name": names} if names else batch


def _name(dataset: Dataset, index: int) -> str:
    name = dataset[index].get("name", "no name")
    return str(name)

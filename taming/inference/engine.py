"""What batch engines (Ray Data, Spark) call: pictures -> codes, the model loaded once in each of
their workers. Recipes: docs/engines.md.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taming.data.reading import CorruptImage, Member, read_image, to_tensor
from taming.data.views import View
from taming.errors import UserError
from taming.first_stage.interface import FirstStage
from taming.inference.models import first_stage_of
from taming.inference.share import share_of_process


class BatchEncoder:
    """Pictures (paths, URLs' bytes) -> their codes. The model is loaded at the first call, so that
    what an engine sends to its workers is a few words.

    Args:
        checkpoint: whatever `taming.load` takes, by a path that all workers see.
        size: (H, W) or one side that pictures are resized and cropped to.
        batch_size: pictures that are encoded at once.
        threads: of torch in each worker; engines start as many workers as there are cores.
    """

    def __init__(
        self,
        checkpoint: str,
        size: int | tuple[int, int],
        batch_size: int = 32,
        threads: int | None = None,
    ):
        self.checkpoint, self.batch_size, self.threads = checkpoint, batch_size, threads
        self.view = View(size, flip=False, upscale=True)
        self.model: FirstStage | None = None

    def __call__(self, pictures: Sequence[str | bytes]) -> dict[str, Any]:
        """Encodes pictures in their fixed view.

        Args:
            pictures: a path or the bytes of a file each.

        Returns:
            "codes": (pictures, codes of all levels, row by row), 16 bits each where the codebook
            allows it; "problem": in one line, empty where a picture could be used. Codes of others
            are 0.
        """
        model = self._loaded()
        tensors, problems = [], []
        for number, picture in enumerate(pictures):
            try:
                tensors.append(self._tensor(picture, number))
                problems.append("")
            except CorruptImage as error:
                tensors.append(None)
                problems.append(str(error))
        usable = [tensor for tensor in tensors if tensor is not None]
        rows = [self._codes(model, part) for part in _parts(usable, self.batch_size)]
        table = np.zeros((len(tensors), self._length(model)), _kind(model))
        if rows:
            table[[tensor is not None for tensor in tensors]] = np.concatenate(rows)
        return {"codes": table, "problem": problems}

    def _loaded(self) -> FirstStage:
        if self.model is None:
            if self.threads:
                torch.set_num_threads(self.threads)
            model = first_stage_of(self.checkpoint)
            if not isinstance(model, FirstStage):
                raise UserError(f"'{self.checkpoint}' is a {type(model).__name__}, without codes")
            self.model = model.to(share_of_process().device)
        return self.model

    def _tensor(self, picture: str | bytes, number: int) -> torch.Tensor:
        named = isinstance(picture, str)
        image = read_image(Path(picture) if named else Member(picture, f"picture {number}"))
        box, _ = self.view.box(*image.size, number, None, str(picture) if named else "a picture")
        return to_tensor(self.view.image(image, box, False))

    @torch.no_grad()
    def _codes(self, model: FirstStage, pictures: list[torch.Tensor]) -> np.ndarray:
        device = next(model.parameters()).device
        levels = model.encode(torch.stack(pictures).to(device))
        return torch.cat([level.flatten(1) for level in levels], dim=1).cpu().numpy()

    def _length(self, model: FirstStage) -> int:
        return sum(height * width for height, width in model.grids(*self.view.size))

    def __getstate__(self) -> dict:
        return {**vars(self), "model": None}


@cache
def encoder_of(checkpoint: str, size: int) -> BatchEncoder:
    """The same one at each call of a process, for engines whose tasks are functions."""
    return BatchEncoder(checkpoint, size, threads=1)


def _kind(model: FirstStage) -> type:
    return np.uint16 if max(model.num_codes) <= 2**16 else np.uint32


def _parts(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]

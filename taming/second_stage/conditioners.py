"""What a prior can be told: nothing, a class, an encoded image such as a mask."""

import torch
from torch import Tensor

from taming.errors import UserError
from taming.first_stage.interface import FirstStage
from taming.images import colour_labels
from taming.second_stage.interface import Condition, Conditioner, Part


class Unconditional(Conditioner):
    """One start token. The number of pictures is batch["count"] where that is a number, else the length of any tensor in the batch."""

    def forward(self, batch: dict) -> Condition:
        tensors = [v for v in batch.values() if isinstance(v, Tensor)]
        count = batch["count"] if isinstance(batch.get("count"), int) else len(tensors[0])
        return (Part(torch.zeros(count, 1, dtype=torch.int64, device=tensors[0].device if tensors else None), 1),)


class ClassLabel(Conditioner):
    """batch[key]: int64 (B,) in [0, classes)."""

    def __init__(self, classes: int, key: str = "class"):
        super().__init__()
        self.classes, self.key = classes, key

    def forward(self, batch: dict) -> Condition:
        labels = _entry(batch, self.key)
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise UserError(f"class {int(labels.max())} is asked for, but this prior knows 0 to {self.classes - 1}")
        return (Part(labels.view(-1, 1).long(), self.classes),)


class EncodedImage(Conditioner):
    """The codes of another picture of the same scene: its mask, depth, edges, or a coarse version, by a first stage that read such pictures.

    first_stage: the tokenizer; its `key` says which entry of the batch it reads.
    """

    def __init__(self, first_stage: FirstStage):
        super().__init__()
        self.first_stage = first_stage.requires_grad_(False)

    @property
    def key(self) -> str:
        return self.first_stage.key

    def forward(self, batch: dict) -> Condition:
        return tuple(
            Part(codes.flatten(1), vocabulary, tuple(codes.shape[1:]))
            for codes, vocabulary in zip(self.first_stage.encode(_entry(batch, self.key)), self.first_stage.num_codes)
        )

    def picture(self, batch: dict) -> Tensor:
        shown = _entry(batch, self.key)
        if not shown.is_floating_point():
            return colour_labels(shown, self.first_stage.labels)
        return shown if shown.shape[1] == 3 else shown.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)


def _entry(batch: dict, key: str):
    if key not in batch:
        raise UserError(f"the prior is conditioned on '{key}', but the batch has {', '.join(batch) or 'nothing'}")
    return batch[key]

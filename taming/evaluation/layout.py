"""How faithful pictures are to the layout that they were drawn from, as a segmenter finds it."""

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

from taming.evaluation.reconstruction import label_figures
from taming.evaluation.segmenter import confusions
from taming.evaluation.statistics import Estimate
from taming.first_stage.interface import Autoencoder


class Judge:
    """segmenter: pictures (B, 3, H, W) in [-1, 1] -> logits (B, labels, H, W)."""

    def __init__(self, segmenter: nn.Module, labels: int):
        self.segmenter, self.labels = segmenter, labels

    def confusion(self, masks: Tensor, images: Tensor) -> Tensor:
        return confusions(masks, self.segmenter(images).argmax(dim=1), self.labels)

    def samples(self, batch: dict) -> dict[str, Tensor]:
        """With the mask that each was drawn from, and with another one's: what an unfaithful model would get."""
        found = self.segmenter(batch["image"]).argmax(dim=1)
        return {name: confusions(batch[key], found, self.labels) for name, key in (("given", "segmentation"), ("other", "other"))}

    def pictures(self, first: Autoencoder | None) -> Callable[[dict], dict[str, Tensor]]:
        """Of real pictures, and, with a first stage of pictures, of what it makes of them."""

        def measured(batch: dict) -> dict[str, Tensor]:
            found = {"real": self.confusion(batch["segmentation"], batch["image"])}
            if first is not None and first.key == "image":
                found["reconstructed"] = self.confusion(batch["segmentation"], first.reconstruct(batch["image"]).clamp(-1, 1))
            return found

        return measured


def figures(confusion: np.ndarray, name: str, seed: int) -> dict[str, Estimate]:
    """NAME_accuracy, NAME_iou."""
    found = label_figures(np.asarray(confusion), seed)
    return {f"{name}_accuracy": found["accuracy"], f"{name}_iou": found["mean_iou"]}

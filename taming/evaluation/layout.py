"""How faithful pictures are to the layout that they were drawn from, as a segmenter finds it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from taming.errors import UserError
from taming.evaluation.intervals import Estimate, bootstrap
from taming.first_stage.interface import Autoencoder


class Judge:
    """segmenter: pictures (B, 3, H, W) in [-1, 1] -> logits (B, labels, H, W)."""

    def __init__(self, segmenter: nn.Module, labels: int):
        self.segmenter, self.labels = segmenter, labels

    def confusion(self, masks: Tensor, images: Tensor) -> Tensor:
        return confusions(masks, self.segmenter(images).argmax(dim=1), self.labels)

    def samples(self, batch: dict) -> dict[str, Tensor]:
        """With the mask that each was drawn from, and with another one's: what an unfaithful model
        would get.
        """
        found = self.segmenter(batch["image"]).argmax(dim=1)
        return {
            name: confusions(batch[key], found, self.labels)
            for name, key in (("given", "segmentation"), ("other", "other"))
        }

    def pictures(self, first: Autoencoder | None) -> Callable[[dict], dict[str, Tensor]]:
        """Of real pictures, and, with a first stage of pictures, of what it makes of them."""

        def measured(batch: dict) -> dict[str, Tensor]:
            found = {"real": self.confusion(batch["segmentation"], batch["image"])}
            if first is not None and first.key == "image":
                found["reconstructed"] = self.confusion(
                    batch["segmentation"], first.reconstruct(batch["image"]).clamp(-1, 1)
                )
            return found

        return measured


def figures(confusion: np.ndarray, name: str, seed: int) -> dict[str, Estimate]:
    """NAME_accuracy, NAME_iou."""
    found = label_figures(np.asarray(confusion), seed)
    return {f"{name}_accuracy": found["accuracy"], f"{name}_iou": found["mean_iou"]}


def confusions(given: Tensor, found: Tensor, labels: int) -> Tensor:
    """How many pixels have label i in `given` and j in `found`, both (B, H, W): (B, labels, labels)."""
    if given.shape != found.shape:
        raise UserError(
            f"a mask of {tuple(given.shape[-2:])} was given for a picture of"
            f" {tuple(found.shape[-2:])}"
        )
    highest = int(torch.maximum(given.max(), found.max()))
    if highest >= labels:
        raise UserError(
            f"a mask holds label {highest}, but the segmenter knows 0 to {labels - 1}; was it"
            " trained on other classes?"
        )
    joint = (given * labels + found).flatten(1)
    counted = torch.zeros(
        len(joint), labels * labels, dtype=torch.int64, device=joint.device
    ).scatter_add_(1, joint, torch.ones_like(joint))
    return counted.view(-1, labels, labels)


def accuracy(confusion) -> float:
    """Share of pixels with the right label, of a confusion matrix (labels, labels)."""
    return float(confusion.diagonal().sum() / confusion.sum())


def mean_iou(confusion) -> float:
    """Mean over the labels that occur, in `given` or `found`, of intersection over union."""
    right = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - right
    there = union > 0
    return float((right[there] / union[there]).mean())


def label_figures(confusion: np.ndarray, seed: int) -> dict[str, Estimate]:
    """Of confusion matrices per picture (N, labels, labels): accuracy over all pixels, mean IoU
    over the labels that occur.
    """
    flat, labels = confusion.reshape(len(confusion), -1), confusion.shape[-1]
    sums = lambda weights: (weights @ flat).reshape(labels, labels)  # noqa: E731
    return {
        "accuracy": bootstrap(len(flat), lambda w: accuracy(sums(w)), seed),
        "mean_iou": bootstrap(len(flat), lambda w: mean_iou(sums(w)), seed),
    }

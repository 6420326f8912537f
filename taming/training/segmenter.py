"""A small U-Net (Ronneberger et al. 2015, arXiv 1505.04597) that finds the layout in a picture: the
judge of how faithful samples are to their masks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from taming.errors import UserError
from taming.evaluation.layout import accuracy, confusions, mean_iou
from taming.images import colour_labels, montage
from taming.segmenter import Segmenter
from taming.training.module import Training, adam


class SegmenterTraining(Training):
    """Cross-entropy of the labels; pictures are also shown blurred, because samples and
    reconstructions are.
    """

    stage = "segmenter"
    monitor = "cross_entropy"

    def configure_optimizers(self):
        return adam(
            [{"params": list(self.model.parameters())}],
            self.experiment.optimizer,
            self.experiment.optimizer.learning_rate,
        )

    def micro_batch(self, batch: dict, last: bool) -> dict[str, Tensor]:
        batch = self.to_device(batch)
        image, labels = softened(batch["image"]), batch["segmentation"]
        loss = F.cross_entropy(self.model(image), labels)
        self.manual_backward(loss / self.experiment.trainer.accumulate_grad_batches)
        if last:
            self.step(self.optimizers(), self.model.parameters(), counts=True)
        return {"cross_entropy": loss.detach()}

    def validation_sums(self, batch: dict) -> dict[str, Tensor]:
        logits, labels = self.evaluated()(batch["image"]), batch["segmentation"]
        return {
            "cross_entropy": F.cross_entropy(logits, labels, reduction="sum"),
            "confusion": (
                confusions(labels, logits.argmax(dim=1), self.model.labels).sum(dim=0).double()
            ),
        }

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        confusion = sums["confusion"]
        return {
            "cross_entropy": float(sums["cross_entropy"] / confusion.sum()),
            "accuracy": accuracy(confusion),
            "mean_iou": mean_iou(confusion),
        }

    def draw(self, batch: dict) -> Tensor:
        """Picture, its mask, the mask found."""
        found = self.evaluated()(batch["image"]).argmax(dim=1)
        return montage(
            [
                batch["image"],
                *(
                    colour_labels(labels, self.model.labels)
                    for labels in (batch["segmentation"], found)
                ),
            ]
        )


def softened(image: Tensor) -> Tensor:
    """Each picture, with even chances, as it is, or averaged down to half or a quarter of its size
    and back.
    """
    choice = torch.randint(3, (len(image), 1, 1, 1), device=image.device)
    for number, factor in ((1, 2), (2, 4)):
        small = F.interpolate(image, scale_factor=1 / factor, mode="area")
        image = torch.where(
            choice == number, F.interpolate(small, image.shape[-2:], mode="bilinear"), image
        )
    return image


def check_sets(model: Segmenter, sets: list) -> None:
    """Data sets have masks, and no more labels than the model."""
    for name, dataset in zip(("train", "validation"), sets):
        if dataset is not None and "segmentation" not in dataset[0]:
            raise UserError(
                f"data.{name}: a segmenter learns from masks, and {type(dataset).__name__} has"
                " none; take taming.data.SegmentedImages"
            )
        if dataset is not None and len(getattr(dataset, "classes", ())) > model.labels:
            raise UserError(
                f"model.params.labels: {model.labels}, but data.{name} has {len(dataset.classes)}"
                f" classes; set it to {len(dataset.classes)}"
            )

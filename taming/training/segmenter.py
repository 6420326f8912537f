"""Training the segmenter, which measures how faithful samples are to their masks."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from taming.data.interface import PictureSet
from taming.errors import UserError
from taming.evaluation.layout import accuracy, confusions, mean_iou
from taming.first_stage.inputs import label_loss
from taming.first_stage.interface import precise
from taming.images import colour_labels, montage
from taming.segmenter import Segmenter
from taming.training.module import Training, adam


class SegmenterTraining(Training):
    """Cross-entropy of the labels; some pictures are blurred, because samples and reconstructions
    are.
    """

    stage = "segmenter"
    monitor = "cross_entropy"
    model: Segmenter

    def configure_optimizers(self):
        optimizer = self.experiment.optimizer
        groups = [{"params": list(self.model.parameters())}]
        return adam(groups, optimizer, optimizer.learning_rate)

    def micro_batch(self, batch: dict, last: bool) -> dict[str, Tensor]:
        batch = self.to_device(batch)
        image, labels = softened(batch["image"]), batch["segmentation"]
        loss = label_loss(self.model(image), labels)
        self.manual_backward(loss / self.experiment.trainer.accumulate_grad_batches)
        if last:
            self.step(self.optimizers(), self.model.parameters(), counts=True)
        return {"cross_entropy": loss.detach()}

    def validation_sums(self, batch: dict) -> dict[str, Tensor]:
        logits, labels = self.evaluated()(batch["image"]), batch["segmentation"]
        confusion = confusions(labels, logits.argmax(dim=1), self.model.labels)
        dtype = precise(logits.device)
        return {
            "cross_entropy": label_loss(logits, labels).to(dtype) * confusion.sum(),
            "confusion": confusion.sum(dim=0).to(dtype),
        }

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        confusion = sums["confusion"]
        return {
            "cross_entropy": float(sums["cross_entropy"] / confusion.sum()),
            "accuracy": accuracy(confusion),
            "mean_iou": mean_iou(confusion),
        }

    def draw(self, batch: dict) -> Tensor:
        """Picture, its mask, the predicted mask."""
        predicted = self.evaluated()(batch["image"]).argmax(dim=1)
        masks = [colour_labels(m, self.model.labels) for m in (batch["segmentation"], predicted)]
        return montage([batch["image"], *masks])


def softened(image: Tensor) -> Tensor:
    """Each picture, with equal chances, as it is, or averaged down to half or a quarter of its size
    and back.
    """
    choice = torch.randint(3, (len(image), 1, 1, 1), device=image.device)
    for number, factor in ((1, 2), (2, 4)):
        small = F.interpolate(image, scale_factor=1 / factor, mode="area")
        blurred = F.interpolate(small, image.shape[-2:], mode="bilinear")
        image = torch.where(choice == number, blurred, image)
    return image


def check_masks(model: Segmenter, sets: Iterable[PictureSet | None]) -> None:
    """Data sets have masks, and no more labels than the model."""
    for name, dataset in zip(("train", "validation"), sets):
        if dataset is None:
            continue
        if "segmentation" not in dataset[0]:
            raise UserError(
                f"data.{name}: a segmenter learns from masks, and {type(dataset).__name__} has"
                " none; take taming.data.SegmentedImages"
            )
        count = len(getattr(dataset, "classes", ()))
        if count > model.labels:
            raise UserError(
                f"model.params.labels: {model.labels}, but data.{name} has {count} classes; set it"
                f" to {count}"
            )

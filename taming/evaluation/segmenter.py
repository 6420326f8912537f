"""A small U-Net (Ronneberger et al. 2015, arXiv 1505.04597) that finds the layout in a picture: the judge of how faithful samples are to their masks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.errors import UserError
from taming.images import colour_labels, grid
from taming.training import Training, adam


class Segmenter(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] -> logits (B, labels, H, W); any size. depth: how often the resolution is halved."""

    def __init__(self, labels: int, width: int = 32, depth: int = 4):
        super().__init__()
        if labels < 2 or depth < 1:
            raise ValueError(f"labels {labels} should be at least 2, depth {depth} at least 1")
        self.labels, self.multiple = labels, 2**depth
        widths = [width * min(2**i, 8) for i in range(depth + 1)]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip([3, *widths], widths))
        self.up = nn.ModuleList(_block(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1]))
        self.head = nn.Conv2d(width, labels, 1)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        h, seen = F.pad(image, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate"), []
        for level, block in enumerate(self.down):
            h = block(h if level == 0 else F.max_pool2d(h, 2))
            seen.append(h)
        for block, skip in zip(self.up, seen[-2::-1]):
            h = block(torch.cat([F.interpolate(h, scale_factor=2.0, mode="nearest"), skip], dim=1))
        return self.head(h)[..., :height, :width]


def _block(inside: int, outside: int) -> nn.Sequential:
    layers = []
    for channels in (inside, outside):
        layers += [nn.Conv2d(channels, outside, 3, padding=1, bias=False), nn.GroupNorm(8, outside), nn.SiLU()]
    return nn.Sequential(*layers)


class SegmenterTraining(Training):
    """Cross-entropy of the labels; pictures are also shown blurred, because samples and reconstructions are."""

    stage = "segmenter"
    monitor = "cross_entropy"

    def configure_optimizers(self):
        return adam([{"params": list(self.model.parameters())}], self.experiment.optimizer, self.experiment.optimizer.learning_rate)

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
            "confusion": confusions(labels, logits.argmax(dim=1), self.model.labels).sum(dim=0).double(),
        }

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        confusion = sums["confusion"]
        return {"cross_entropy": float(sums["cross_entropy"] / confusion.sum()), "accuracy": accuracy(confusion), "mean_iou": mean_iou(confusion)}

    def draw(self, batch: dict) -> Tensor:
        """Picture, its mask, the mask found."""
        found = self.evaluated()(batch["image"]).argmax(dim=1)
        return grid([batch["image"], *(colour_labels(labels, self.model.labels) for labels in (batch["segmentation"], found))])


def softened(image: Tensor) -> Tensor:
    """Each picture, with even chances, as it is, or averaged down to half or a quarter of its size and back."""
    choice = torch.randint(3, (len(image), 1, 1, 1), device=image.device)
    for number, factor in ((1, 2), (2, 4)):
        small = F.interpolate(image, scale_factor=1 / factor, mode="area")
        image = torch.where(choice == number, F.interpolate(small, image.shape[-2:], mode="bilinear"), image)
    return image


def confusions(given: Tensor, found: Tensor, labels: int) -> Tensor:
    """How many pixels have label i in `given` and j in `found`, both (B, H, W): (B, labels, labels)."""
    if given.shape != found.shape:
        raise UserError(f"a mask of {tuple(given.shape[-2:])} was given for a picture of {tuple(found.shape[-2:])}")
    highest = int(torch.maximum(given.max(), found.max()))
    if highest >= labels:
        raise UserError(f"a mask holds label {highest}, but the segmenter knows 0 to {labels - 1}; was it trained on other classes?")
    joint = (given * labels + found).flatten(1)
    counted = torch.zeros(len(joint), labels * labels, dtype=torch.int64, device=joint.device).scatter_add_(1, joint, torch.ones_like(joint))
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


def check_sets(model: Segmenter, sets: list) -> None:
    """Data sets have masks, and no more labels than the model."""
    for name, dataset in zip(("train", "validation"), sets):
        if dataset is not None and "segmentation" not in dataset[0]:
            raise UserError(f"data.{name}: a segmenter learns from masks, and {type(dataset).__name__} has none; take taming.data.SegmentedImages")
        if dataset is not None and len(getattr(dataset, "classes", ())) > model.labels:
            raise UserError(f"model.params.labels: {model.labels}, but data.{name} has {len(dataset.classes)} classes; set it to {len(dataset.classes)}")

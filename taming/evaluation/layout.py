"""How faithful pictures are to the layout that they were drawn from, as a segmenter finds it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from taming.errors import UserError
from taming.evaluation.intervals import Estimate, bootstrap
from taming.evaluation.rows import Measurer
from taming.evaluation.session import Session
from taming.first_stage.interface import Autoencoder
from taming.images import IGNORE
from taming.inference.models import labels_of

Stamp = dict[str, Any]


def evaluate(session: Session) -> None:
    """layout_iou, layout_accuracy, and their floor and ceiling."""
    samples = session.samples
    if samples is None:
        return
    if session.segmenter is None:
        session.figures.missing.append(
            "faithfulness to the layout: give --segmenter CKPT (taming train -b"
            " configs/segmenter/...)"
        )
        return
    judge = judge_of(session.segmenter, samples[0]["image"])
    stamp, seed = session.segmenter_stamp, session.request.seed
    # 1. the samples, beside what an unfaithful model would get
    if samples.layouts:
        rows = session.measure("layouts of samples", samples, judge.samples)
        sampled = session.stamp(dataset=samples, sampling=samples.protocol(), **stamp)
        session.add(
            judge.figures(rows["given"], "layout", seed),
            sampled,
            "the mask given against the mask found in the sample",
        )
        session.add(
            figures(rows["other"], "layout_floor", seed),
            sampled,
            "against the mask of another sample, chosen at random",
        )
    else:
        session.figures.missing.append(
            "faithfulness to the layout: the samples do not say which masks they were drawn from"
            " (PNGs of taming sample do)"
        )
    # 2. real pictures and their reconstructions
    if not {"segmentation", "image"} <= session.data[0].keys():
        session.figures.missing.append("the ceiling of faithfulness: the pictures have no masks")
        return
    rows = session.measure("layouts of pictures", session.data, judge.pictures(session.first))
    for key, name, note in (
        ("real", "layout_real", "ceiling: the mask found in real pictures"),
        ("reconstructed", "layout_reconstructed", "the mask found in reconstructions"),
    ):
        if key in rows:
            session.add(judge.figures(rows[key], name, seed), session.stamp(**stamp), note)


def judge_of(segmenter: nn.Module, image: Tensor) -> "Judge":
    """By any module; `image` (3, H, W) is one that it reads."""
    labels = getattr(segmenter, "labels", None)
    if not isinstance(labels, int):
        labels = int(segmenter(image[None]).shape[1])
    legend = labels_of(segmenter)
    return Judge(segmenter, labels, legend.names if legend else ())


class Judge:
    """Confusion matrices of layouts, for `rows.measure`.

    Args:
        segmenter: pictures (B, 3, H, W) in [-1, 1] -> logits (B, labels, H, W).
        labels: how many.
        names: of the labels, where they are known.
    """

    def __init__(self, segmenter: nn.Module, labels: int, names: Sequence[str] = ()):
        self.segmenter, self.labels = segmenter, labels
        self.names = names if len(names) == labels else [f"label {i}" for i in range(labels)]

    def confusion(self, masks: Tensor, images: Tensor) -> Tensor:
        return confusions(masks, self.segmenter(images).argmax(dim=1), self.labels)

    def samples(self, batch: dict) -> dict[str, Tensor]:
        """With the mask that each was drawn from, and with another one's: what an unfaithful model
        would get.
        """
        labels = self.segmenter(batch["image"]).argmax(dim=1)
        return {
            "given": confusions(batch["segmentation"], labels, self.labels),
            "other": confusions(batch["other"], labels, self.labels),
        }

    def pictures(self, first: Autoencoder | None) -> Measurer:
        """Of real pictures, and, with a first stage of pictures, of their reconstructions."""

        def measured(batch: dict) -> dict[str, Tensor]:
            masks = batch["segmentation"]
            rows = {"real": self.confusion(masks, batch["image"])}
            if first is not None and first.key == "image":
                again = first.reconstruct(batch["image"]).clamp(-1, 1)
                rows["reconstructed"] = self.confusion(masks, again)
            return rows

        return measured

    def figures(self, confusion: np.ndarray, name: str, seed: int) -> dict[str, Estimate]:
        """NAME_accuracy, NAME_iou, and NAME_iou_LABEL of each label that occurs."""
        confusion = np.asarray(confusion)
        total, estimates = confusion.sum(axis=0), figures(confusion, name, seed)
        for index, label in enumerate(self.names):
            if total[index].any():
                iou = _label_iou(confusion, index)
                estimates[f"{name}_iou_{label}"] = bootstrap(len(confusion), iou, seed)
        return estimates


def _label_iou(confusion: np.ndarray, label: int) -> Callable[[np.ndarray], float]:
    """Of one label, for weighted pictures: pixels where mask and prediction say it, over those
    where either does.
    """
    both = confusion[:, label, label]
    either = confusion[:, label].sum(axis=1) + confusion[:, :, label].sum(axis=1) - both

    def iou(weights: np.ndarray) -> float:
        return float(weights @ both / max(weights @ either, 1))

    return iou


def figures(confusion: np.ndarray, name: str, seed: int) -> dict[str, Estimate]:
    """NAME_accuracy, NAME_iou."""
    estimates = label_figures(np.asarray(confusion), seed)
    return {f"{name}_accuracy": estimates["accuracy"], f"{name}_iou": estimates["mean_iou"]}


def confusions(masks: Tensor, predictions: Tensor, labels: int) -> Tensor:
    """How many pixels have label i in the mask and j in the prediction, (B, labels, labels).

    Args:
        masks: int64 (B, H, W) in [0, labels); pixels with IGNORE do not count.
        predictions: int64 (B, H, W) in [0, labels).
        labels: how many.
    """
    if masks.shape != predictions.shape:
        raise UserError(
            f"masks are {masks.shape[-2]}x{masks.shape[-1]}, but their pictures"
            f" {predictions.shape[-2]}x{predictions.shape[-1]} (height x width); make them equal"
        )
    known = (masks != IGNORE) | (labels > IGNORE)
    masks = torch.where(known, masks, 0)
    lowest = int(torch.minimum(masks.min(), predictions.min()))
    highest = int(torch.maximum(masks.max(), predictions.max()))
    if lowest < 0 or highest >= labels:
        raise UserError(
            f"a mask holds label {highest if highest >= labels else lowest}, but the segmenter"
            f" knows 0 to {labels - 1}; was it trained on other classes?"
        )
    joint = (masks * labels + predictions).flatten(1)
    counts = torch.zeros(len(joint), labels * labels, dtype=torch.int64, device=joint.device)
    return counts.scatter_add_(1, joint, known.flatten(1).long()).view(-1, labels, labels)


def accuracy(confusion) -> float:
    """Share of pixels with the right label, of a confusion matrix (labels, labels)."""
    return float(confusion.diagonal().sum() / confusion.sum())


def mean_iou(confusion) -> float:
    """Intersection over union, mean over the labels that occur in the mask or the prediction."""
    right = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - right
    occurs = union > 0
    return float((right[occurs] / union[occurs]).mean())


def label_figures(confusion: np.ndarray, seed: int) -> dict[str, Estimate]:
    """accuracy over all pixels, mean_iou over the labels that occur.

    Args:
        confusion: a matrix for each picture, (N, labels, labels).
        seed: of the bootstrap.
    """
    flat, labels = confusion.reshape(len(confusion), -1), confusion.shape[-1]

    def weighted(figure: Callable) -> Callable[[np.ndarray], float]:
        return lambda weights: figure((weights @ flat).reshape(labels, labels))

    return {
        "accuracy": bootstrap(len(flat), weighted(accuracy), seed),
        "mean_iou": bootstrap(len(flat), weighted(mean_iou), seed),
    }

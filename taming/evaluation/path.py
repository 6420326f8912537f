"""From photographs to samples: where a model loses most, by the same figures of what comes out of
each step on the way: reconstructions, reconstructions of perturbed codes, samples.

Codes perturbed as a prior errs (a share of them replaced by one of the 100 nearest, as Qiu et al.
2025, arXiv 2509.12474, do) say how much such errors cost by themselves: a decoder that falls apart
there limits every prior.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from taming.errors import UserError
from taming.evaluation import generation, reconstruction
from taming.evaluation.frechet import frechet
from taming.evaluation.intervals import Estimate, average
from taming.evaluation.layout import Judge, judge_of
from taming.evaluation.manifold import density_coverage, precision_recall
from taming.evaluation.protocol import Figures
from taming.evaluation.rows import Measurer
from taming.evaluation.session import Session
from taming.first_stage.interface import FirstStage
from taming.first_stage.perturbation import neighbours, perturbed
from taming.images import psnr

SHARE = 0.1  # of the codes of a picture that are replaced
STEPS = {
    "photographs": "_real",
    "reconstructions": "_reconstructed",
    "perturbed codes": "_perturbed",
    "samples": "",
}
"""What comes out of each step, and how its figures' names end."""
WITHIN = "within the intervals: too few pictures to say more"


def evaluate(session: Session) -> None:
    """fd_reconstructed, recall_reconstructed, coverage_reconstructed, the same ..._perturbed and,
    where there are training pictures, ..._real; psnr_perturbed; layouts of perturbed pictures
    where there is a segmenter and are masks.
    """
    first = session.first
    if not isinstance(first, FirstStage) or first.key != "image":
        return
    # 1. photographs, and reconstructions, whose features are measured already
    if session.network is not None and len(session.data) > 1:
        measured = {"fd_real", "fid_real"} & session.figures.figures.keys()
        if session.train is not None and not measured:
            _add_features(session, "real", generation.held_out_features(session))
        _add_features(session, "reconstructed", reconstruction.measured(session)["features"])
    # 2. the same of perturbed codes
    try:
        table = neighbours(first)
    except UserError as error:
        session.figures.missing.append(f"perturbed codes: {error}")
        return
    judge = None
    if session.segmenter is not None and "segmentation" in session.data[0]:
        judge = judge_of(session.segmenter, session.data[0]["image"])
    measurer = _measurer(session, first, table, judge)
    rows = session.measure("perturbed codes", session.data, measurer)
    note = f"{SHARE:.0%} of the codes replaced by one of the {table.shape[1]} nearest"
    seed = session.request.seed
    stamp = session.stamp(perturbed_share=SHARE, perturbed_nearest=table.shape[1])
    session.add({"psnr_perturbed": average(rows["psnr"], seed)}, stamp, note)
    if "features" in rows and len(session.data) > 1:
        _add_features(session, "perturbed", rows["features"], note)
    if judge is not None:
        figures = judge.figures(rows["layout"], "layout_perturbed", seed)
        session.add(figures, stamp | session.segmenter_stamp, note)


def _add_features(session: Session, ending: str, features: np.ndarray, note: str = "") -> None:
    """Distance, recall and coverage against the training pictures, where there are some, else
    against the pictures themselves, as samples are measured.
    """
    network = session.network
    assert network is not None
    real, source, against = generation.real_features(session)
    more: dict[str, Any] = {"perturbed_share": SHARE} if note else {}
    more |= {"against": against, "against_sha256": session.hash(source)}
    stamp = session.stamp(features=True, **more)
    fake, seed = np.asarray(features), session.request.seed
    figures: dict[str, Estimate] = {generation.names(network)["fd"]: frechet(real, fake, seed)}
    if min(len(real), len(fake)) >= generation.MANIFOLD:
        figures["recall"] = precision_recall(real, fake, seed=seed)["recall"]
        figures["coverage"] = density_coverage(real, fake, seed=seed)["coverage"]
    words = f"against {against}"
    session.add(
        {f"{name}_{ending}": value for name, value in figures.items()},
        stamp,
        f"{words}; {note}" if note else words,
    )


def _measurer(session: Session, first: FirstStage, table: Tensor, judge: Judge | None) -> Measurer:
    def measured(batch: dict) -> dict[str, Tensor]:
        original = batch["image"]
        (grids,) = first.encode(original)
        seeds = [(session.request.seed << 32) + int(index) for index in batch["index"]]
        pairs = zip(grids.cpu(), seeds)  # random numbers are drawn there
        changed = torch.stack([perturbed(grid, table, SHARE, seed) for grid, seed in pairs])
        image = first.decode((changed.to(original.device),)).clamp(-1, 1)
        rows = {"psnr": psnr(image, original).double()}
        if session.network is not None:
            rows["features"] = session.network(image)["features"]
        if judge is not None:
            rows["layout"] = judge.confusion(batch["segmentation"], image)
        return rows

    return measured


def table(figures: Figures) -> list[tuple[str, ...]]:
    """A row for each step, under a head whose first cell is empty; [] where nothing was measured of
    reconstructions.
    """
    columns = [name for name in _columns(figures) if _name(name, "_reconstructed") in figures]
    if not columns:
        return []
    rows = [("", *columns)]
    for step, ending in STEPS.items():
        cells = [_cell(figures, _name(name, ending)) for name in columns]
        if any(cells):
            rows.append((step, *cells))
    return rows


def label_table(figures: Figures) -> list[tuple[str, ...]]:
    """Intersection over union of each label, a row for each, a column for each step."""
    kinds = {step: f"layout{ending}_iou_" for step, ending in STEPS.items()}
    labels = dict.fromkeys(
        name.removeprefix(kind)
        for kind in kinds.values()
        for name in figures.figures
        if name.startswith(kind)
    )
    present = {
        step: kind
        for step, kind in kinds.items()
        if any(name.startswith(kind) for name in figures.figures)
    }
    if not labels:
        return []
    rows: list[tuple[str, ...]] = [("", *present)]
    for label in labels:
        rows.append((label, *(_cell(figures, kind + label) for kind in present.values())))
    return rows


def _columns(figures: Figures) -> list[str]:
    distance = "fid" if "fid_reconstructed" in figures else "fd"
    return [distance, "recall", "coverage", "layout_accuracy", "layout_iou"]


def _name(column: str, ending: str) -> str:
    """Endings come after the first word of a layout's figures."""
    if column.startswith("layout_"):
        return f"layout{ending}_{column.removeprefix('layout_')}"
    return column + ending


def _cell(figures: Figures, name: str) -> str:
    return f"{figures[name]:.4g}" if name in figures else ""


def verdict(figures: Figures) -> list[str]:
    """In words what limits a model: the tokenizer, the decoder's robustness, or the prior; [] where
    too little was measured.
    """
    lines = []
    distance = _columns(figures)[0]
    if f"{distance}_reconstructed" in figures:
        lines += _of_distance(figures, distance)
    if {"recall_reconstructed", "recall"} <= figures.figures.keys():
        lines += _of_recall(figures)
    return lines


def _of_distance(figures: Figures, distance: str) -> list[str]:
    """Of the way from photographs to samples, what share is gone after each step."""
    # 1. the distances along the way
    again = figures[f"{distance}_reconstructed"]
    real = figures[f"{distance}_real"] if f"{distance}_real" in figures else 0.0
    name = f"{distance}_perturbed"
    frail = figures[name] - again if name in figures else 0.0
    words = f"{SHARE:.0%} of codes replaced by near ones"
    # 2. without samples: the tokenizer, and whether its decoder is robust
    if distance not in figures:
        if name not in figures:
            return []
        near = _overlap(figures, f"{distance}_reconstructed", f"{distance}_real")
        if near and _overlap(figures, name, f"{distance}_reconstructed"):
            return [f"Reconstructions are as near as photographs, {WITHIN} ({distance})."]
        if frail > max(again - real, 0.0):
            return [
                f"The decoder is not robust: {words} move reconstructions {frail:.4g} further from"
                f" photographs ({distance}), more than the {again - real:.4g} that the tokenizer"
                " itself costs. Finish the decoder on perturbed codes, with codes frozen."
            ]
        return [
            f"The tokenizer limits: reconstructions are {again - real:.4g} further from photographs"
            f" than photographs are ({distance}); {words} add {frail:.4g}."
        ]
    # 3. with samples: who has the largest share
    total, tokenizer = figures[distance] - real, again - real
    if _overlap(figures, distance, f"{distance}_real"):
        return [f"Samples are as near as photographs, {WITHIN} ({distance})."]
    share = tokenizer / total
    first = (
        f"Of the {total:.4g} by which samples are further away than photographs ({distance}),"
        f" reconstructions have {tokenizer:.4g} ({share:.0%})"
    )
    if share >= 0.5:
        return [f"The tokenizer limits. {first}: no prior over these codes can do without them."]
    rest = total - tokenizer
    if frail >= 0.5 * rest:
        return [
            f"The decoder's robustness limits. {first}, and {words} alone {frail:.4g} more: finish"
            " the decoder on perturbed codes, with codes frozen."
        ]
    lines = f"The prior limits. {first}; the other {rest:.4g} come with its codes"
    return [f"{lines}, of which {words} would explain {frail:.4g}." if frail else f"{lines}."]


def _of_recall(figures: Figures) -> list[str]:
    """Where variety goes."""
    again, drawn = figures["recall_reconstructed"], figures["recall"]
    real = figures["recall_real"] if "recall_real" in figures else 1.0
    lost = f"recall {real:.2f} -> {again:.2f} (reconstructions) -> {drawn:.2f} (samples)"
    if real - drawn < 0.05:
        return [f"Variety is that of photographs: {lost}."]
    culprit = "the tokenizer" if real - again >= again - drawn else "the prior"
    return [f"Variety is lost mostly by {culprit}: {lost}."]


def _overlap(figures: Figures, one: str, other: str) -> bool:
    """Whether the interval of the first begins within that of the second."""
    if other not in figures:
        return False
    first, second = figures.figures[one], figures.figures[other]
    low = first.value if first.low is None else first.low
    high = second.value if second.high is None else second.high
    return low <= high


def text(figures: Figures) -> str:
    """Table, labels and verdict as Markdown; "" where nothing was measured."""
    parts = []
    for rows in (table(figures), label_table(figures)):
        if rows:
            head, *others = rows
            lines = [head, tuple("---" for _ in head), *others]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join([*parts, "\n".join(verdict(figures))]) if parts else ""

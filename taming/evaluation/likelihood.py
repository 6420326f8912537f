"""How well a prior predicts codes, beside what needs no network: the codes' frequencies, their
frequencies at each place, and nothing at all.
"""

import math

import numpy as np
import torch
from torch import Tensor

from taming.evaluation.codebook import counts
from taming.evaluation.intervals import Estimate, average
from taming.evaluation.rows import Measurer, Rows
from taming.evaluation.session import Session
from taming.second_stage.interface import Prior
from taming.second_stage.model import SecondStage

PSEUDOCOUNTS = tuple(10.0**i for i in range(7))  # that a base distribution may weigh


def evaluate(session: Session) -> None:
    """nll, bits, ...: see `figures`."""
    model, train = session.model, None
    if not isinstance(model, SecondStage):
        return
    measurer, more = measurer_of(model), {}
    rows = session.measure("likelihood", session.data, measurer)
    fitted = "nats, fitted to the very codes it is measured on"
    if session.train is not None:
        train = session.measure("likelihood of training pictures", session.train, measurer)
        fitted = "nats, fitted to training codes"
        more = {"train_pictures": len(session.train), "train_sha256": session.hash(session.train)}
    numbers = int(session.data[0][model.first_stage.key].numel())
    estimates = figures(rows, train, model.first_stage.num_codes, numbers, session.request.seed)
    for name, estimate in estimates.items():
        note = fitted if "unigram" in name else ""
        session.figures.add(name, estimate, session.stamp(**more), note)


def measurer_of(model: SecondStage, null: bool = False) -> Measurer:
    """What `rows.measure` calls with each batch: -log p(codes | condition) in nats and the codes,
    per picture and level.

    Args:
        null: with the null condition.
    """

    def measured(batch: dict) -> dict[str, Tensor]:
        codes = model.first_stage.encode(batch[model.first_stage.key])
        condition = model.conditioner(batch)
        condition = tuple(part.null() for part in condition) if null else condition
        rows = {}
        for level, grid in enumerate(codes):
            prior, parts = model.priors[level], model.with_coarser(condition, codes[:level])
            assert isinstance(prior, Prior)
            rows[f"nll_{level}"] = -prior.log_prob(grid, parts).double()
            rows[f"codes_{level}"] = grid.to(torch.int32)
        return rows

    return measured


def smoothed(frequencies: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Probabilities (..., K) from counts (..., K): (c + a base) / (sum c + a), with the a among
    powers of ten under which each counted code is predicted best from the others.
    """
    total = frequencies.sum(axis=-1, keepdims=True)

    def leave_one_out(a: float) -> float:
        p = (frequencies - 1 + a * base) / np.maximum(total - 1 + a, 1e-300)
        logs = np.log(np.where(frequencies > 0, np.maximum(p, 1e-300), 1.0))
        return float((frequencies * logs).sum())

    best = max(PSEUDOCOUNTS, key=leave_one_out)
    return (frequencies + best * base) / (total + best)


def baselines(train: np.ndarray | None, codes: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Nats per picture (N,) under the frequencies of the training codes, overall (`unigram`) and at
    each place (`position_unigram`).

    Args:
        train: training codes (M, h, w); None takes `codes` themselves, which is kinder than any
            honest prior can be.
        codes: (N, h, w).
        size: K.
    """
    source = codes if train is None else train
    overall = smoothed(counts(source, size), np.full(size, 1 / size))
    flat = codes.reshape(len(codes), -1)
    by_place = np.zeros(len(codes))
    for place, column in enumerate(source.reshape(len(source), -1).T):
        frequencies = np.bincount(column, minlength=size).astype(np.float64)
        by_place -= np.log(smoothed(frequencies, overall)[flat[:, place]])
    return {"unigram": -np.log(overall)[flat].sum(axis=1), "position_unigram": by_place}


def figures(
    rows: Rows, train: Rows | None, sizes: tuple[int, ...], numbers: int, seed: int
) -> dict[str, Estimate]:
    """nll, bits: per code over all levels; code_bits_per_dim: of the codes, over the numbers of a
    picture; nll_train; the baselines in nats per code; log_codes: log K.

    Args:
        rows: of the pictures to measure on, as `measurer_of` gives them.
        train: of the training pictures.
        sizes: K of each level.
        numbers: in a picture.
        seed: of the intervals.
    """
    levels = range(len(sizes))
    lengths = [rows[f"codes_{level}"][0].size for level in levels]
    length = sum(lengths)

    def total(of: Rows) -> np.ndarray:
        return np.sum([of[f"nll_{level}"] for level in levels], axis=0)

    nll = total(rows)
    estimates = {
        "nll": average(nll / length, seed),
        "bits": average(nll / length / math.log(2), seed),
        "code_bits_per_dim": average(nll / numbers / math.log(2), seed),
    }
    if len(sizes) > 1:
        for level in levels:
            values = np.asarray(rows[f"nll_{level}"]) / lengths[level]
            estimates[f"nll_{level}"] = average(values, seed)
    if train is not None:
        estimates["nll_train"] = average(total(train) / length, seed)
    by_level = [
        baselines(train[f"codes_{level}"] if train else None, rows[f"codes_{level}"], sizes[level])
        for level in levels
    ]
    for name in ("unigram", "position_unigram"):
        estimates[name] = average(sum(one[name] for one in by_level) / length, seed)
    logs = sum(n * math.log(k) for n, k in zip(lengths, sizes))
    return estimates | {"log_codes": Estimate(logs / length)}

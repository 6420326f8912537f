"""How well a prior foretells codes, beside what needs no network: the codes' frequencies, their
frequencies at each place, and nothing at all.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from taming.evaluation.codebook import counts
from taming.evaluation.intervals import Estimate, average
from taming.second_stage.model import SecondStage

PSEUDOCOUNTS = tuple(10.0**i for i in range(7))  # that a base distribution may weigh


def measurer(model: SecondStage) -> Callable[[dict], dict[str, Tensor]]:
    """Per picture and level: -log p(codes | condition) in nats, and the codes."""

    def measured(batch: dict) -> dict[str, Tensor]:
        codes, condition = (
            model.first_stage.encode(batch[model.first_stage.key]),
            model.conditioner(batch),
        )
        found = {}
        for level, (prior, grid) in enumerate(zip(model.priors, codes)):
            found[f"nll_{level}"] = -prior.log_prob(
                grid, model.level_condition(condition, codes[:level])
            ).double()
            found[f"codes_{level}"] = grid.to(torch.int32)
        return found

    return measured


def smoothed(frequencies: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Probabilities (..., K) from counts: (c + a base) / (sum c + a), with the a among powers of
    ten under which each counted code is foretold best from the others.
    """
    total = frequencies.sum(axis=-1, keepdims=True)

    def foretold(a: float) -> float:
        p = (frequencies - 1 + a * base) / np.maximum(total - 1 + a, 1e-300)
        return float(
            (frequencies * np.log(np.where(frequencies > 0, np.maximum(p, 1e-300), 1.0))).sum()
        )

    best = max(PSEUDOCOUNTS, key=foretold)
    return (frequencies + best * base) / (total + best)


def baselines(train: np.ndarray | None, codes: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Nats per picture (N,) of `codes` (N, h, w) under the frequencies of the training codes (M, h,
    w), overall (`unigram`) and at each place (`position_unigram`). Without training codes under
    their own, which is kinder than any honest prior can be.
    """
    seen = codes if train is None else train
    overall = smoothed(counts(seen, size), np.full(size, 1 / size))
    flat = codes.reshape(len(codes), -1)
    found = {
        "unigram": -np.log(overall)[flat].sum(axis=1),
        "position_unigram": np.zeros(len(codes)),
    }
    for place, column in enumerate(seen.reshape(len(seen), -1).T):
        there = smoothed(np.bincount(column, minlength=size).astype(np.float64), overall)
        found["position_unigram"] -= np.log(there[flat[:, place]])
    return found


def figures(
    rows: dict[str, np.ndarray],
    train: dict[str, np.ndarray] | None,
    sizes: tuple[int, ...],
    numbers: int,
    seed: int,
) -> dict[str, Estimate]:
    """nll, bits: per code over all levels; bits_per_dim: of the codes, over the numbers of a
    picture; nll_train; the baselines in nats per code; log_codes: log K.
    """
    levels = range(len(sizes))
    per_level = [rows[f"codes_{level}"][0].size for level in levels]
    total = sum(per_level)
    whole = sum(np.asarray(rows[f"nll_{level}"]) for level in levels)
    found = {
        "nll": average(whole / total, seed),
        "bits": average(whole / total / math.log(2), seed),
    }
    found["code_bits_per_dim"] = average(whole / numbers / math.log(2), seed)
    if len(sizes) > 1:
        found |= {
            f"nll_{level}": average(np.asarray(rows[f"nll_{level}"]) / per_level[level], seed)
            for level in levels
        }
    if train is not None:
        known = sum(np.asarray(train[f"nll_{level}"]) for level in levels)
        found["nll_train"] = average(known / total, seed)
    for name in ("unigram", "position_unigram"):
        apart = [
            baselines(train and train[f"codes_{level}"], rows[f"codes_{level}"], sizes[level])[name]
            for level in levels
        ]
        found[name] = average(sum(apart) / total, seed)
    found["log_codes"] = Estimate(sum(n * math.log(k) for n, k in zip(per_level, sizes)) / total)
    return found

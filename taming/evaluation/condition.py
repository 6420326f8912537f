"""What a condition is worth: nats per code with it, without it, and with another picture's. A
prior that ignores its condition gives three equal numbers; one that was never trained without it
has no second.
"""

from typing import Any

import numpy as np
from torch import Tensor

from taming.data.around import Around
from taming.data.interface import PictureSet
from taming.evaluation.intervals import average
from taming.evaluation.likelihood import measurer_of
from taming.evaluation.rows import Rows
from taming.evaluation.session import Session
from taming.second_stage.interface import Conditioner
from taming.second_stage.model import SecondStage


class OtherConditions(Around):
    """Each picture with the condition of the next one, the last with that of the first.

    Args:
        source: the pictures.
        conditioner: says which entries of an item are the condition.
    """

    def __init__(self, source: PictureSet, conditioner: Conditioner):
        super().__init__(source)
        self.conditioner = conditioner
        if hasattr(source, "paths"):
            self.paths = source.paths

    def __getitem__(self, key: Any) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        keys = [index, (index + 1) % len(self)]
        item, other = (dict(self.pictures[one if view is None else (one, view)]) for one in keys)
        return item | condition_of_item(other, self.conditioner)


def condition_of_item(item: dict, conditioner: Conditioner) -> dict:
    """The entries of an item that a conditioner reads, those too that follow from others."""
    batch = {
        key: value[None] if isinstance(value, Tensor) else value for key, value in item.items()
    }
    batch = conditioner.complete(batch)
    entries = {key: batch[key] for key in conditioner.keys if key in batch}
    return {key: value[0] if isinstance(value, Tensor) else value for key, value in entries.items()}


def evaluate(session: Session) -> None:
    """nll_without_condition and nll_other_condition, beside the likelihood's nll."""
    model = session.model
    if not isinstance(model, SecondStage) or not model.conditioner.keys or len(session.data) < 2:
        return
    others = OtherConditions(session.data, model.conditioner)
    rows = {"other": session.measure("likelihood, other conditions", others, measurer_of(model))}
    if model.condition_dropout and all(prior.knows_null for prior in model.levels):
        rows["without"] = session.measure(
            "likelihood, no condition", session.data, measurer_of(model, null=True)
        )
    for name, one in rows.items():
        estimate = average(nats_per_code(one, len(model.levels)), session.request.seed)
        session.figures.add(f"nll_{name}_condition", estimate, session.stamp())


def nats_per_code(rows: Rows, levels: int) -> np.ndarray:
    """(N,), over all levels."""
    total = np.sum([rows[f"nll_{level}"] for level in range(levels)], axis=0)
    return total / sum(rows[f"codes_{level}"][0].size for level in range(levels))

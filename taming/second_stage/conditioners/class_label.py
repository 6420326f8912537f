"""A class of pictures."""

from typing import Annotated

from taming.config.ranges import Range
from taming.errors import UserError
from taming.second_stage.conditioners.entries import check_class, entry_of
from taming.second_stage.interface import Condition, Conditioner, Part, PartShape, describe


class ClassLabel(Conditioner):
    """batch["class"]: whole numbers (B,) in [0, classes).

    Args:
        classes: how many there are.
    """

    key = "class"

    def __init__(self, classes: Annotated[int, Range(1, 2**24)]):
        super().__init__()
        self.classes = classes

    def forward(self, batch: dict) -> Condition:
        labels = entry_of(batch, self.key)
        if labels.is_floating_point() or labels.ndim > 2 or labels.shape[1:] not in ((), (1,)):
            raise UserError(f"'class' should be whole numbers (B,), not {describe(labels)}")
        labels = labels.reshape(-1, 1).long()
        check_class(labels, self.classes, "class")
        return (Part(labels, self.classes),)

    def parts(self, size: tuple[int, int]) -> tuple[PartShape, ...]:
        return (PartShape(self.classes),)

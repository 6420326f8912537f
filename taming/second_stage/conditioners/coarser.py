"""The coarser levels of a hierarchy of codes."""

from taming.config.ranges import Count
from taming.second_stage.interface import Condition, Conditioner, Part


class CoarserCodes(Conditioner):
    """What a level of a hierarchy is conditioned on beside its condition: the codes of the levels
    above, in batch["codes"] (Razavi et al. 2019, arXiv 1906.00446, section 3.2). Guidance and
    condition dropout leave them alone.

    Args:
        num_codes: of each level, coarse to fine.
    """

    def __init__(self, num_codes: tuple[Count, ...]):
        super().__init__()
        self.num_codes = num_codes

    def forward(self, batch: dict) -> Condition:
        return tuple(
            Part(codes.flatten(1), count, (codes.shape[1], codes.shape[2]), permanent=True)
            for codes, count in zip(batch["codes"], self.num_codes)
        )

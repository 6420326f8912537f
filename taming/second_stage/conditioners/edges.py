"""The edges of a picture of the same scene (Esser et al. 2021, arXiv 2012.09841, section 4.2)."""

from torch import Tensor

from taming.config.ranges import Share
from taming.data.edges import edges_of
from taming.first_stage.interface import FirstStage
from taming.second_stage.conditioners.encoded_image import EncodedImage
from taming.second_stage.interface import Condition


class Edges(EncodedImage):
    """batch["edges"] float (B, 1, H, W) in {-1, 1}, as the codes of a first stage that read such
    pictures; computed from batch["image"] where there is none (data/edges.py).

    Args:
        first_stage: the tokenizer of edges, with in_channels 1.
        threshold: of what counts as an edge, as for the tokenizer's training.
    """

    def __init__(self, first_stage: FirstStage, threshold: Share = 0.1):
        super().__init__(first_stage)
        self.key, self.threshold = "edges", threshold

    def complete(self, batch: dict) -> dict:
        image = batch.get("image")
        if self.key in batch or not isinstance(image, Tensor):
            return batch
        return {**batch, self.key: edges_of(image, self.threshold)}

    def forward(self, batch: dict) -> Condition:
        return super().forward(self.complete(batch))

    def picture(self, batch: dict) -> Tensor:
        return super().picture(self.complete(batch))

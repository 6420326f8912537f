"""The card of a run: what its checkpoints say about themselves."""

from dataclasses import replace

from torch import nn

from taming.config.experiment import Experiment
from taming.config.sampling import Sampling
from taming.data.batches import SkippingBroken
from taming.data.card import Card, card_of
from taming.data.interface import PictureSet
from taming.errors import UserError
from taming.first_stage.interface import Autoencoder
from taming.inference.models import number_of_labels
from taming.second_stage.model import SecondStage


def run_card(experiment: Experiment, model: nn.Module, dataset: PictureSet | None) -> Card:
    """Labels and classes of the data set, its size, and what the configuration recommends.

    Raises:
        UserError: card.sampling has no settings of the sampler.
    """
    try:
        Sampling.of(**experiment.card.sampling)
    except UserError as error:
        raise UserError(f"card.sampling: {error}") from None
    card = card_of(dataset, number_of_labels(model))
    return replace(
        card,
        size=_size(model, dataset),
        data=experiment.card.data or _described(dataset),
        sampling=dict(experiment.card.sampling),
    )


def _size(model: nn.Module, dataset: PictureSet | None) -> tuple[int, int] | None:
    if isinstance(model, SecondStage):
        return model.trained_size
    key = model.key if isinstance(model, Autoencoder) else "image"
    item = {} if dataset is None else SkippingBroken(dataset)[0]
    return (int(item[key].shape[-2]), int(item[key].shape[-1])) if key in item else None


def _described(dataset: PictureSet | None) -> str:
    """Their number, the class that reads them, and the name of the folder, not where it is."""
    if dataset is None:
        return ""
    root = getattr(dataset, "root", None)
    name = f" in a folder '{getattr(root, 'name', root)}'" if root else ""
    return f"{len(dataset)} pictures of {type(dataset).__name__}{name}"

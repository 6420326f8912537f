"""The training curve of the metrics: the same figures on the same few pictures every so many
batches, logged beside the losses.
"""

import time
from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from torch import Tensor

from taming.config.experiment import Experiment
from taming.data.batches import collate
from taming.data.interface import PictureSet
from taming.errors import UserError
from taming.evaluation import generation
from taming.evaluation.features import FeatureNetwork, feature_network
from taming.evaluation.frechet import frechet_distance, moments
from taming.evaluation.kernel import kernel_distance
from taming.evaluation.pictures import Subset
from taming.evaluation.reconstruction import compared
from taming.first_stage.interface import Autoencoder, evaluating
from taming.second_stage.model import SecondStage
from taming.training.datamodule import pictures_of
from taming.training.hooks import BatchCallback
from taming.training.module import Training


class Curve(BatchCallback):
    """`evaluation/...` in metrics.csv: of a first stage psnr, ssim and the distances of
    reconstructions to originals; of a second stage the distances of samples, drawn with fixed seeds
    from the pictures' conditions, to the pictures. With so few pictures the Frechet distance is
    biased upwards, the same way at each batch; the kernel distance is not. seconds: what it took;
    share: of all time since the start of training.
    """

    def __init__(self, experiment: Experiment):
        self.settings = experiment.evaluation
        self.network: FeatureNetwork | None = None
        if self.settings.features:
            self.network = feature_network(self.settings.features)
        self.real: Tensor | None = None  # features of the originals, once they are computed

    def begin(self, trainer: pl.Trainer, module: Training) -> None:
        if module.stage == "segmenter" or (module.stage == "second" and self.network is None):
            raise UserError(
                "evaluation.every: measures reconstructions, or with evaluation.features samples;"
                " this model has neither"
            )
        if module.data_module.validation is None:
            raise UserError(
                "evaluation.every: there are no validation pictures; give data.validation"
            )
        self.clock, self.spent = time.monotonic(), 0.0

    def after_batch(self, trainer: pl.Trainer, module: Training) -> None:
        validation = module.data_module.validation
        if not self.settings.every or module.batches % self.settings.every or validation is None:
            return
        if trainer.is_global_zero:
            started = time.monotonic()
            with evaluating(module):
                figures = self.measured(module, pictures_of(validation))
            seconds = time.monotonic() - started
            self.spent += seconds
            figures["seconds"] = seconds
            figures["share"] = self.spent / (time.monotonic() - self.clock)
            module.write({f"evaluation/{name}": value for name, value in figures.items()})
        trainer.strategy.barrier()

    @torch.no_grad()
    def measured(self, module: Training, validation: PictureSet) -> dict[str, float]:
        """The figures of the model as it would be loaded now."""
        # 1. the pictures, and the first stage that reads them
        pictures = Subset(validation, self.settings.pictures)
        model = module.evaluated()
        assert isinstance(model, Autoencoder | SecondStage)  # see `begin`
        first = model.first_stage if isinstance(model, SecondStage) else model
        if first.key != "image":
            raise UserError(
                f"evaluation.every: measures pictures, and this model reads '{first.key}'; leave"
                " it out"
            )
        # 2. what the model makes of them, batch by batch
        sums: dict[str, float] = {}
        fake, real = [], []
        for start, batch in _batches(pictures, module.experiment.data.batch_size * 4):
            batch = module.to_device(batch)
            image = batch["image"]
            output = _output(model, batch, start)
            if model is first:
                for name, value in compared(image, output, {}).items():
                    sums[name] = sums.get(name, 0.0) + float(value.sum())
            if self.network is not None:
                self.network.to(image.device)
                fake.append(self.network(output)["features"].cpu())
                if self.real is None:
                    real.append(self.network(image)["features"].cpu())
        # 3. means, and distances of all together
        figures = {name: value / len(pictures) for name, value in sums.items()}
        if self.network is not None:
            self.real = torch.cat(real) if self.real is None else self.real
            prefix = "r" if model is first else ""
            distances = self._distances(self.real, torch.cat(fake))
            figures |= {prefix + name: value for name, value in distances.items()}
        return figures

    def _distances(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        assert self.network is not None
        names = generation.names(self.network)
        x, y = real.numpy(), fake.numpy()
        return {
            names["fd"]: frechet_distance(moments(x), moments(y)),
            names["kd"]: kernel_distance(x, y).value,
        }


def _batches(pictures: PictureSet, size: int) -> Iterator[tuple[int, dict]]:
    """(number of the first picture, batch), in order."""
    for start in range(0, len(pictures), size):
        stop = min(start + size, len(pictures))
        yield start, collate([pictures[index] for index in range(start, stop)])


def _output(model: Autoencoder | SecondStage, batch: dict, start: int) -> Tensor:
    """Reconstructions of a first stage, samples of a second one."""
    if isinstance(model, Autoencoder):
        return model.reconstruct(batch["image"]).clamp(-1, 1)
    height, width = batch["image"].shape[-2:]
    return model.sample(batch, (height, width), first=start).clamp(-1, 1)

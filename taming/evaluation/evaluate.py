"""`taming evaluate`: all figures of a checkpoint, or of two folders of pictures, in one file, each
with its stamp.
"""

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from taming import images
from taming.errors import UserError, did_you_mean
from taming.evaluation import codebook, generation, layout, likelihood, reconstruction, rows
from taming.evaluation.features import FeatureNetwork, digest, feature_network
from taming.evaluation.frechet import frechet, moments, too_few
from taming.evaluation.intervals import Estimate
from taming.evaluation.pictures import Samples, Subset, data_sets
from taming.evaluation.protocol import (
    Figures,
    list_hash,
    read_reference,
    stamp_id,
    stamp_of,
    store_reference,
)
from taming.evaluation.rows import RowStore
from taming.files import file_hash, make_writable, write_atomically
from taming.first_stage.interface import FirstStage
from taming.formats.load import find_checkpoint, load, read_checkpoint
from taming.inference.conditions import metadata_of
from taming.inference.sample import sample
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import Sampling

PARTS = ("reconstruction", "codes", "likelihood", "generation", "layout")


PAIRS = 8  # of nearest neighbours that are shown


FIRST = 16  # samples that the report shows


@dataclass
class Request:
    """What is to be measured. checkpoint: anything taming.load takes. data, train: see
    `pictures.data_sets`. samples: a folder of drawn pictures; without, a second stage draws them.
    features: see `features.feature_network`; by default Inception, where its weights are at hand.
    pictures, train_pictures: how many at most, spread evenly. size: (H, W) that pictures are
    brought to, by default the model's. only: some of PARTS.
    """

    checkpoint: str | None = None
    data: str | None = None
    samples: str | None = None
    train: str | None = None
    features: str | nn.Module | None = None
    feature_size: tuple[int, int] | None = None
    segmenter: str | nn.Module | None = None
    size: tuple[int, int] | None = None
    pictures: int | None = None
    train_pictures: int = 2000
    only: tuple[str, ...] = PARTS
    drawing: Sampling = field(default_factory=Sampling)
    reference: str | None = None
    store_reference: str | None = None
    batch_size: int = 32
    seed: int = 0
    yaml: str | None = None


def evaluate(out: str | Path = "figures.json", **request) -> Figures:
    """Measures what a `Request` asks for, and writes OUT and, beside it, a folder with pictures.
    What is done when it is interrupted is not done again. Under torchrun every process measures its
    share, and all return the figures of one.
    """
    asked, out = Request(**request), Path(out)
    for part in asked.only:
        if part not in PARTS:
            raise UserError(f"--only {part}: no such part{did_you_mean(part, PARTS)}")
    for what, value in (
        ("--batch-size", asked.batch_size),
        ("--pictures", asked.pictures or 1),
        ("--train-pictures", asked.train_pictures),
    ):
        if value < 1:
            raise UserError(f"{what} {value} should be at least 1")
    rows.processes()
    return Evaluation(asked, out).run()


class Evaluation:
    """One run of `evaluate`."""

    def __init__(self, asked: Request, out: Path):
        self.asked, self.out, self.found, self.hashes = asked, out, Figures(), {}
        make_writable(out.parent)
        content = read_checkpoint(asked.checkpoint, asked.yaml) if asked.checkpoint else None
        if content is None and asked.samples is None:
            raise UserError(
                "evaluate needs a checkpoint, or --data DIR and --samples DIR, or all of them; see:"
                " taming evaluate --help"
            )
        self.model = load(asked.checkpoint, asked.yaml) if content else None
        self.first = self.model.first_stage if isinstance(self.model, SecondStage) else self.model
        self.train, self.data = (
            Subset(dataset, count) if dataset is not None else None
            for dataset, count in zip(
                data_sets(
                    content,
                    asked.data,
                    asked.train,
                    self.size(content),
                    self._conditioned() == "class",
                ),
                (asked.train_pictures, asked.pictures),
            )
        )
        if content is not None and self.first.key not in self.data[0]:
            raise UserError(
                f"the model reads '{self.first.key}', but the pictures to measure on have none;"
                " give --data DIR with images/ and segmentations/"
            )
        self.network = self._network()
        self.segmenter = self._segmenter()
        if asked.reference and self.network is not None:
            self.reference = read_reference(asked.reference, self.stamp(features=True))
        self.folder = out.with_suffix("")
        self.judge_told = (
            {"segmenter_sha256": self._segmenter_hash()} if self.segmenter is not None else {}
        )
        self.place = RowStore(
            self.folder
            / f"work-{stamp_id(self.stamp(features=True, asked=self._asked(), **self.judge_told))}",
            asked.batch_size,
        )
        self.rows: dict[str, rows.Rows] = {}

    def size(self, content) -> tuple[int, int] | None:
        """That pictures are brought to: as asked, as the prior was trained, or as the
        configuration's data sets are.
        """
        if self.asked.size or content is None:
            return self.asked.size
        if isinstance(self.model, SecondStage):
            return self.model.trained_size
        given = (
            (content.config["data"]["validation"] or content.config["data"]["train"] or {})
            .get("params", {})
            .get("size")
        )
        if given is None and self.asked.data:
            raise UserError(
                "the checkpoint does not say which size it was trained on; give --size HxW"
            )
        return (
            given if given is None else (given, given) if isinstance(given, int) else tuple(given)
        )

    def _conditioned(self) -> str | None:
        return getattr(getattr(self.model, "conditioner", None), "key", None)

    def _network(self) -> FeatureNetwork | None:
        wanted = {"reconstruction", "generation"} & set(self.asked.only)
        if not wanted or (self.first is not None and self.first.key == "segmentation"):
            return None
        try:
            return feature_network(self.asked.features or "inception", self.asked.feature_size)
        except UserError as error:
            if self.asked.features or self.model is None:  # two folders have no other figures
                raise
            self.found.left.append(f"distances between sets of features: {error}")
            return None

    def _segmenter(self) -> nn.Module | None:
        given = self.asked.segmenter
        return (
            load(given, stage="segmenter")
            if isinstance(given, str)
            else given.eval()
            if given is not None
            else None
        )

    def _segmenter_hash(self) -> str:
        given = self.asked.segmenter
        return file_hash(find_checkpoint(given)) if isinstance(given, str) else digest(given)[:16]

    def _asked(self) -> dict:
        """What else decides what is measured; networks are told by their hashes."""
        apart = ("batch_size", "only", "reference", "store_reference", "features", "segmenter")
        return {name: str(value) for name, value in vars(self.asked).items() if name not in apart}

    def hash(self, dataset: Dataset) -> str:
        """See `list_hash`; asked of the disk once."""
        if id(dataset) not in self.hashes:
            self.hashes[id(dataset)] = list_hash(dataset)
        return self.hashes[id(dataset)]

    def stamp(self, features: bool = False, dataset: Dataset | None = None, **more) -> dict:
        dataset = self.data if dataset is None else dataset
        told = {
            "size": list(dataset[0]["image"].shape[-2:]) if "image" in dataset[0] else None,
            "pictures": len(dataset),
            "data_sha256": self.hash(dataset),
        }
        told |= {
            "view": (
                "fixed: shorter side to the size, middle crop"
                if self.asked.size or self.model is not None
                else "as they are"
            ),
            "seed": self.asked.seed,
        }
        if self.asked.checkpoint:
            told["checkpoint_sha256"] = file_hash(find_checkpoint(self.asked.checkpoint))
        if features and self.network is not None:
            told |= self.network.stamp()
        return stamp_of(**told, **more)

    def run(self) -> Figures:
        asked = self.asked
        if self.first is not None and {"reconstruction", "codes"} & set(asked.only):
            self.reconstructed()
        if isinstance(self.first, FirstStage) and "codes" in asked.only:
            self.codes()
        if isinstance(self.model, SecondStage) and "likelihood" in asked.only:
            self.likely()
        if {"generation", "layout"} & set(asked.only) and (
            asked.samples or isinstance(self.model, SecondStage)
        ):
            samples = self.drawn()
            if samples is not None and "generation" in asked.only and self.network is not None:
                self.generated(samples)
            if samples is not None and "layout" in asked.only:
                self.faithful(samples)
        if self.place.rank == 0:
            self.found.write(self.out)
            shutil.rmtree(self.place.folder, ignore_errors=True)
        self.place.wait()
        return self.found

    def measured(self, name: str, dataset: Dataset, function) -> rows.Rows:
        if name not in self.rows:
            self.rows[name] = rows.measure(name, dataset, function, self.place, self.hash(dataset))
        return self.rows[name]

    def add(self, estimates: dict[str, Estimate], stamp: dict, note: str = "") -> None:
        for name, estimate in estimates.items():
            self.found.add(name, estimate, stamp, note)

    def picture(self, name: str, image) -> None:
        if self.place.rank == 0:
            images.save(image, self.folder / name)

    # The parts

    def reconstructed(self) -> None:
        perceptual = {}
        if self.first.key != "segmentation" and "reconstruction" in self.asked.only:
            perceptual, left = reconstruction.distances()
            self.found.left += left
        seen = self.measured(
            "reconstruction",
            self.data,
            reconstruction.measurer(self.first, perceptual, self.network),
        )
        if "reconstruction" not in self.asked.only:
            return
        if "confusion" in seen:
            self.add(
                {
                    f"labels_{k}": v
                    for k, v in layout.label_figures(seen["confusion"], self.asked.seed).items()
                },
                self.stamp(),
            )
            return
        self.add(reconstruction.picture_figures(seen, self.asked.seed), self.stamp())
        if "ms_ssim" not in seen:
            self.found.left.append(
                f"MS-SSIM: its five scales need pictures of at least {reconstruction.MS_SSIM_SIDE}"
                " pixels"
            )
        if self.network is not None and len(self.data) > 1:
            name = generation.names(self.network)["rfd"]
            self.add(
                {name: frechet(seen["original"], seen["features"], self.asked.seed)},
                self.stamp(features=True),
                "reconstructions against originals",
            )
            self._warn(name, len(self.data))
        self.picture("reconstructions.png", self._worst(np.asarray(seen["psnr"])))

    def _warn(self, name: str, n: int) -> None:
        warning = too_few(n, self.rows["reconstruction"]["features"].shape[1])
        if warning:
            self.found.warnings.append(f"{name}: {warning}")

    @torch.no_grad()
    def _worst(self, psnr: np.ndarray):
        """Originals and reconstructions: the worst four, the median four, the best four."""
        order, middle = np.argsort(psnr), len(psnr) // 2
        chosen = [*order[:4], *order[max(0, middle - 2) : middle + 2], *order[-4:]]
        originals = torch.stack([self.data[int(i)]["image"] for i in chosen])
        pairs, third = (originals, self.first.reconstruct(originals).clamp(-1, 1)), len(chosen) // 3
        return images.montage(
            [part[i * third : (i + 1) * third] for i in range(3) for part in pairs]
        )

    def codes(self) -> None:
        seen = self.rows["reconstruction"]
        arrays, single = {}, len(self.first.num_codes) == 1
        for level, size in enumerate(self.first.num_codes):
            suffix = "" if single else f"_{level}"
            grids = np.asarray(seen[f"codes_{level}"])
            self.add(
                {
                    f"{name}{suffix}": value
                    for name, value in codebook.usage(grids, size, self.asked.seed).items()
                },
                self.stamp(),
            )
            arrays[f"counts{suffix}"] = codebook.counts(grids, size)
            arrays[f"position_entropy{suffix}"] = codebook.position_entropy(grids, size)
            self.found.add(
                f"position_entropy{suffix}",
                float(arrays[f"position_entropy{suffix}"].mean()),
                self.stamp(),
                "nats, mean over places",
            )
        nearest = codebook.neighbour_distances(self.first)
        if nearest is not None:
            arrays["neighbour_distances"] = nearest
            self.found.add(
                "neighbour_distance",
                float(np.median(nearest)),
                self.stamp(),
                "median over codes of the distance to the nearest other one",
            )
        if single and self.first.key == "image":
            self.picture("codes.png", codebook.gallery(self.first, arrays["counts"]))
        if self.place.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / "codes.npz", lambda file: _save_arrays(file, arrays))

    def likely(self) -> None:
        measurer = likelihood.measurer(self.model)
        seen = self.measured("likelihood", self.data, measurer)
        train = (
            self.measured("likelihood of training pictures", self.train, measurer)
            if self.train is not None
            else None
        )
        numbers = int(self.data[0][self.first.key].numel())
        found = likelihood.figures(seen, train, self.first.num_codes, numbers, self.asked.seed)
        told = (
            {"train_pictures": len(self.train), "train_sha256": self.hash(self.train)}
            if self.train is not None
            else {}
        )
        for name, estimate in found.items():
            fitted = (
                "nats, fitted to training codes"
                if train is not None
                else "nats, fitted to the very codes it is measured on"
            )
            self.found.add(name, estimate, self.stamp(**told), fitted if "unigram" in name else "")

    def drawn(self) -> Samples | None:
        """The samples: given, or drawn now, one for each picture of the data."""
        if self.asked.samples is None:
            wanted = (
                self.folder / f"samples-{stamp_id(self.stamp(settings=asdict(self.asked.drawing)))}"
            )
            try:
                told = [
                    (f"{i:06d}", metadata_of(self.model, self.data[i]))
                    for i in range(len(self.data))
                ]
            except UserError as error:
                self.found.left.append(f"generation: {error}")
                return None
            settings = Sampling(**asdict(self.asked.drawing))
            sample(
                self.asked.checkpoint,
                wanted,
                settings,
                config=self.asked.yaml,
                conditions=told,
                batch_size=self.asked.batch_size,
            )
            self.place.wait()
            self.asked.samples = str(wanted)
        samples = Samples(self.asked.samples, self.asked.size if self.model is None else None)
        shape, other = (
            samples[0]["image"].shape[-2:],
            self.data[0]["image"].shape[-2:] if "image" in self.data[0] else None,
        )
        if (
            other
            and tuple(shape) != tuple(other)
            and not (self.network is not None and self.network.size)
        ):
            raise UserError(
                f"samples in '{self.asked.samples}' are {shape[0]}x{shape[1]}, the pictures they"
                f" are compared with {other[0]}x{other[1]}; give --size HxW, or --feature-size HxW"
                " to resize both for the features"
            )
        self.picture("samples.png", self._shown(samples))
        return samples

    def _shown(self, samples: Samples):
        items = [samples[i] for i in range(min(FIRST, len(samples)))]
        shown = torch.stack([item["image"] for item in items])
        if not samples.layouts:
            return images.contact_sheet(shown)
        masks = torch.stack([item["segmentation"] for item in items])
        columns = [images.colour_labels(masks, int(masks.max()) + 1), shown]
        return images.montage([column[half::2] for half in (0, 1) for column in columns])

    def generated(self, samples: Samples) -> None:
        asked, network = self.asked, self.network
        generation.check_number("samples", len(samples))
        fake = self.measured("features of samples", samples, lambda batch: network(batch["image"]))
        features = lambda batch: {"features": network(batch["image"])["features"]}  # noqa: E731
        stamp = self.stamp(features=True, dataset=samples, sampling=samples.protocol())
        if asked.reference:
            self.add(
                generation.against_reference(self.reference, np.asarray(fake["features"]), network),
                {**stamp, "reference": asked.reference},
            )
            return
        data = np.asarray(self.measured("features of pictures", self.data, features)["features"])
        train = (
            None
            if self.train is None
            else np.asarray(
                self.measured("features of training pictures", self.train, features)["features"]
            )
        )
        against, real = (
            ("the training pictures", train) if train is not None else ("the pictures", data)
        )
        source = self.data if train is None else self.train
        stamp |= {
            "against": against,
            "against_pictures": len(source),
            "against_sha256": self.hash(source),
        }
        if asked.store_reference and self.place.rank == 0:
            store_reference(
                asked.store_reference, moments(real), self.stamp(features=True, dataset=source)
            )
        found, warnings = generation.figures(
            real, np.asarray(fake["features"]), fake.get("logits"), network, asked.seed
        )
        self.found.warnings += warnings
        self.add(found, stamp, f"against {against}")
        if train is None:
            return
        held = self.stamp(
            features=True, against="the training pictures", against_sha256=self.hash(self.train)
        )
        if len(data) > 1:
            floor, _ = generation.figures(train, data, None, network, asked.seed)
            self.add(
                {f"{name}_real": value for name, value in floor.items()},
                held,
                "held-out pictures against the training pictures: what a perfect model would get",
            )
        copied, distances, which = generation.copied(
            train, data, np.asarray(fake["features"]), asked.seed
        )
        self.add(
            {"copying": copied},
            stamp,
            "0.5: as near to training pictures as held-out pictures are; 1: copies",
        )
        if "features" in self.rows.get("reconstruction", {}):
            again = generation.copied(
                train, data, np.asarray(self.rows["reconstruction"]["features"]), asked.seed
            )[0]
            told = (
                "of reconstructions of held-out pictures: what is above 0.5 here comes from the"
                " first stage's softness, not from memory"
            )
            self.add({"copying_reconstructed": again}, held, told)
        closest = np.argsort(distances)[:PAIRS]
        pairs = [
            torch.stack([part[int(i)]["image"] for i in chosen])
            for part, chosen in ((samples, closest), (self.train, which[closest]))
        ]
        if pairs[0].shape == pairs[1].shape:
            self.picture(
                "nearest.png", images.montage([part[i::2] for i in (0, 1) for part in pairs])
            )

    def faithful(self, samples: Samples) -> None:
        if self.segmenter is None:
            self.found.left.append(
                "faithfulness to the layout: give --segmenter CKPT (taming train -b"
                " configs/segmenter/...)"
            )
            return
        labels = getattr(self.segmenter, "labels", None) or int(
            self.segmenter(samples[0]["image"][None]).shape[1]
        )
        judge = layout.Judge(self.segmenter, labels)
        told = self.judge_told
        if samples.layouts:
            seen = self.measured("layouts of samples", samples, judge.samples)
            stamp = self.stamp(dataset=samples, sampling=samples.protocol(), **told)
            self.add(
                layout.figures(seen["given"], "layout", self.asked.seed),
                stamp,
                "the mask given against the mask found in the sample",
            )
            self.add(
                layout.figures(seen["other"], "layout_floor", self.asked.seed),
                stamp,
                "against the mask of another sample, drawn by lot",
            )
        else:
            self.found.left.append(
                "faithfulness to the layout: the samples do not say which masks they were drawn"
                " from (PNGs of taming sample do)"
            )
        if "segmentation" not in self.data[0] or "image" not in self.data[0]:
            self.found.left.append("the ceiling of faithfulness: the pictures have no masks")
            return
        real = self.measured("layouts of pictures", self.data, judge.pictures(self.first))
        self.add(
            layout.figures(real["real"], "layout_real", self.asked.seed),
            self.stamp(**told),
            "ceiling: the mask found in real pictures",
        )
        if "reconstructed" in real:
            self.add(
                layout.figures(real["reconstructed"], "layout_reconstructed", self.asked.seed),
                self.stamp(**told),
                "the mask found in reconstructions",
            )


def _save_arrays(file: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(file, "wb") as stream:
        np.savez_compressed(stream, **arrays)

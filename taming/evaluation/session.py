"""What the parts of one evaluation share: the request, the models, the data sets, the networks, the
rows on disk, and the figures so far.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import torch
from PIL import Image
from torch import Tensor, nn

from taming import images
from taming.config.doors import cast
from taming.data.folder import find_pictures
from taming.data.interface import PictureSet
from taming.data.reading import mask_remark
from taming.data.stored import stored_pictures
from taming.data.views import as_pair
from taming.errors import UserError, did_you_mean
from taming.evaluation import rows
from taming.evaluation.features import FeatureNetwork, digest, feature_network, parse_features
from taming.evaluation.frechet import Moments
from taming.evaluation.intervals import Estimate
from taming.evaluation.pictures import Samples, Subset, data_sets, list_hash
from taming.evaluation.protocol import Figures, read_reference, stamp_id, stamp_of
from taming.evaluation.rows import Measurer, Rows, RowStore
from taming.files import check_output, file_hash, is_stream, make_writable
from taming.first_stage.interface import Autoencoder
from taming.first_stage.tiling import map_bytes
from taming.formats.content import Content
from taming.formats.load import checkpoint_hash, find_checkpoint, load, read_checkpoint
from taming.inference.conditions import metadata_of
from taming.inference.memory import MAPS, refuse
from taming.inference.sample import sample
from taming.inference.share import shard_of, share_of_process
from taming.precision import Precision, autocast, resolved
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import Sampling

PARTS = ("reconstruction", "codes", "likelihood", "condition", "generation", "layout", "path")
FIRST = 16  # samples that the report shows
# Of a request: what decides no number, or is in the stamps by its hash
APART = (
    "shard",
    "merge",
    "batch_size",
    "only",
    "reference",
    "store_reference",
    "features",
    "segmenter",
    "allow",
)


@dataclass
class Request:
    """What is to be measured.

    Args:
        checkpoint: anything that `taming.load` takes.
        data: the pictures to measure on, see `pictures.data_sets`.
        samples: a folder of drawn pictures; without, a second stage draws them.
        train: the training pictures, see `pictures.data_sets`.
        features: see `features.feature_network`; by default Inception, where its weights are at
            hand.
        feature_size: (H, W) that pictures are resized to for the features.
        segmenter: a checkpoint, or a module from pictures to logits (B, labels, H, W).
        size: (H, W) that pictures are brought to, by default the model's.
        pictures: measure on at most so many, spread evenly; None: all.
        train_pictures: at most so many training pictures, spread evenly.
        only: some of PARTS.
        sampling: how samples are drawn.
        reference: statistics that take the real pictures' place (.npz).
        store_reference: where to write the statistics of the real pictures (.npz).
        batch_size: changes no figure.
        seed: of the intervals.
        precision: that networks compute in; auto: bfloat16 where the processor has hardware for
            it, which moves figures (docs/evaluation.md says how far).
        shard: "i/n": measure only this share, where machines have no common disk.
        merge: the outputs (-o) of such shares; what none of them measured is measured here.
        config: the YAML that came with a published checkpoint.
        allow: packages of one's own that the checkpoint may name.
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
    only: Sequence[str] = PARTS
    sampling: Sampling = field(default_factory=Sampling)
    reference: str | None = None
    store_reference: str | None = None
    batch_size: int = 32
    seed: int = 0
    precision: Precision = "32-true"
    shard: str | None = None
    merge: Sequence[str] = ()
    config: str | None = None
    allow: Sequence[str] = ()

    def check(self) -> None:
        """Raises UserError for a value of another kind than declared, that asks for nothing, or
        for what there is not.
        """
        for name, hint in get_type_hints(Request).items():
            setattr(self, name, cast(getattr(self, name), hint, f"evaluate: {name}"))
        if not self.only:
            raise UserError(f"--only: name at least one of {', '.join(PARTS)}")
        for part in self.only:
            if part not in PARTS:
                raise UserError(f"--only {part}: no such part{did_you_mean(part, PARTS)}")
        for flag, count in (
            ("--batch-size", self.batch_size),
            ("--pictures", self.pictures),
            ("--train-pictures", self.train_pictures),
        ):
            if count is not None and count < 1:
                raise UserError(f"{flag} {count} should be at least 1")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise UserError(f"--seed {self.seed} should be a whole number of at least 0")
        for flag, size in (("--size", self.size), ("--feature-size", self.feature_size)):
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise UserError(f"{flag} {size} should be (height, width), both at least 1")
        self.sampling.check()
        number, count = shard_of(self.shard)
        if count > 1 and self.merge:
            raise UserError("--shard measures a share, --merge puts shares together; leave one out")
        if count > 1 and self.samples is None and "generation" in self.only:
            raise UserError(
                f"--shard {number}/{count} measures samples that are there: draw them with taming"
                " sample --format shards, and give --samples DIR; or leave generation out of --only"
            )
        for name in self.merge:
            if not shares_of(name):
                raise UserError(f"--merge '{name}' is no output of taming evaluate --shard i/n")
        if self.checkpoint is None and self.samples is None:
            raise UserError(
                "evaluate needs a checkpoint, or --data DIR and --samples DIR, or all of them; see:"
                " taming evaluate --help"
            )

    def check_inputs(self) -> None:
        """Raises UserError where an input is not there, or is asked for where nothing reads it."""
        for checkpoint in (self.checkpoint, self.segmenter):
            if checkpoint is not None and not isinstance(checkpoint, nn.Module):
                find_checkpoint(checkpoint)
        if self.config is not None:
            if self.checkpoint is None:
                raise UserError("--config is the YAML of a published checkpoint; give CKPT too")
            if not os.path.isfile(self.config):
                raise UserError(
                    f"config '{self.config}' does not exist; give the YAML of '{self.checkpoint}'"
                )
        for flag in ("data", "train", "samples"):
            folder = getattr(self, flag)
            if folder is not None and not os.path.isdir(folder):
                raise UserError(f"--{flag} '{folder}' does not exist; give a folder of pictures")
        if self.samples is not None:
            if not stored_pictures(Path(self.samples)):
                find_pictures(Path(self.samples), self.samples)
        if isinstance(self.features, str):
            parse_features(self.features)
        if self.reference is not None:
            read_reference(self.reference)
            if self.store_reference is not None:
                raise UserError(
                    "--reference takes the real pictures' place, so that there is nothing for"
                    " --store-reference; leave one out"
                )

    def check_outputs(self, out: Path) -> None:
        """Raises UserError where an output would destroy, or become, an input."""
        folders = [self.data, self.train, self.samples]
        files = [self.checkpoint, self.config, self.segmenter, self.reference, self.features]
        inputs = [name for name in [*files, *folders] if isinstance(name, str)]
        check_output(out, inputs, (".json",))
        check_output(self.store_reference, inputs, (".npz",))
        montages = out.with_suffix("").resolve()
        for name in folders:
            if name is None:
                continue
            source = Path(name, "images") if Path(name, "images").is_dir() else Path(name)
            if source.resolve() in (montages, *montages.parents):
                raise UserError(
                    f"-o {out}: its pictures would go into '{out.with_suffix('')}', which lies in"
                    f" '{name}', where pictures are read; choose another place"
                )


def shares_of(out: str) -> list[Path]:
    """The rows beside an output FIGURES.json."""
    return sorted(Path(out).with_suffix("").glob("work-*"))


class Session:
    """One evaluation while it runs.

    Args:
        request: what is to be measured.
        out: the .json of the figures.
        folder: for montages and what is measured so far.

    Attributes:
        model: what the checkpoint holds; `first` is its first stage.
        data: the pictures to measure on; `train`, the training pictures, where there are some.
        network: what gives features; None where no part needs any, or its weights are missing.
        segmenter: what finds layouts.
        figures: what has been measured so far.
    """

    def __init__(self, request: Request, out: Path, folder: Path):
        self.request, self.out, self.folder = request, out, folder
        self.sampling = request.sampling.seeded()
        self.figures = Figures()
        self._hashes: dict[int, str] = {}
        self._rows: dict[str, Rows] = {}
        if not is_stream(out):
            make_writable(out.parent)
        # 1. the model
        self.device = share_of_process().device
        self.model: nn.Module | None = None
        content = None
        if request.checkpoint:
            content = read_checkpoint(request.checkpoint, request.config, request.allow)
            self.model = load(request.checkpoint, request.config, allow=request.allow)
        self.first = _first_stage(self.model, str(request.checkpoint))
        # 2. the pictures
        classes = isinstance(self.model, SecondStage) and self.model.conditioner.key == "class"
        self.size = self._size(content)
        train, data = data_sets(content, request.data, request.train, self.size, classes)
        self.train = None if train is None else Subset(train, request.train_pictures)
        self.data = Subset(data, request.pictures)
        if self.first is not None and self.first.key not in self.data[0]:
            raise UserError(
                f"the model reads '{self.first.key}', but the pictures to measure on have none;"
                " give --data DIR with images/ and segmentations/"
            )
        remark = mask_remark(getattr(data, "paths", ()))
        if remark and share_of_process().rank == 0:
            print(remark, file=sys.stderr)
        self._refuse_too_large()
        # 3. the networks
        self.network = self._network()
        self._refuse_unused_reference()
        self.segmenter, self.segmenter_stamp = self._segmenter()
        self.reference: Moments | None = None
        if request.reference and self.network is not None:
            self.reference = read_reference(request.reference, self.stamp(features=True))
        # 4. the rows
        work = f"work-{self._request_id()}"
        self.store = RowStore(
            self.folder / work,
            request.batch_size,
            shard_of(request.shard),
            tuple(one.parent / work for name in request.merge for one in shares_of(name)),
        )
        others = [one for one in self.store.sources if not one.is_dir()]
        if others:
            raise UserError(
                f"--merge: '{others[0].parent}' holds rows of another protocol; give the same"
                " arguments as there"
            )

    def _size(self, content: Content | None) -> tuple[int, int] | None:
        """That pictures are brought to: as requested, as the prior was trained, or as the
        configuration's data sets are.
        """
        if self.request.size or content is None:
            return self.request.size
        if isinstance(self.model, SecondStage):
            return self.model.trained_size
        size = _data_size(content)
        if size is None and self.request.data:
            raise UserError(
                "the checkpoint does not say which size it was trained on; give --size HxW"
            )
        return size

    def _refuse_too_large(self) -> None:
        """Batches of these pictures must fit into memory, whole."""
        if self.first is None:
            return
        height, width = self.data[0][self.first.key].shape[-2:]
        count = min(self.request.batch_size, len(self.data))
        needed = MAPS * count * map_bytes(self.first, height, width)
        what = f"--batch-size {count} at {height}x{width}"
        refuse(needed, what, "take a smaller --batch-size, or --size HxW")

    def _network(self) -> FeatureNetwork | None:
        request = self.request
        needed = {"reconstruction", "generation", "path"} & set(request.only)
        if not needed or (self.first is not None and self.first.key == "segmentation"):
            return None
        try:
            return feature_network(request.features or "inception", request.feature_size)
        except UserError as error:
            # Two folders have no other figures
            if request.features or self.model is None or self._moments_file:
                raise
            self.figures.missing.append(f"distances between sets of features: {error}")
            return None

    @property
    def _moments_file(self) -> str | None:
        return self.request.reference or self.request.store_reference

    def _refuse_unused_reference(self) -> None:
        """Statistics of features are compared with samples, in the part `generation`."""
        drawn = self.request.samples is not None or isinstance(self.model, SecondStage)
        compared = drawn and "generation" in self.request.only and self.network is not None
        if self._moments_file and not compared:
            raise UserError(
                f"reference statistics '{self._moments_file}' are for samples: give a second stage"
                " of pictures or --samples DIR, and measure the part generation"
            )

    def _segmenter(self) -> tuple[nn.Module | None, dict[str, Any]]:
        """The segmenter, and what stamps say of it."""
        segmenter = self.request.segmenter
        if segmenter is None:
            return None, {}
        if isinstance(segmenter, nn.Module):
            return segmenter.eval(), {"segmenter_sha256": digest(segmenter)[:16]}
        model = load(segmenter, stage="segmenter", allow=self.request.allow)
        return model, {"segmenter_sha256": file_hash(find_checkpoint(segmenter))}

    def _request_id(self) -> str:
        """Of everything that decides what is measured; networks count by their hashes."""
        request = {
            name: str(value) for name, value in vars(self.request).items() if name not in APART
        }
        stamp = self.stamp(features=True, request=request, **self.segmenter_stamp)
        return stamp_id(stamp)

    def hash(self, dataset: PictureSet) -> str:
        """See `list_hash`; the disk is read once."""
        if id(dataset) not in self._hashes:
            self._hashes[id(dataset)] = list_hash(dataset)
        return self._hashes[id(dataset)]

    def stamp(
        self, features: bool = False, dataset: PictureSet | None = None, **more: Any
    ) -> dict[str, Any]:
        """The protocol of a figure.

        Args:
            features: whether the figure is one of features.
            dataset: of the pictures that are measured; by default `data`.
            more: further entries.
        """
        dataset = self.data if dataset is None else dataset
        first = dataset[0]
        is_fitted = self.request.size or self.model is not None
        stamp = {
            "size": list(first["image"].shape[-2:]) if "image" in first else None,
            "pictures": len(dataset),
            "data_sha256": self.hash(dataset),
            "view": "fixed: shorter side to the size, middle crop" if is_fitted else "as they are",
            "seed": self.request.seed,
        }
        if self.request.checkpoint:
            stamp["checkpoint_sha256"] = checkpoint_hash(
                self.request.checkpoint, self.request.config
            )
        if resolved(self.request.precision, "cpu") != "32-true":
            stamp["precision"] = resolved(self.request.precision, "cpu")
        if features and self.network is not None:
            stamp |= self.network.stamp()
        return stamp_of(**stamp, **more)

    def measure(
        self, name: str, dataset: PictureSet, measurer: Measurer, networks: Iterable[nn.Module] = ()
    ) -> Rows:
        """The rows of a part, see `rows.measure`; measured once.

        Args:
            networks: that it needs beside the model, the network of features, and the segmenter.
        """
        if name not in self._rows:
            mark = self.hash(dataset)
            within = self._in_precision(measurer)
            parts = [self.model, self.network, self.segmenter, *networks]
            with on_device(parts, self.device):
                self._rows[name] = rows.measure(name, dataset, within, self.store, mark)
        return self._rows[name]

    def _in_precision(self, measurer: Measurer) -> Measurer:
        """The same measurer, whose networks compute where and as requested; numbers are stored in
        float32 or better.
        """

        def measured(batch: dict) -> dict[str, Tensor]:
            batch = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            with autocast(self.request.precision, self.device):
                values = measurer(batch)
            halves = (torch.bfloat16, torch.float16)
            return {k: (v.float() if v.dtype in halves else v).cpu() for k, v in values.items()}

        return measured

    def rows(self, name: str) -> Rows:
        """What is measured of a part already."""
        return self._rows.get(name, {})

    def add(self, estimates: dict[str, Estimate], stamp: dict[str, Any], note: str = "") -> None:
        for name, estimate in estimates.items():
            self.figures.add(name, estimate, stamp, note)

    def save(self, name: str, montage: Tensor | Image.Image) -> None:
        """A picture for the report."""
        if self.store.rank == 0:
            images.save(montage, self.folder / name)

    @cached_property
    def samples(self) -> Samples | None:
        """The samples: those of the request, else drawn now, one for each picture of the data; None
        where there are none to be had.
        """
        folder = self.request.samples
        if folder is None:
            if not isinstance(self.model, SecondStage):
                return None
            try:
                folder = self._draw(self.model)
            except _NoConditions as error:
                self.figures.missing.append(f"generation: {error}")
                return None
        samples = Samples(folder, self.request.size if self.model is None else None)
        if samples.foreign:
            self.figures.warnings.append(
                f"'{folder}' holds {len(samples.foreign)} that taming sample did not draw, such as"
                f" '{samples.foreign[0].name}'; they are left out"
            )
        self._refuse_other_size(samples, folder)
        self.save("samples.png", _montage(samples))
        return samples

    def _draw(self, model: SecondStage) -> str:
        """The folder of samples, one for the condition of each picture of the data."""
        try:
            conditions = [
                (f"{index:06d}", metadata_of(model, self.data[index]))
                for index in range(len(self.data))
            ]
        except UserError as error:
            raise _NoConditions(str(error)) from None
        folder = self.folder / f"samples-{stamp_id(self.stamp(settings=asdict(self.sampling)))}"
        sample(
            str(self.request.checkpoint),
            folder,
            self.sampling,
            config=self.request.config,
            conditions=conditions,
            batch_size=self.request.batch_size,
            allow=self.request.allow,
        )
        self.store.wait()
        return str(folder)

    def _refuse_other_size(self, samples: Samples, folder: str) -> None:
        if "image" not in self.data[0] or (self.network is not None and self.network.size):
            return
        one, other = (tuple(part[0]["image"].shape[-2:]) for part in (samples, self.data))
        if one != other:
            raise UserError(
                f"samples in '{folder}' are {one[0]}x{one[1]}, the pictures they are compared with"
                f" {other[0]}x{other[1]}; give --size HxW, or --feature-size HxW to resize both for"
                " the features"
            )


@contextmanager
def on_device(networks: Iterable[nn.Module | None], device: torch.device) -> Iterator[None]:
    """Networks of the CPU are on a device while they measure; all else that is done with them is
    little.
    """
    moved = [network for network in networks if network is not None]
    for network in moved:
        network.to(device)
    try:
        yield
    finally:
        for network in moved:
            network.to("cpu")


def _montage(samples: Samples) -> Tensor:
    """The first samples, each beside its layout where there is one."""
    items = [samples[i] for i in range(min(FIRST, len(samples)))]
    drawn = torch.stack([item["image"] for item in items])
    if not samples.layouts:
        return images.contact_sheet(drawn)
    masks = torch.stack([item["segmentation"] for item in items])
    columns = [images.colour_labels(masks, int(masks.max()) + 1), drawn]
    return images.montage([column[half::2] for half in (0, 1) for column in columns])


class _NoConditions(UserError):
    """The pictures have nothing that the prior could be conditioned on."""


def _first_stage(model: nn.Module | None, source: str) -> Autoencoder | None:
    first = model.first_stage if isinstance(model, SecondStage) else model
    if first is None or isinstance(first, Autoencoder):
        return first
    raise UserError(
        f"'{source}' is a {type(first).__name__}; evaluate measures first and second stages (give a"
        " segmenter as --segmenter)"
    )


def _data_size(content: Content) -> tuple[int, int] | None:
    """Of the pictures that the configuration's data sets give; a view may be a size alone."""
    data = content.experiment().data
    params = (data.validation or data.train or {}).get("params") or {}
    view = params.get("view")
    size = params.get("size", view.get("size") if isinstance(view, dict) else view)
    return None if size is None else as_pair(size)

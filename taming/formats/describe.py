"""What a file is, in a few lines, without building anything that it names."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from taming.data.card import Card
from taming.data.legend import Legend, hexadecimal
from taming.formats.content import Content
from taming.formats.fitting import count, non_finite
from taming.formats.load import find_checkpoint, read_checkpoint

UNKNOWN_NAMES = 20  # so many are listed
MOST_NAMES = 24  # of labels or classes


def describe(path: str | Path, config: str | Path | None = None, allow: Iterable[str] = ()) -> str:
    """Stage, class, sizes, codebooks, figures and oddities of a checkpoint; `config` and `allow` as
    for `load`.
    """
    content = read_checkpoint(path, config, allow)
    by = "" if content.source == "taming" else f" of {content.source}"
    target = content.config["model"]["target"]
    lines = [
        f"{find_checkpoint(path)}: {content.stage} stage{by}, {target}, {content.batches} batches",
        *(f"  configuration: {config}" for config in content.configs),
        *_parts(content),
        *_codebooks(content.weights),
        *_card(content.card),
        *_oddities(content),
        *(f"  note: {note}" for note in content.notes),
        *(f"  validation {name}: {value:.5g}" for name, value in content.figures.items()),
    ]
    train = content.config["data"]["train"]
    if content.source == "taming" and train:
        lines.append(f"  trained on {train.get('target')} with seed {content.config['seed']}")
    return "\n".join(line.replace("\n", " ") for line in lines)


def _parts(content: Content) -> Iterator[str]:
    """How large each part of the model, and of the loss, is."""
    depth = 2 if content.stage == "second" else 1
    tensors = {**content.weights, **{f"loss.{k}": v for k, v in content.loss.items()}}
    parts: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        parts.setdefault(".".join(name.split(".")[:depth]), []).append(tensor)
    for part, members in parts.items():
        millions = sum(tensor.numel() for tensor in members) / 1e6
        yield f"  {part:<28} {len(members):>4} tensors {millions:>9.3f} M parameters"


def _card(card: Card) -> Iterator[str]:
    """Labels with their colours, classes, size, data and recommended settings."""
    if card.labels:
        colours = card.colours or Legend.of(card.labels).colours
        drawn = (f"{n} {hexadecimal(c)}" for n, c in zip(card.labels[:MOST_NAMES], colours))
        yield f"  labels: {', '.join(drawn)}{_rest(card.labels)}"
    if card.classes:
        yield f"  classes: {', '.join(card.classes[:MOST_NAMES])}{_rest(card.classes)}"
    if card.size:
        yield f"  size: {card.size[0]}x{card.size[1]} (height x width)"
    if card.data:
        yield f"  data: {card.data}"
    if card.sampling:
        settings = (f"{name} {value}" for name, value in card.sampling.items())
        yield f"  recommended: {', '.join(settings)}"


def _rest(names: tuple[str, ...]) -> str:
    return f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""


def _codebooks(weights: dict[str, Tensor]) -> Iterator[str]:
    for name, tensor in weights.items():
        if name.endswith("embedding.weight") and "quantizer" in name and tensor.ndim == 2:
            part = name.removesuffix(".embedding.weight")
            yield f"  codebook {part}: {tensor.shape[0]} codes of {tensor.shape[1]} numbers"


def _oddities(content: Content) -> Iterator[str]:
    names = non_finite(content.weights)
    if names:
        yield f"  NaN or infinity in {count(names, 'tensor')}"
    for name in sorted(content.unknown)[:UNKNOWN_NAMES]:
        yield f"  unknown: {name}"
    for name, reason in content.unused.items():
        yield f"  unused {name}: {reason}"

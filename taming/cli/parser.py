"""What the verbs share: a parser that raises, the flags that several have, sizes and lists."""

import argparse
import dataclasses
import os
import typing
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

from taming.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from taming.config.sampling import Sampling


class Parser(argparse.ArgumentParser):
    """Raises instead of exiting: one line, with a did-you-mean."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message}; see: {self.prog} --help")

    def parse(self, words: list[str]) -> argparse.Namespace:
        self._refuse_nothing(words)
        arguments, unknown = self.parse_known_args(words)
        # Argparse takes key=value only in one run; users put them between flags too
        if hasattr(arguments, "overrides"):
            between = [word for word in unknown if "=" in word and not word.startswith("-")]
            arguments.overrides += between
            unknown = [word for word in unknown if word not in between]
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            hint = did_you_mean(unknown[0].split("=")[0], flags) if unknown[0][:1] == "-" else ""
            raise UserError(f"unknown argument '{unknown[0]}'{hint}; see: {self.prog} --help")
        return arguments

    def _refuse_nothing(self, words: list[str]) -> None:
        """Empty words are mistakes of shell scripts; of --flag=-- argparse makes a list."""
        for flag, word in zip(["an argument", *words], words):
            if not word:
                raise UserError(f"{flag} is empty; see: {self.prog} --help")
            if word.startswith("--") and word.endswith(("=", "=--")):
                raise UserError(f"{word.split('=')[0]} is empty; see: {self.prog} --help")


class Chosen(argparse.Action):
    """Stores a value and remembers that the user gave it: what is not given, a checkpoint may
    recommend.
    """

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, values)
        namespace.chosen = {*getattr(namespace, "chosen", ()), self.dest}


def add_checkpoint(parser: Parser, help: str | None = None, **options: Any) -> None:
    """CKPT, and what may be needed to load it."""
    words = "a checkpoint, a run folder, or the name of a shipped model (landscapes)"
    parser.add_argument("checkpoint", metavar="CKPT", help=help or words, **options)
    add_loading(parser)


def add_loading(parser: Parser) -> None:
    parser.add_argument(
        "--config",
        metavar="YAML",
        help="came with a published checkpoint; default: the one beside it",
    )
    add_allow(parser)


def add_allow(parser: Parser) -> None:
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        type=package,
        metavar="PKG",
        help=(
            "your own package, of which CKPT may name classes; they are imported and run, so only"
            " where you trust the file"
        ),
    )


def package(text: str) -> str:
    """An argparse type: the name of a package, or of a module in one."""
    if not all(part.isidentifier() for part in text.split(".")):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no name of a package such as mine or my.nets"
        )
    return text


def positive(text: str) -> int:
    """An argparse type: a whole number of at least one."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number < 2**31:
        raise argparse.ArgumentTypeError(f"{text} should be a whole number of at least 1")
    return number


def whole(text: str) -> int:
    """An argparse type: a whole number from zero."""
    return 0 if text == "0" else positive(text)


def size_of(text: str) -> tuple[int, int]:
    """An argparse type: 64x96 or 64 -> (height, width)."""
    parts = text.lower().split("x")
    numbers = [int(p) if p.isascii() and p.isdigit() and len(p) < 7 else 0 for p in parts]
    if len(numbers) > 2 or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give height x width, for example 64x96")
    return numbers[0], numbers[-1]


def numbers_of(text: str) -> list[int]:
    """An argparse type: 0,1 -> [0, 1]."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = [-1]
    if any(not 0 <= number < 2**31 for number in numbers):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of numbers such as 0,1")
    return numbers


def strengths_of(text: str) -> dict[str, float]:
    """An argparse type: sky:1.5,water:4 -> {"sky": 1.5, "water": 4.0}."""
    pairs = [part.rpartition(":") for part in text.split(",") if part.strip()]
    try:
        if not all(name.strip() for name, _, _ in pairs):
            raise ValueError
        return {name.strip(): float(number) for name, _, number in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no list such as sky:1.5,water:4") from None


def add_sampling(parser: argparse._ActionsContainer, leave_out: Container[str] = ()) -> None:
    """A flag for each field of `Sampling`."""
    from taming.config.sampling import Sampling

    hints = typing.get_type_hints(Sampling)
    for field in dataclasses.fields(Sampling):
        if field.name in leave_out:
            continue
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=_kind(hints[field.name]),
            default=field.default,
            help=field.metadata["help"],
            metavar=field.metadata.get("metavar"),
            action=Chosen,
        )


def _kind(hint: Any) -> Callable[[str], Any]:
    """What makes a value of this type out of a word."""
    options = [one for one in typing.get_args(hint) if one is not type(None)] or [hint]
    if typing.get_origin(hint) is typing.Literal:
        return str  # checked with all other fields
    if typing.get_origin(options[0]) is dict:
        return strengths_of
    return size_of if typing.get_origin(options[0]) is tuple else options[0]


def sampling_of(arguments: argparse.Namespace, leave_out: Container[str] = ()) -> "Sampling":
    """What the flags of `add_sampling` say, checked."""
    from taming.config.sampling import Sampling

    names = [field.name for field in dataclasses.fields(Sampling) if field.name not in leave_out]
    return Sampling.of(**{name: getattr(arguments, name) for name in names})


def chosen_sampling(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the user gave of the flags of `add_sampling`, checked."""
    from taming.config.sampling import Sampling

    names = {field.name for field in dataclasses.fields(Sampling)}
    chosen = names & getattr(arguments, "chosen", set())
    values = {name: getattr(arguments, name) for name in chosen}
    Sampling.of(**values)
    return values


def gpu_overrides(devices: list[int]) -> list[str]:
    """--gpus 0,1 -> our keys."""
    if devices != list(range(len(devices))):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
    return ["trainer.accelerator=gpu", f"trainer.devices={len(devices)}"]


def quiet_lightning() -> None:
    """Lightning's advice and advertisements are not for the user of this program."""
    import logging
    import warnings

    for name in (
        "pytorch_lightning",
        "lightning.pytorch",
        "lightning_fabric",
        "pytorch_lightning.utilities.rank_zero",
        "lightning_utilities",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")

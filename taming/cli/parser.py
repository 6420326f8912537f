"""What the verbs share: a parser that raises, sizes, lists of numbers."""

import argparse
import os

from taming.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """Raises instead of exiting: one line, with a did-you-mean."""

    def __init__(self, **how):
        super().__init__(allow_abbrev=False, **how)

    def error(self, message: str):
        raise UserError(f"{message}; see: {self.prog} --help")

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        found, unknown = self.parse_known_args(arguments)
        # Argparse takes key=value only in one run; users put them between flags too
        if hasattr(found, "overrides"):
            found.overrides += [
                word for word in unknown if "=" in word and not word.startswith("-")
            ]
            unknown = [word for word in unknown if word not in found.overrides]
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            raise UserError(
                f"unknown argument '{unknown[0]}'{did_you_mean(unknown[0].split('=')[0], flags)};"
                f" see: {self.prog} --help"
            )
        return found


def gpu_overrides(text: str) -> list[str]:
    devices = numbers(text)
    if devices != list(range(len(devices))):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
    return ["trainer.accelerator=gpu", f"trainer.devices={len(devices)}"]


def numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"'{text}' is not a list of numbers such as 0,1") from None


def size_of(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    text = text if "x" in text.lower() else f"{text}x{text}"
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isdigit() and int(p) for p in parts):
        raise UserError(f"--size {text}: give height x width, for example 64x96")
    return int(parts[0]), int(parts[1])


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

"""The command line: argparse only; what is heavy is imported inside the verb, so that help answers
at once.
"""

import sys

from taming.cli.checkpoints import convert, export, inspect
from taming.cli.demo import demo
from taming.cli.folders import compress, decompress, encode, reconstruct
from taming.cli.measure import doctor, evaluate, report
from taming.cli.sample import sample
from taming.cli.train import train
from taming.errors import UserError, did_you_mean


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Runs a verb and returns the exit code. A user's mistake is one line on stderr and code 2."""
    try:
        _dispatch(list(arguments))
    except UserError as error:
        # From a data loader's worker it comes wrapped in a traceback
        told = str(error).split("UserError: ")[-1]
        print(f"taming: {' '.join(told.split())}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("taming: interrupted before anything was there to save", file=sys.stderr)
        return 130
    except SystemExit as stop:  # argparse's --help
        return int(stop.code or 0)
    return 0


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
    elif arguments[0] in VERBS:
        VERBS[arguments[0]](arguments[1:])
    elif arguments[0].startswith("-"):
        train(arguments)  # python main.py --base config.yaml -t True --gpus 0,
    else:
        raise UserError(f"unknown verb '{arguments[0]}'{did_you_mean(arguments[0], VERBS)}")


def overview() -> str:
    lines = [f"  {name:<12} {verb.__doc__.splitlines()[0]}" for name, verb in VERBS.items()]
    return (
        "taming VERB ...   VQ-GAN and its family, with a Transformer prior\n\n"
        + "\n".join(lines)
        + "\n\ntaming VERB --help tells a verb's arguments."
    )


VERBS = {
    "train": train,
    "sample": sample,
    "reconstruct": reconstruct,
    "encode": encode,
    "compress": compress,
    "decompress": decompress,
    "inspect": inspect,
    "convert": convert,
    "export": export,
    "evaluate": evaluate,
    "report": report,
    "doctor": doctor,
    "demo": demo,
}

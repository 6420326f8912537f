"""taming train."""

import argparse
import sys
from pathlib import Path

from taming.cli.parser import Parser, add_loading, gpu_overrides, numbers_of, quiet_lightning
from taming.errors import UserError

YES = ("true", "t", "1", "yes", "y")


def train(words: list[str]) -> None:
    """Train a first or a second stage from a configuration, or resume a run."""
    arguments = _parser().parse(words)
    _check_combinations(arguments)
    overrides = arguments.overrides + [base for base in arguments.base if "=" in base]
    bases = [base for base in arguments.base if "=" not in base]
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    if arguments.gpus is not None:
        overrides += gpu_overrides(arguments.gpus)
    if arguments.start_from and not bases and not arguments.resume:
        print(_fine_tune(arguments, overrides))
        return
    if arguments.decoder_only:
        overrides.append("trainer.freeze_codes=true")
    folder = _folder(arguments, bases, overrides)

    from taming import config
    from taming.formats.compvis.overrides import translated_start

    start = translated_start(bases, overrides, arguments.start_from)
    for note in start.notes:
        print(f"published configuration: {note}", file=sys.stderr)
    resumed = folder / "config.yaml" if arguments.resume else None
    experiment = config.load(start.bases, start.overrides, arguments.allow, resumed)
    quiet_lightning()
    from taming.training import run

    checkpoint = arguments.resume if Path(arguments.resume or "").is_file() else None
    resume, fitting = checkpoint or bool(arguments.resume), arguments.fitting
    print(run.train(experiment, folder, resume, start.checkpoint, fitting, arguments.config))


def _fine_tune(arguments: argparse.Namespace, overrides: list[str]) -> Path:
    """--from without -b: goes on from what the checkpoint is, on pictures of one's own."""
    folder = Path("runs") / (arguments.name or f"{Path(arguments.start_from).stem}_tuned")
    quiet_lightning()
    from taming.training.fine_tune import fine_tune, request_of

    request = request_of(arguments.start_from, folder, overrides, arguments.decoder_only)
    return fine_tune(request)


def _parser() -> Parser:
    parser = Parser(
        prog="taming train",
        description=train.__doc__,
        epilog="taming keys lists every key and every class; taming configs what there is to start"
        " from.",
    )
    # From a configuration, or from where a run stopped
    parser.add_argument(
        "-b",
        "--base",
        nargs="+",
        default=[],
        metavar="CONFIG",
        help="YAML files, or names of shipped ones (see: taming configs), merged left to right",
    )
    parser.add_argument(
        "-r",
        "--resume",
        metavar="RUN",
        help="resume this run folder (or its checkpoint) exactly where it stopped",
    )
    parser.add_argument(
        "-n",
        "--name",
        help="the run's folder is runs/NAME; default: the name of the last configuration",
    )
    # Short forms of keys, as CompVis users write them
    parser.add_argument("-s", "--seed", type=int, help="the same as seed=...")
    parser.add_argument(
        "-t",
        "--train",
        nargs="?",
        const="True",
        default="True",
        help="accepted as CompVis users write it; False is refused",
    )
    parser.add_argument(
        "--gpus",
        type=numbers_of,
        metavar="0,1",
        help="run on these GPUs; the same as trainer.accelerator=gpu trainer.devices=...",
    )
    # Weights to start from
    parser.add_argument(
        "--from",
        dest="start_from",
        metavar="CKPT",
        help="take weights from here (ours or published), then train from batch 0; without -b the"
        " checkpoint is fine-tuned: variables.root=DIR, stages=prior",
    )
    parser.add_argument(
        "--decoder-only",
        action="store_true",
        help="with --from: of a first stage the decoder alone learns, so that codes keep their"
        " meaning",
    )
    parser.add_argument(
        "--fitting",
        action="store_true",
        help="with --from: take what has the right shape, and list the rest",
    )
    add_loading(parser)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="for example optimizer.learning_rate=1e-3 data.batch_size=4",
    )
    return parser


def _check_combinations(arguments: argparse.Namespace) -> None:
    if str(arguments.train).lower() not in YES:
        raise UserError(
            f"-t {arguments.train}: this command only trains; to test, use taming reconstruct or"
            " taming sample"
        )
    if arguments.resume and arguments.start_from:
        raise UserError(
            "-r and --from exclude each other: -r resumes a run, --from starts one from weights"
        )
    if arguments.decoder_only and not arguments.start_from:
        raise UserError("--decoder-only says what learns of a trained model; give --from too")
    if (arguments.fitting or arguments.config) and not arguments.start_from:
        raise UserError("--fitting and --config say how --from takes weights; give --from too")


def _folder(arguments: argparse.Namespace, bases: list[str], overrides: list[str]) -> Path:
    """The run's."""
    if arguments.resume:
        for override in overrides:
            if override.split("=")[0].split(".")[0] in ("model", "variables"):
                raise UserError(
                    f"{override}: a resumed run keeps its model, and its variables are filled in"
                    " already; start a new one with -b, or name the key itself"
                )
        return _run_folder(arguments.resume)
    if not bases:
        raise UserError("nothing to train: give a configuration with -b, or a run to resume by -r")
    name = arguments.name if arguments.name is not None else Path(bases[-1]).stem
    if not Path(name).name or ".." in Path(name).parts:
        raise UserError(f"-n '{name}' is no name for a folder in runs/")
    return Path("runs") / name


def _run_folder(name: str) -> Path:
    """runs/x, x, or one of the checkpoints in runs/x/checkpoints -> the run's folder."""
    from taming.formats.sharded import last_checkpoint

    path = Path(name)
    if path.is_file():
        folder = path.resolve().parent.parent
        if path.suffix == ".ckpt" and (folder / "config.yaml").is_file():
            return path.parent.parent if len(path.parts) > 2 else folder
        raise UserError(
            f"-r {name}: is no checkpoint in the folder of a run; to start a new run from these"
            " weights, use --from"
        )
    for folder in (path, Path("runs") / name):
        if not (folder / "config.yaml").is_file():
            continue
        best = folder / "checkpoints" / "best.ckpt"
        if last_checkpoint(folder):
            return folder
        if best.is_file():
            raise UserError(
                f"-r {name}: the run has no last.ckpt; resume it from its best one with -r {best}"
            )
    raise UserError(
        f"-r {name}: no run with config.yaml and checkpoints/last.ckpt there; start one with -b"
        " CONFIG"
    )

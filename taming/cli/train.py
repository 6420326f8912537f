"""taming train."""

from pathlib import Path

from taming.cli.overrides import translated
from taming.cli.parser import Parser, gpu_overrides, quiet_lightning
from taming.errors import UserError


def train(arguments: list[str]) -> None:
    """Train a first or a second stage from a configuration, or go on with a run."""
    parser = Parser(prog="taming train", description=train.__doc__)
    parser.add_argument(
        "-b",
        "--base",
        nargs="+",
        default=[],
        metavar="CONFIG",
        help="YAML files, merged from left to right",
    )
    parser.add_argument(
        "-r",
        "--resume",
        metavar="RUN",
        help="go on with this run folder (or its checkpoint), exactly where it stopped",
    )
    parser.add_argument(
        "-n",
        "--name",
        help="the run's folder is runs/NAME; default: the name of the last configuration",
    )
    parser.add_argument("-s", "--seed", type=int)
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
        metavar="0,1",
        help="run on these GPUs; the same as trainer.accelerator=gpu trainer.devices=...",
    )
    parser.add_argument(
        "--from",
        dest="start_from",
        metavar="CKPT",
        help="take weights from here (ours or published), then train from batch 0",
    )
    parser.add_argument(
        "--config",
        metavar="YAML",
        help="what came with a published --from; default: what lies beside it",
    )
    parser.add_argument(
        "--fitting",
        action="store_true",
        help="with --from: take what has the right shape, and say what was left",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="for example optimizer.learning_rate=1e-3 data.batch_size=4",
    )
    given = parser.parse(arguments)
    overrides = given.overrides + [b for b in given.base if "=" in b]
    bases = [b for b in given.base if "=" not in b]
    if str(given.train).lower() not in ("true", "t", "1", "yes", "y"):
        raise UserError(
            f"-t {given.train}: only training is done here; to test, use taming reconstruct or"
            " taming sample"
        )
    if given.seed is not None:
        overrides.append(f"seed={given.seed}")
    if given.gpus is not None:
        overrides += gpu_overrides(given.gpus)
    if given.resume and given.start_from:
        raise UserError(
            "-r and --from exclude each other: -r goes on with a run, --from starts one from"
            " weights"
        )
    if (given.fitting or given.config) and not given.start_from:
        raise UserError("--fitting and --config say how --from takes weights; give --from too")
    resumed = None
    if given.resume:
        folder = _run_folder(given.resume)
        for override in overrides:
            if override.split("=")[0].split(".")[0] in ("model", "variables"):
                raise UserError(
                    f"{override}: a run that goes on keeps its model, and its variables are filled"
                    " in already; start a new one with -b, or name the key itself"
                )
        resumed = folder / "config.yaml"
    elif bases:
        folder = Path("runs") / (given.name or Path(bases[-1]).stem)
    else:
        raise UserError(
            "nothing to train: give a configuration with -b, or a run to go on with by -r"
        )

    from taming import config

    bases, overrides, start_from = translated(bases, overrides, given)
    experiment = config.load(bases, overrides, resumed=resumed)
    quiet_lightning()
    from taming.training import run

    print(
        run.train(experiment, folder, bool(given.resume), start_from, given.fitting, given.config)
    )


def _run_folder(name: str) -> Path:
    """runs/x, runs/x/checkpoints/last.ckpt or x -> the run's folder."""
    path = Path(name)
    if path.is_file() and path.name == "last.ckpt":
        path = path.parent.parent
    elif path.is_file():
        raise UserError(
            f"-r {name}: a run goes on from its last.ckpt; to start a new one from these weights,"
            " use --from"
        )
    for folder in (path, Path("runs") / name):
        if (folder / "config.yaml").is_file() and (folder / "checkpoints" / "last.ckpt").is_file():
            return folder
    raise UserError(
        f"-r {name}: no run with config.yaml and checkpoints/last.ckpt there; start one with -b"
        " CONFIG"
    )

"""taming evaluate, report, doctor."""

from pathlib import Path

from taming.cli.parser import Parser, quiet_lightning, size_of
from taming.errors import UserError


def evaluate(arguments: list[str]) -> None:
    """Measure a checkpoint, or two folders of pictures; every figure carries the protocol that made
    it.
    """
    parser = Parser(prog="taming evaluate", description=evaluate.__doc__)
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        nargs="?",
        help="a first or second stage; without, --data and --samples are compared",
    )
    parser.add_argument(
        "--config",
        metavar="YAML",
        help="what came with a published checkpoint; default: what lies beside it",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help=(
            "pictures, or images/ and segmentations/, with train.txt and validation.txt; default:"
            " what CKPT was trained on"
        ),
    )
    parser.add_argument(
        "--train", metavar="DIR", help="the training pictures, where DIR has no train.txt"
    )
    parser.add_argument(
        "--samples",
        metavar="DIR",
        help=(
            "pictures that were drawn; default: a second stage draws one for each picture of the"
            " data"
        ),
    )
    parser.add_argument(
        "--features",
        metavar="NAME|FILE",
        help=(
            "inception (default), a torchvision model, NAME:WEIGHTS, or a VGG16 .safetensors file"
            " (@3: its third block)"
        ),
    )
    parser.add_argument(
        "--feature-size",
        metavar="HxW",
        help="what pictures are resized to for the features; default: the network's own",
    )
    parser.add_argument(
        "--segmenter",
        metavar="CKPT",
        help=(
            "of taming train -b configs/segmenter/...: measures how faithful samples are to their"
            " masks"
        ),
    )
    parser.add_argument(
        "--size",
        metavar="HxW",
        help="bring all pictures to this size; default: what CKPT was trained on",
    )
    parser.add_argument(
        "--pictures", type=int, metavar="N", help="measure on so many, spread evenly; default: all"
    )
    parser.add_argument(
        "--train-pictures",
        type=int,
        default=2000,
        metavar="N",
        help="at most so many training pictures, spread evenly",
    )
    parser.add_argument(
        "--only",
        metavar="A,B",
        help="some of reconstruction, codes, likelihood, generation, layout",
    )
    parser.add_argument(
        "--reference", metavar="FILE", help="stored statistics instead of real pictures' features"
    )
    parser.add_argument(
        "--store-reference",
        metavar="FILE",
        help="write the statistics of the real pictures' features (.npz)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="of the samples that are drawn here, as for taming sample",
    )
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="of samples and intervals")
    parser.add_argument("--batch-size", type=int, default=32, help="changes no figure")
    parser.add_argument(
        "-o",
        "--out",
        metavar="FIGURES.json",
        help=(
            "default: figures.json, in the run's folder where CKPT is one; pictures go into a"
            " folder beside"
        ),
    )
    given = parser.parse(arguments)
    quiet_lightning()
    out = Path(
        given.out
        or (
            Path(given.checkpoint or "") / "figures.json"
            if Path(given.checkpoint or "").is_dir()
            else "figures.json"
        )
    )
    if out.suffix != ".json":
        raise UserError(f"-o {out} should end in .json")

    from taming.evaluation import evaluate as measuring
    from taming.second_stage.sampling import Sampling

    names = (
        "checkpoint",
        "data",
        "train",
        "samples",
        "features",
        "segmenter",
        "pictures",
        "train_pictures",
        "reference",
        "store_reference",
        "seed",
        "batch_size",
    )
    how = {name: getattr(given, name) for name in names} | {
        "size": size_of(given.size),
        "feature_size": size_of(given.feature_size),
        "yaml": given.config,
    }
    if given.only:
        how["only"] = tuple(part.strip() for part in given.only.split(","))
    how["drawing"] = Sampling(
        **{
            name: getattr(given, name)
            for name in ("seed", "temperature", "top_k", "top_p", "guidance")
        }
    )
    print(measuring.evaluate(out, **how).table())


def report(arguments: list[str]) -> None:
    """Write one page about one or several runs, side by side."""
    parser = Parser(prog="taming report", description=report.__doc__)
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="folders of taming train; what taming evaluate RUN wrote there is shown too",
    )
    parser.add_argument(
        "-o",
        "--out",
        default="report.html",
        metavar="FILE.html",
        help="plots go, as PNG, into a folder of the same name",
    )
    given = parser.parse(arguments)
    if not given.out.endswith(".html"):
        raise UserError(f"-o {given.out} should end in .html")

    from taming.evaluation import comparison

    print(comparison.write(given.runs, given.out))


def doctor(arguments: list[str]) -> None:
    """Say in plain words what is wrong with a run, and what to change."""
    parser = Parser(prog="taming doctor", description=doctor.__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+")
    given = parser.parse(arguments)

    from taming.evaluation import doctor as surgery

    for run in given.runs:
        print(surgery.diagnose(run))

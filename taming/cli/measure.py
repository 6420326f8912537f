"""taming evaluate, report, doctor."""

import argparse
from pathlib import Path

from taming.cli.parser import (
    Parser,
    add_allow,
    add_checkpoint,
    add_sampling,
    positive,
    quiet_lightning,
    sampling_of,
    size_of,
)
from taming.errors import UserError

# Fields of Sampling that evaluate has no flag for, or one for all that it measures
NOT_MEASURED = ("size", "accept", "classifier", "precision")


def evaluate(words: list[str]) -> None:
    """Measure a checkpoint, or two folders of pictures."""
    # 1. what is said
    arguments = _evaluate_parser().parse(words)
    quiet_lightning()
    out = _figures_file(arguments)

    from taming.evaluation import path
    from taming.evaluation.evaluate import evaluate as measure
    from taming.inference.share import share_of_process

    # 2. the figures
    options = {"only": _parts(arguments.only)} if arguments.only is not None else {}
    figures = measure(
        out,
        checkpoint=arguments.checkpoint,
        data=arguments.data,
        train=arguments.train,
        samples=arguments.samples,
        features=arguments.features,
        feature_size=arguments.feature_size,
        segmenter=arguments.segmenter,
        size=arguments.size,
        pictures=arguments.pictures,
        train_pictures=arguments.train_pictures,
        reference=arguments.reference,
        store_reference=arguments.store_reference,
        seed=arguments.seed,
        precision=arguments.precision,
        shard=arguments.shard,
        merge=arguments.merge,
        batch_size=arguments.batch_size,
        config=arguments.config,
        allow=arguments.allow,
        sampling=sampling_of(arguments, NOT_MEASURED),
        **options,
    )
    # 3. the table, once
    if share_of_process().rank == 0:
        if arguments.shard is not None:
            print(
                f"rows of share {arguments.shard} in '{out.with_suffix('')}'; put them together:"
                f" taming evaluate ... --merge {out} ..."
            )
        else:
            print("\n\n".join(filter(None, (figures.table(), path.text(figures)))))


def _evaluate_parser() -> Parser:
    description = f"{evaluate.__doc__} Every figure carries the protocol that it was measured by."
    parser = Parser(prog="taming evaluate", description=description)
    # What is measured, on what
    add_checkpoint(
        parser,
        help="a first or second stage; without, --data and --samples are compared",
        nargs="?",
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
    # By which networks
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
        type=size_of,
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
        type=size_of,
        metavar="HxW",
        help="bring all pictures to this size; default: what CKPT was trained on",
    )
    # How much of it
    parser.add_argument(
        "--pictures",
        type=positive,
        metavar="N",
        help="measure on this many, evenly spaced in the list; default: all",
    )
    parser.add_argument(
        "--train-pictures",
        type=positive,
        default=2000,
        metavar="N",
        help="at most this many training pictures, evenly spaced in the list",
    )
    parser.add_argument(
        "--only",
        metavar="A,B",
        help="some of reconstruction, codes, likelihood, condition, generation, layout, path",
    )
    # What is read and written
    parser.add_argument(
        "--reference", metavar="FILE", help="stored statistics instead of real pictures' features"
    )
    parser.add_argument(
        "--store-reference",
        metavar="FILE",
        help="write the statistics of the real pictures' features (.npz)",
    )
    parser.add_argument("--batch-size", type=positive, default=32, help="changes no figure")
    parser.add_argument(
        "--precision",
        choices=("32-true", "bf16-mixed", "auto"),
        default="32-true",
        help="auto: bfloat16 where the processor is faster at it; figures move a little",
    )
    parser.add_argument(
        "--shard",
        metavar="i/n",
        help="measure share i (from 0) of n, on machines without a common disk",
    )
    parser.add_argument(
        "--merge",
        nargs="+",
        default=[],
        metavar="OUT.json",
        help="with the same arguments otherwise: put together what --shard measured",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="FIGURES.json",
        help=(
            "default: figures.json, in the run's folder where CKPT is one; pictures go into a"
            " folder beside"
        ),
    )
    add_sampling(parser.add_argument_group("for samples that are drawn here"), NOT_MEASURED)
    return parser


def _figures_file(arguments: argparse.Namespace) -> Path:
    if arguments.out is None:
        run = Path(arguments.checkpoint or "")
        return run / "figures.json" if run.is_dir() else Path("figures.json")
    from taming.files import check_ending

    check_ending(arguments.out, ".json")
    return Path(arguments.out)


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise UserError("--only names nothing; leave it out to measure everything")
    return parts


def report(words: list[str]) -> None:
    """Write one page about one or several runs, side by side."""
    parser = Parser(prog="taming report", description=report.__doc__)
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="folders of taming train; figures of taming evaluate RUN are included",
    )
    parser.add_argument(
        "-o",
        "--out",
        default="report.html",
        metavar="FILE.html",
        help="plots go, as PNG, into a folder of the same name",
    )
    add_allow(parser)
    arguments = parser.parse(words)

    from taming.evaluation.comparison import write
    from taming.files import check_ending, check_output

    check_ending(arguments.out, ".html")
    check_output(arguments.out, arguments.runs, (".html",))
    print(write(arguments.runs, arguments.out, arguments.allow))


def doctor(words: list[str]) -> None:
    """Say in plain words what is wrong with a run, and what to change."""
    parser = Parser(prog="taming doctor", description=doctor.__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+")
    add_allow(parser)
    arguments = parser.parse(words)

    from taming.evaluation.doctor import diagnose

    for run in arguments.runs:
        print(diagnose(run, arguments.allow))

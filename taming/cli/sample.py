"""taming sample."""

import argparse

from taming.cli.parser import (
    Parser,
    add_checkpoint,
    add_sampling,
    numbers_of,
    positive,
    sampling_of,
)
from taming.errors import UserError


def sample(words: list[str]) -> None:
    """Draw pictures of any size from masks, other pictures, classes, or nothing."""
    parser = _parser()
    arguments = parser.parse(words)
    _check_combinations(arguments, parser)
    if arguments.from_png:
        from taming.inference.repeat import sample_again

        print(sample_again(arguments.from_png, arguments.out, arguments.overwrite, arguments.allow))
        return

    from taming.inference.sample import sample as sample_folder

    sheet = sample_folder(
        arguments.checkpoint,
        arguments.out,
        sampling_of(arguments),
        masks=arguments.masks,
        images=arguments.images,
        classes=arguments.classes,
        samples=arguments.n,
        known=(arguments.known, arguments.known_mask) if arguments.known else None,
        batch_size=arguments.batch_size,
        animate=arguments.animate,
        overwrite=arguments.overwrite,
        config=arguments.config,
        allow=arguments.allow,
    )
    print(sheet)


def _parser() -> Parser:
    parser = Parser(prog="taming sample", description=sample.__doc__)
    add_checkpoint(parser, nargs="?")
    parser.add_argument(
        "--from-png",
        metavar="FILE",
        help="draw again what is in a PNG that this command wrote; needs no CKPT",
    )
    parser.add_argument("-o", "--out", default="samples", metavar="OUT", help="a folder")
    parser.add_argument(
        "--overwrite", action="store_true", help="draw again what is in OUT with other settings"
    )

    what = parser.add_argument_group("what to draw").add_mutually_exclusive_group()
    what.add_argument(
        "--masks", metavar="DIR", help="folder of label maps (8-bit PNG), or one of them"
    )
    what.add_argument(
        "--images",
        metavar="DIR",
        help="folder of pictures or depth maps, for a prior conditioned on them",
    )
    what.add_argument("--classes", type=numbers_of, metavar="A,B", help="class numbers")
    parser.add_argument(
        "-n",
        type=positive,
        default=1,
        help="samples of each mask, picture or class; without any: samples in all",
    )
    parser.add_argument("--known", metavar="IMAGE", help="a picture of which a part stays")
    parser.add_argument(
        "--known-mask",
        metavar="MASK",
        help="what stays of it: a mask (where not black), or top, left, top:0.3, ...",
    )

    add_sampling(parser)
    parser.add_argument("--batch-size", type=positive, default=16, help="drawn together")
    parser.add_argument(
        "--animate", action="store_true", help="also write a GIF of each picture growing"
    )
    return parser


def _check_combinations(arguments: argparse.Namespace, parser: Parser) -> None:
    if (arguments.checkpoint is None) == (arguments.from_png is None):
        raise UserError("sample needs either CKPT or --from-png FILE; see: taming sample --help")
    if (arguments.known is None) != (arguments.known_mask is None):
        raise UserError(
            "--known IMAGE and --known-mask MASK go together: the picture, and what of it stays"
        )
    if (arguments.accept != 1) != (arguments.classifier is not None):
        raise UserError(
            "--accept A (a share above 0) and --classifier NAME go together: how many pictures are"
            " taken, and who chooses"
        )
    if arguments.accept != 1 and arguments.classes is None:
        raise UserError(
            "--accept compares classes, so it needs --classes; for masks use"
            " taming.second_stage.rejection in Python"
        )
    if arguments.animate and arguments.accept != 1:
        raise UserError(
            "--animate shows one picture growing, --accept draws several and takes the best; leave"
            " one out"
        )
    if arguments.from_png:
        _check_nothing_else(arguments, parser)


def _check_nothing_else(arguments: argparse.Namespace, parser: Parser) -> None:
    free = {"checkpoint", "from_png", "out", "overwrite", "allow"}
    for name, value in vars(arguments).items():
        if name not in free and value != parser.get_default(name):
            raise UserError(
                f"--{name.replace('_', '-')} {value}: --from-png draws what the PNG says; only -o,"
                " --overwrite and --allow go with it"
            )

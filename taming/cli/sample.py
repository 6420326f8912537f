"""taming sample."""

import argparse

from taming.cli.parser import Parser, add_checkpoint, add_sampling, chosen_sampling, positive, whole
from taming.errors import UserError

ENTRIES = (  # the fields of inference.entries.Entries, in their order
    ("text", "PROMPT", "what the picture shows, such as: a lake at dusk"),
    ("boxes", "FILE", "objects in places: COCO's JSON, Open Images' CSV, or a short JSON"),
    ("depth", "DIR", "folder of depth maps, or one of them"),
    ("edges-of", "DIR", "folder of pictures, or one of them, whose edges are drawn"),
    ("low-res", "DIR", "folder of small pictures, or one of them, to be enlarged"),
    ("style", "IMAGE", "a picture, or a folder of them, whose colours and textures are taken"),
)


def sample(words: list[str]) -> None:
    """Draw pictures of any size from masks, text, boxes, other pictures, classes, or nothing."""
    parser = _parser()
    arguments = parser.parse(words)
    _check_combinations(arguments, parser)
    if arguments.from_png:
        from taming.inference.repeat import sample_again

        print(sample_again(arguments.from_png, arguments.out, arguments.overwrite, arguments.allow))
        return

    from taming.inference.entries import Entries
    from taming.inference.sample import sample as sample_folder

    sheet = sample_folder(
        arguments.checkpoint,
        arguments.out,
        masks=arguments.masks,
        images=arguments.images,
        classes=arguments.classes,
        entries=Entries(*(getattr(arguments, name.replace("-", "_")) for name, _, _ in ENTRIES)),
        samples=arguments.n,
        legend=arguments.legend,
        convention=arguments.convention,
        known=(arguments.known, arguments.known_mask or "") if arguments.known else None,
        extend=arguments.extend,
        seam=arguments.seam,
        batch_size=arguments.batch_size,
        animate=arguments.animate,
        overwrite=arguments.overwrite,
        shard=arguments.shard,
        form=arguments.format,
        config=arguments.config,
        allow=arguments.allow,
        **chosen_sampling(arguments),
    )
    print(sheet)


def _parser() -> Parser:
    # With what, and where to
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

    # What to draw, and how its layouts are read
    what = parser.add_argument_group(
        "what to draw", "one of these, of a prior with two conditions one or both"
    )
    what.add_argument(
        "--masks",
        metavar="DIR",
        help="folder of layouts, or one of them: labels or colours, in any lossless format",
    )
    what.add_argument(
        "--images",
        metavar="DIR",
        help="folder of pictures or depth maps, for a prior conditioned on them",
    )
    what.add_argument(
        "--classes", type=classes_of, metavar="A,B", help="of pictures, by number or by name"
    )
    for name, metavar, words in ENTRIES:
        what.add_argument(f"--{name}", metavar=metavar, help=words)
    parser.add_argument(
        "-n",
        type=positive,
        default=1,
        help="samples of each mask, picture or class; without any: samples in all",
    )
    parser.add_argument(
        "--legend",
        metavar="FILE",
        help="names and colours of the layouts, if not the model's: lines such as: 0 sky #87beeb",
    )
    parser.add_argument(
        "--convention",
        choices=("ade20k", "coco-stuff", "cityscapes"),
        help="what the numbers in masks of a published set mean",
    )
    # What stays of a picture
    parser.add_argument(
        "--known", metavar="IMAGE", help="a picture of which a part stays, to the bit"
    )
    parser.add_argument(
        "--known-mask",
        metavar="MASK",
        help="what stays of it: a mask (where not black); top, bottom, left or right (a half, or"
        " top:0.3); label:water; not:label:water",
    )
    parser.add_argument(
        "--extend",
        metavar="SIDE:PIXELS",
        help="continue the known picture beyond its sides: right:64, or left:32,right:32",
    )
    parser.add_argument(
        "--seam",
        type=whole,
        default=0,
        metavar="PIXELS",
        help="blend what stays into what is drawn over so many pixels",
    )

    # How it is drawn, and what is written
    add_sampling(parser)
    parser.add_argument("--batch-size", type=positive, default=16, help="drawn together")
    parser.add_argument(
        "--shard",
        metavar="i/n",
        help="of n such commands this is number i (from 0); slurm: both from the job array",
    )
    parser.add_argument(
        "--format",
        choices=("png", "shards", "uint8"),
        default="png",
        help="a PNG for each picture; shards: tars of PNG; uint8: tars of PPM",
    )
    parser.add_argument(
        "--animate", action="store_true", help="also write a GIF of each picture growing"
    )
    return parser


def classes_of(text: str) -> list[int | str]:
    """An argparse type: 0,lake -> [0, "lake"]."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word.lstrip("-").isdigit() and not (word.isascii() and 0 <= int(word) < 2**31):
            raise argparse.ArgumentTypeError(f"'{word}' is no number of a class")
    return [int(word) if word.isdigit() else word for word in words]


def _check_combinations(arguments: argparse.Namespace, parser: Parser) -> None:
    if (arguments.checkpoint is None) == (arguments.from_png is None):
        raise UserError("sample needs either CKPT or --from-png FILE; see: taming sample --help")
    if (arguments.known is None) != (arguments.known_mask is None and arguments.extend is None):
        raise UserError(
            "--known IMAGE and --known-mask MASK go together: the picture, and what of it stays; to"
            " continue all of it, --known IMAGE --extend right:64"
        )
    if arguments.known_mask and arguments.extend:
        raise UserError(
            "--known-mask says what stays, --extend keeps all of the picture; leave one out"
        )
    if arguments.seam and not arguments.known:
        raise UserError("--seam blends what stays of --known IMAGE; give that too")
    if (arguments.legend or arguments.convention) and not arguments.masks:
        raise UserError("--legend and --convention say how --masks are read; give masks too")
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
    if arguments.format != "png" and (arguments.animate or arguments.overwrite):
        flag = "--animate" if arguments.animate else "--overwrite"
        raise UserError(
            f"{flag} is for single files, and --format {arguments.format} writes tars; leave one"
            " out"
        )
    if arguments.from_png:
        _check_nothing_else(arguments, parser)


def _check_nothing_else(arguments: argparse.Namespace, parser: Parser) -> None:
    free = {"checkpoint", "from_png", "out", "overwrite", "allow", "chosen"}
    for name, value in vars(arguments).items():
        if name not in free and value != parser.get_default(name):
            raise UserError(
                f"--{name.replace('_', '-')} {value}: --from-png draws what the PNG says; only -o,"
                " --overwrite and --allow go with it"
            )

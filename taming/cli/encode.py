"""taming shard, encode, decode: data sets of any size, by any number of processes."""

import argparse

from taming.cli.parser import Parser, add_allow, add_checkpoint, positive, size_of
from taming.errors import UserError

SOURCE = (
    "a folder of pictures (or with images/ and segmentations/), shards such as"
    " 'data/{00000..00099}.tar' (also s3://, gs://, https://), or a configuration (.yaml), of which"
    " the data set is taken"
)


def shard(words: list[str]) -> None:
    """Write a data set as tar shards, which webdataset and others read too."""
    parser = Parser(prog="taming shard", description=shard.__doc__)
    parser.add_argument("source", metavar="SRC", help=SOURCE)
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="a folder of its own")
    parser.add_argument(
        "--samples", type=positive, default=1000, metavar="N", help="in each shard (default 1000)"
    )
    parser.add_argument(
        "--size", type=size_of, metavar="HxW", help="resize and crop; default: files as they are"
    )
    _add_part(parser)
    _add_share(parser)
    add_allow(parser)
    arguments = parser.parse(words)

    from taming.inference.shard import shard as write

    print(
        write(
            arguments.source,
            arguments.out,
            arguments.samples,
            arguments.size,
            arguments.part,
            arguments.shard,
            arguments.allow,
        )
    )


def encode(words: list[str]) -> None:
    """Write the codes of a folder of pictures into one file, or of a data set into a folder."""
    parser = _encode_parser()
    if "--status" in words:
        parser = Parser(prog="taming encode", description=encode.__doc__)
        parser.add_argument("--status", action="store_true")
        parser.add_argument("-o", "--out", required=True)
        arguments = parser.parse(words)

        from taming.inference.encode import status

        print(status(arguments.out))
        return
    arguments = parser.parse(words)
    if arguments.out.endswith(".npz") or arguments.out.startswith("/dev/"):
        _encode_folder(arguments, parser)
        return

    from taming.inference.encode import encode_set

    view = None
    if arguments.size:
        view = {
            "size": list(arguments.size),
            "scale": arguments.scale,
            "flip": not arguments.no_flip,
        }
    print(
        encode_set(
            arguments.checkpoint,
            arguments.source,
            arguments.out,
            view,
            arguments.views,
            share=arguments.shard,
            part=arguments.part,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            config=arguments.config,
            allow=arguments.allow,
        )
    )


def _encode_parser() -> Parser:
    # What is read and written
    parser = Parser(prog="taming encode", description=encode.__doc__)
    add_checkpoint(parser)
    parser.add_argument("source", metavar="SRC", help=f"{SOURCE}; for a mask tokenizer label maps")
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="CODES",
        help=(
            "NAME.npz: one file, NAME: int32 (h, w), with several levels NAME/0, NAME/1, ...; else"
            " a folder, which taming.data.Codes reads"
        ),
    )
    parser.add_argument(
        "--status",
        action="store_true",
        help="with -o alone: how much of a folder is done, and who works on the rest",
    )
    # How a folder of codes is made
    many = parser.add_argument_group("for a folder of codes")
    many.add_argument(
        "--size",
        type=size_of,
        metavar="HxW",
        help="of the crop; default: what a second stage was trained on",
    )
    many.add_argument(
        "--views", type=positive, metavar="V", help="random views of each; default: the fixed one"
    )
    many.add_argument(
        "--scale",
        type=float,
        default=1.5,
        help="of the views: the short side is up to so many times the crop's",
    )
    many.add_argument("--no-flip", action="store_true", help="views are not mirrored")
    many.add_argument("--batch-size", type=positive, default=32, help="encoded together")
    many.add_argument("--workers", type=int, default=0, help="processes that read pictures")
    _add_part(many)
    _add_share(many)
    return parser


def _encode_folder(arguments: argparse.Namespace, parser: Parser) -> None:
    for name in ("size", "views", "scale", "no_flip", "shard", "part", "workers", "batch_size"):
        if getattr(arguments, name) != parser.get_default(name):
            raise UserError(
                f"--{name.replace('_', '-')} goes with a folder of codes; give -o the name of one,"
                " without .npz"
            )

    from taming.inference.encode import encode_folder

    print(
        encode_folder(
            arguments.checkpoint, arguments.source, arguments.out, arguments.config, arguments.allow
        )
    )


def decode(words: list[str]) -> None:
    """Write the pictures that codes stand for: the way back from taming encode."""
    parser = Parser(prog="taming decode", description=decode.__doc__)
    add_checkpoint(parser)
    parser.add_argument("codes", metavar="CODES", help="a folder of codes, or an .npz file")
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="a folder of pictures")
    parser.add_argument("--batch-size", type=positive, default=16, help="decoded together")
    _add_share(parser)
    arguments = parser.parse(words)

    from taming.inference.decode import decode as write

    print(
        write(
            arguments.checkpoint,
            arguments.codes,
            arguments.out,
            share=arguments.shard,
            batch_size=arguments.batch_size,
            config=arguments.config,
            allow=arguments.allow,
        )
    )


def _add_part(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--part",
        choices=("train", "validation"),
        default="train",
        help="of a configuration: which of its data sets",
    )


def _add_share(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--shard",
        metavar="i/n",
        help=(
            "of n such commands, on machines that see one disk, this is number i (from 0); slurm:"
            " both from the job array. Each then makes what others leave"
        ),
    )

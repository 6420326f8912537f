"""taming reconstruct, compress, decompress."""

from taming.cli.parser import Parser, add_checkpoint

FOLDER = "pictures; for a mask tokenizer label maps"


def reconstruct(words: list[str]) -> None:
    """Encode and decode every picture of a folder, at any size, and report the mean PSNR."""
    parser = Parser(prog="taming reconstruct", description=reconstruct.__doc__)
    add_checkpoint(parser)
    parser.add_argument("folder", metavar="DIR", help=FOLDER)
    parser.add_argument("-o", "--out", default="reconstructions", metavar="OUT", help="a folder")
    arguments = parser.parse(words)

    from taming.inference.reconstruct import reconstruct_folder

    print(
        reconstruct_folder(
            arguments.checkpoint, arguments.folder, arguments.out, arguments.config, arguments.allow
        )
    )


def compress(words: list[str]) -> None:
    """Write a picture as a few bytes: its codes, coded with the prior's probabilities."""
    parser = Parser(prog="taming compress", description=compress.__doc__)
    add_checkpoint(parser, help="of a second stage")
    parser.add_argument("image", metavar="IMAGE", help="of any size")
    parser.add_argument("-o", "--out", required=True, metavar="FILE")
    arguments = parser.parse(words)

    from taming.inference.compress import compress_file

    print(
        compress_file(
            arguments.checkpoint, arguments.image, arguments.out, arguments.config, arguments.allow
        )
    )


def decompress(words: list[str]) -> None:
    """Read what taming compress wrote, with the same checkpoint, into a PNG."""
    parser = Parser(prog="taming decompress", description=decompress.__doc__)
    add_checkpoint(parser)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("-o", "--out", required=True, metavar="IMAGE")
    arguments = parser.parse(words)

    from taming.inference.compress import decompress_file

    print(
        decompress_file(
            arguments.checkpoint, arguments.file, arguments.out, arguments.config, arguments.allow
        )
    )

"""taming reconstruct, compress, decompress: verbs with one thing in and one out."""

from taming.cli.parser import Parser, add_checkpoint


def reconstruct(words: list[str]) -> None:
    """Encode and decode every picture of a folder, at any size, and report the mean PSNR."""
    parser = Parser(prog="taming reconstruct", description=reconstruct.__doc__)
    add_checkpoint(parser)
    parser.add_argument("source", metavar="DIR", help="pictures; for a mask tokenizer label maps")
    parser.add_argument("-o", "--out", default="reconstructions", metavar="OUT", help="a folder")
    arguments = _parsed(parser, words)

    from taming.inference.reconstruct import reconstruct_folder

    print(reconstruct_folder(*arguments))


def compress(words: list[str]) -> None:
    """Write a picture as a few bytes: its codes, coded with the prior's probabilities."""
    parser = Parser(prog="taming compress", description=compress.__doc__)
    add_checkpoint(parser, help="of a second stage")
    parser.add_argument("source", metavar="IMAGE", help="of any size")
    parser.add_argument("-o", "--out", required=True, metavar="FILE")
    arguments = _parsed(parser, words)

    from taming.inference.compress import compress_file

    print(compress_file(*arguments))


def decompress(words: list[str]) -> None:
    """Read what taming compress wrote, with the same checkpoint, into a PNG."""
    parser = Parser(prog="taming decompress", description=decompress.__doc__)
    add_checkpoint(parser)
    parser.add_argument("source", metavar="FILE")
    parser.add_argument("-o", "--out", required=True, metavar="IMAGE")
    arguments = _parsed(parser, words)

    from taming.inference.compress import decompress_file

    print(decompress_file(*arguments))


def _parsed(parser: Parser, words: list[str]) -> tuple[str, str, str, str | None, list[str]]:
    """CKPT, what is read, what is written, the YAML of a published CKPT, and packages."""
    arguments = parser.parse(words)
    return arguments.checkpoint, arguments.source, arguments.out, arguments.config, arguments.allow

"""taming reconstruct, encode, compress, decompress."""

from taming.cli.parser import Parser


def reconstruct(arguments: list[str]) -> None:
    """Encode and decode every picture of a folder, at any size, and say how near it came."""
    parser = Parser(prog="taming reconstruct", description=reconstruct.__doc__)
    parser.add_argument("checkpoint", metavar="CKPT")
    parser.add_argument(
        "--config",
        metavar="YAML",
        help="what came with a published checkpoint; default: what lies beside it",
    )
    parser.add_argument("folder", metavar="DIR", help="pictures; for a mask tokenizer label maps")
    parser.add_argument("-o", "--out", default="reconstructions", metavar="OUT")
    given = parser.parse(arguments)

    from taming.inference.reconstruct import reconstruct_folder

    print(reconstruct_folder(given.checkpoint, given.folder, given.out, given.config))


def encode(arguments: list[str]) -> None:
    """Write the codes of every picture of a folder into one file."""
    parser = Parser(prog="taming encode", description=encode.__doc__)
    parser.add_argument("checkpoint", metavar="CKPT")
    parser.add_argument(
        "--config",
        metavar="YAML",
        help="what came with a published checkpoint; default: what lies beside it",
    )
    parser.add_argument("folder", metavar="DIR", help="pictures; for a mask tokenizer label maps")
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="CODES.npz",
        help="NAME: int32 (h, w); with several levels NAME/0, NAME/1, ...",
    )
    given = parser.parse(arguments)

    from taming.inference.encode import encode_folder

    print(encode_folder(given.checkpoint, given.folder, given.out, given.config))


def compress(arguments: list[str]) -> None:
    """Write a picture as a few bytes: its codes, coded with the prior's probabilities."""
    parser = Parser(prog="taming compress", description=compress.__doc__)
    parser.add_argument("checkpoint", metavar="CKPT", help="of a second stage")
    parser.add_argument("image", metavar="IMAGE", help="of any size")
    parser.add_argument("-o", "--out", required=True, metavar="FILE")
    given = parser.parse(arguments)

    from taming.inference import compress as compression

    print(compression.compress_file(given.checkpoint, given.image, given.out))


def decompress(arguments: list[str]) -> None:
    """Read what taming compress wrote, with the same checkpoint, into a PNG."""
    parser = Parser(prog="taming decompress", description=decompress.__doc__)
    parser.add_argument("checkpoint", metavar="CKPT")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("-o", "--out", required=True, metavar="IMAGE")
    given = parser.parse(arguments)

    from taming.inference import compress as compression

    print(compression.decompress_file(given.checkpoint, given.file, given.out))

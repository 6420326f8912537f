"""taming new."""

from taming.cli.parser import Parser

KINDS = ("dataset", "quantizer", "condition")


def new(words: list[str]) -> None:
    """Write a class of your own to start from, with a test and a configuration that uses it."""
    parser = Parser(prog="taming new", description=new.__doc__)
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("name", metavar="NAME", help="of the class, such as MyPictures")
    parser.add_argument("-o", "--out", default=".", metavar="FOLDER", help="default: this folder")
    arguments = parser.parse(words)

    from taming.config.skeletons import write_skeleton

    for path in write_skeleton(arguments.kind, arguments.name, arguments.out):
        print(path)

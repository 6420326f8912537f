"""taming demo."""

from taming.cli.parser import Parser, quiet_lightning


def demo(words: list[str]) -> None:
    """Train both stages on drawn landscapes in minutes, and write a report."""
    parser = Parser(prog="taming demo", description=demo.__doc__)
    parser.add_argument("-o", "--out", default="runs/demo", metavar="OUT", help="a folder")
    parser.add_argument(
        "--quick", action="store_true", help="a handful of batches, to see that everything runs"
    )
    arguments = parser.parse(words)
    quiet_lightning()

    from taming.demo import run

    print(run(arguments.out, arguments.quick))

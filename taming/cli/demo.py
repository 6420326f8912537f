"""taming demo."""

from taming.cli.parser import Parser, quiet_lightning


def demo(arguments: list[str]) -> None:
    """Train both stages on drawn landscapes in minutes, and write a report."""
    parser = Parser(prog="taming demo", description=demo.__doc__)
    parser.add_argument("-o", "--out", default="runs/demo", metavar="OUT")
    parser.add_argument(
        "--quick", action="store_true", help="a handful of batches, to see that everything runs"
    )
    given = parser.parse(arguments)
    quiet_lightning()

    from taming import demo as whole

    print(whole.run(given.out, given.quick))

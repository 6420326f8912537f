"""taming keys."""

from taming.cli.parser import Parser


def keys(words: list[str]) -> None:
    """Describe every key and class of a configuration: type, range, default, meaning."""
    parser = Parser(prog="taming keys", description=keys.__doc__)
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="only a class (VQGAN), what may stand for one (Quantizer), a section (trainer), a key",
    )
    arguments = parser.parse(words)

    from taming.config.reference import described, overview

    print(overview() if arguments.name is None else described(arguments.name))

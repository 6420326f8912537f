"""taming keys."""

from taming.cli.parser import Parser


def keys(words: list[str]) -> None:
    """Describe the keys of a configuration and the classes it may name: type, range, default."""
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

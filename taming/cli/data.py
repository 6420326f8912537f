"""taming data."""

from taming.cli.parser import Parser


def data(words: list[str]) -> None:
    """Say what a folder of data is, count it, draw a sheet of it, and print its configuration."""
    parser = Parser(prog="taming data", description=data.__doc__)
    parser.add_argument("folder", metavar="DIR", help="a published set, or pictures of your own")
    parser.add_argument(
        "-o", "--out", default="overview", metavar="OUT", help="for sheet.png and histogram.png"
    )
    arguments = parser.parse(words)

    from taming.data.overview import overview_of, words_of, write_pictures
    from taming.files import check_output

    check_output(arguments.out, (arguments.folder,))
    overview = overview_of(arguments.folder)
    print(words_of(overview))
    for path in write_pictures(overview, arguments.out):
        print(path)

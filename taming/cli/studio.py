"""taming studio."""

from taming.cli.parser import Parser, add_loading
from taming.errors import UserError


def studio(words: list[str]) -> None:
    """Paint a layout in the browser, and see it become a landscape (alias: paint)."""
    parser = Parser(prog="taming studio", description=studio.__doc__)
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        nargs="?",
        default="landscapes",
        help="a checkpoint, a run folder, or the name of a shipped model; default: landscapes",
    )
    add_loading(parser)
    parser.add_argument(
        "--segmenter", metavar="CKPT", help="finds the layouts of photographs; same labels as CKPT"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="listen on this address; any but 127.0.0.1 opens the studio to the network",
    )
    parser.add_argument("--port", type=_port, metavar="N", help="default: 8765, or any free one")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    arguments = parser.parse(words)
    try:
        from taming.studio.serve import announce, start
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "websockets"):
            raise
        raise UserError(
            f"the studio needs {error.name}; install it with: pip install 'taming[studio]'"
        ) from None
    server = start(
        arguments.checkpoint,
        arguments.config,
        arguments.segmenter,
        arguments.host,
        arguments.port,
        arguments.allow,
    )
    announce(server, not arguments.no_browser)
    server.run()


def _port(text: str) -> int:
    """An argparse type."""
    import argparse

    number = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else -1
    if not 0 <= number < 65536:
        raise argparse.ArgumentTypeError(f"{text} should be a port from 0 to 65535")
    return number

"""The command line: argparse only; what is heavy is imported inside the verb."""

from taming.cli.main import entry, main

__all__ = ["entry", "main"]

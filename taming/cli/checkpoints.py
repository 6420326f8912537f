"""taming inspect, convert, export."""

import sys
from pathlib import Path

from taming.cli.parser import Parser
from taming.errors import UserError


def inspect(arguments: list[str]) -> None:
    """Say what a checkpoint is, without building its model."""
    parser = Parser(prog="taming inspect", description=inspect.__doc__)
    parser.add_argument("checkpoint", metavar="FILE")
    parser.add_argument(
        "--config",
        metavar="YAML",
        help="what came with a published checkpoint; default: what lies beside it",
    )
    given = parser.parse(arguments)

    from taming.formats.load import describe

    print(describe(given.checkpoint, given.config))


def convert(arguments: list[str]) -> None:
    """Write a checkpoint, ours or published, as safetensors with its configuration; or a published
    YAML as ours.
    """
    parser = Parser(prog="taming convert", description=convert.__doc__)
    parser.add_argument(
        "checkpoint", metavar="IN", help="a checkpoint or a run folder; or a published YAML"
    )
    parser.add_argument(
        "out", metavar="OUT", nargs="?", help="a .safetensors file; for a YAML a .yaml file"
    )
    parser.add_argument(
        "--config",
        metavar="YAML",
        help="what came with a published checkpoint; alone with OUT: convert only this",
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="floats in half precision; in a quarter what no sample needs",
    )
    given = parser.parse(arguments)
    if given.out is None and given.config:
        given.checkpoint, given.out = given.config, given.checkpoint
    if given.out is None:
        raise UserError("convert needs IN and OUT; see: taming convert --help")

    from taming.files import make_writable
    from taming.formats.load import convert_yaml, read_checkpoint
    from taming.formats.ours import save_safetensors

    if given.checkpoint.endswith((".yaml", ".yml")):
        print(convert_yaml(given.checkpoint, given.out))
        return
    if not given.out.endswith(".safetensors"):
        raise UserError(f"'{given.out}' should end in .safetensors")

    make_writable(Path(given.out).parent)
    content = read_checkpoint(given.checkpoint, given.config)
    save_safetensors(given.out, content, given.half)
    for name, why in content.left.items():
        print(f"left aside {name}: {why}", file=sys.stderr)
    print(given.out)


def export(arguments: list[str]) -> None:
    """Write a checkpoint in the published code's layout: checkpoints/last.ckpt and configs/model-
    project.yaml.
    """
    parser = Parser(prog="taming export", description=export.__doc__)
    parser.add_argument("checkpoint", metavar="CKPT")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument(
        "--config",
        metavar="YAML",
        help="what came with a published checkpoint; default: what lies beside it",
    )
    given = parser.parse(arguments)

    from taming.formats.load import read_checkpoint, save_published

    print(save_published(given.out, read_checkpoint(given.checkpoint, given.config)))

"""taming inspect, convert, export."""

import argparse
import sys
from collections.abc import Mapping

from taming.cli.parser import Parser, add_checkpoint, add_loading
from taming.errors import UserError

YAML = (".yaml", ".yml")
FORMATS = ("taming", "compvis", "diffusers", "hub", "onnx")
TO = (
    "taming: one .safetensors; compvis: .ckpt and YAML; diffusers: its VQModel; hub: what"
    " huggingface_hub uploads; onnx: encoder and decoder"
)


def inspect(words: list[str]) -> None:
    """Describe a checkpoint, without building its model."""
    parser = Parser(prog="taming inspect", description=inspect.__doc__)
    add_checkpoint(parser)
    arguments = parser.parse(words)

    from taming.formats.describe import describe

    print(describe(arguments.checkpoint, arguments.config, arguments.allow))


def convert(words: list[str]) -> None:
    """Write a checkpoint, ours or somebody else's, in another format; or a YAML as ours."""
    # 1. what is said
    parser = Parser(prog="taming convert", description=convert.__doc__)
    parser.add_argument(
        "checkpoint", metavar="IN", help="a checkpoint or a run folder; or a published YAML"
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        nargs="?",
        help="a .safetensors file, with --to another format a folder; for a YAML a .yaml file",
    )
    parser.add_argument("--to", choices=FORMATS, default="taming", help=TO)
    parser.add_argument(
        "--half",
        action="store_true",
        help="floats in half precision; in a quarter those that no sample needs",
    )
    parser.add_argument(
        "--int8", action="store_true", help="as --half, and the matrices of priors in 8 bits"
    )
    parser.add_argument(
        "--base", metavar="CKPT", help="IN is a cascade: the prior of its scenes is taken from here"
    )
    parser.add_argument(
        "--decoder",
        metavar="CKPT",
        help="the decoder is taken from here: a model of the same codes",
    )
    add_loading(parser)
    arguments = parser.parse(words)
    source, out, config = arguments.checkpoint, arguments.out, arguments.config
    if out is None and config:  # --config alone with OUT: only the configuration
        source, out, config = config, source, None
    if out is None:
        raise UserError("convert needs IN and OUT; see: taming convert --help")

    from taming.files import check_ending, check_output
    from taming.formats.assembly import with_base, with_decoder
    from taming.formats.building import build_model
    from taming.formats.compvis.checkpoint import convert_yaml
    from taming.formats.load import find_checkpoint, read_checkpoint
    from taming.formats.ours import save_safetensors

    # 2. into somebody else's layout, or a configuration alone
    if arguments.to != "taming":
        for word in ("half", "int8", "base", "decoder"):
            if getattr(arguments, word):
                raise UserError(f"--{word} is for --to taming; leave one of them out")
        _write_folder(source, out, config, arguments)
        return
    if source.endswith(YAML):
        check_ending(out, *YAML)
        check_output(out, (source,), YAML)
        print(convert_yaml(source, out))
        return
    # 3. nothing that is read is written over
    check_ending(out, ".safetensors")
    parts = [find_checkpoint(part) for part in (arguments.base, arguments.decoder) if part]
    inputs = (find_checkpoint(source), *parts, *filter(None, (config,)))
    check_output(out, inputs, (".safetensors",))
    # 4. the checkpoint, put together and built: what can't be loaded is not written
    content = read_checkpoint(source, config, arguments.allow)
    if arguments.base:
        content = with_base(content, read_checkpoint(arguments.base, allow=arguments.allow))
    if arguments.decoder:
        content = with_decoder(content, read_checkpoint(arguments.decoder, allow=arguments.allow))
    build_model(content)
    save_safetensors(out, content, arguments.half or arguments.int8, arguments.int8)
    _print_unused(content.unused)
    print(out)


def export(words: list[str]) -> None:
    """Write a checkpoint in somebody else's layout, by default CompVis's: a .ckpt and its YAML."""
    parser = Parser(prog="taming export", description=export.__doc__)
    add_checkpoint(parser)
    parser.add_argument("out", metavar="OUT", help="the folder to write into")
    parser.add_argument("--to", choices=FORMATS[1:], default="compvis", help=TO)
    arguments = parser.parse(words)
    _write_folder(arguments.checkpoint, arguments.out, arguments.config, arguments)


def _write_folder(source: str, out: str, config: str | None, arguments: argparse.Namespace) -> None:
    from taming.files import check_output
    from taming.formats.load import find_checkpoint, read_checkpoint
    from taming.formats.writers import WRITERS

    check_output(out, (find_checkpoint(source), *filter(None, (config,))))
    content = read_checkpoint(source, config, arguments.allow)
    print(WRITERS[arguments.to](out, content))


def _print_unused(reasons: Mapping[str, str]) -> None:
    for name, reason in reasons.items():
        print(f"not converted: {name}: {reason}", file=sys.stderr)

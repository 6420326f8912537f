"""taming configs."""

from pathlib import Path

from taming.cli.parser import Parser
from taming.errors import UserError


def configs(words: list[str]) -> None:
    """List the configurations that come with this program, or copy one."""
    parser = Parser(
        prog="taming configs",
        description=f"{configs.__doc__} taming train -b NAME takes them by name, too.",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="print this one")
    parser.add_argument("-o", "--out", metavar="FILE", help="with NAME: copy it to this YAML file")
    arguments = parser.parse(words)
    if arguments.out is not None and arguments.name is None:
        raise UserError("-o needs NAME, the configuration to copy; taming configs lists them")

    from taming.config.shipped import shipped_configs
    from taming.errors import did_you_mean
    from taming.files import write_atomically

    shipped = shipped_configs()
    if arguments.name is None:
        print(_table(shipped))
        return
    name = Path(arguments.name).name.removesuffix(".yaml")
    if name not in shipped:
        hint = did_you_mean(name, shipped)
        raise UserError(f"there is no configuration '{arguments.name}'{hint}")
    text = shipped[name].read_text(encoding="utf-8")
    if arguments.out is None:
        print(text, end="")
        return
    if Path(arguments.out).is_file():
        raise UserError(f"'{arguments.out}' exists; give another name with -o")
    write_atomically(arguments.out, lambda file: file.write_text(text, encoding="utf-8"))
    print(arguments.out)


def _table(shipped: dict[str, Path]) -> str:
    width = max(map(len, shipped), default=0)
    return "\n".join(f"{name:<{width}}  {_header(path)}" for name, path in shipped.items())


def _header(path: Path) -> str:
    """The first line of the comment on top, which says what it is."""
    with open(path, encoding="utf-8") as file:
        line = file.readline()
    return line.lstrip("# ").strip() if line.startswith("#") else ""

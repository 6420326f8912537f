"""taming template, segment."""

from taming.cli.parser import Parser, add_allow, size_of


def template(words: list[str]) -> None:
    """Write an empty layout for a model, its legend, and palettes for paint programs."""
    parser = Parser(prog="taming template", description=template.__doc__)
    parser.add_argument("checkpoint", metavar="CKPT", help="a model that reads or makes masks")
    parser.add_argument("-o", "--out", default="template", metavar="OUT", help="a folder")
    parser.add_argument(
        "--size",
        type=size_of,
        metavar="HxW",
        help="of the layout in pixels; default: twice what the model was trained on",
    )
    add_allow(parser)
    arguments = parser.parse(words)

    from taming.inference.template import write_template

    out, size, allow = arguments.out, arguments.size, arguments.allow
    for path in write_template(arguments.checkpoint, out, size, allow):
        print(path)


def segment(words: list[str]) -> None:
    """Make masks from photographs, with the segmenter that is shipped or another."""
    parser = Parser(prog="taming segment", description=segment.__doc__)
    parser.add_argument("folder", metavar="DIR", help="pictures, or one of them")
    parser.add_argument("-o", "--out", required=True, metavar="MASKS", help="a folder")
    parser.add_argument(
        "--segmenter",
        default="landscapes_segmenter",
        metavar="CKPT",
        help="taming train -b configs/segmenter/... makes others",
    )
    parser.add_argument(
        "--for",
        dest="labels_for",
        metavar="CKPT",
        help="the model that will read the masks: labels get its numbers, matched by name",
    )
    parser.add_argument("--overwrite", action="store_true", help="write over masks that are there")
    add_allow(parser)
    arguments = parser.parse(words)

    from taming.inference.segment import segment_folder

    print(
        segment_folder(
            arguments.folder,
            arguments.out,
            arguments.segmenter,
            arguments.labels_for,
            arguments.overwrite,
            arguments.allow,
        )
    )

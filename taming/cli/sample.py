"""taming sample."""

from taming.cli.parser import Parser, numbers, size_of
from taming.errors import UserError


def sample(arguments: list[str]) -> None:
    """Draw pictures of any size from a second stage: from masks, other pictures, classes, or nothing."""
    parser = Parser(prog="taming sample", description=sample.__doc__)
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        nargs="?",
        help="a checkpoint, a run folder, or the name of a shipped model (landscapes)",
    )
    parser.add_argument(
        "--from-png",
        metavar="FILE",
        help="draw once more what is in a PNG that this command wrote; needs no CKPT",
    )
    parser.add_argument(
        "--config",
        metavar="YAML",
        help="what came with a published checkpoint; default: what lies beside it",
    )
    told = parser.add_mutually_exclusive_group()
    told.add_argument(
        "--masks", metavar="DIR", help="folder of label maps (8-bit PNG), or one of them"
    )
    told.add_argument(
        "--images",
        metavar="DIR",
        help="folder of pictures or depth maps, for a prior conditioned on them",
    )
    told.add_argument("--classes", metavar="A,B", help="class numbers")
    parser.add_argument(
        "--size",
        metavar="HxW",
        help="size of the pictures, any; default: what the prior was trained on",
    )
    parser.add_argument(
        "-n",
        type=int,
        default=1,
        help="samples for each mask, picture or class; without any: samples in all",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy")
    parser.add_argument("--top-k", type=int, help="draw from the k most probable codes")
    parser.add_argument(
        "--top-p", type=float, help="draw from the fewest codes with this probability together"
    )
    parser.add_argument(
        "--min-p",
        type=float,
        help="draw from codes at least this times as probable as the most probable",
    )
    parser.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        help="1: none; above: follow the condition more closely",
    )
    parser.add_argument(
        "--hop",
        type=int,
        default=1,
        metavar="CODES",
        help=(
            "large pictures: windows move so many codes at a time; larger is faster, 1 is the"
            " published rule"
        ),
    )
    parser.add_argument("--known", metavar="IMAGE", help="a picture of which part is kept")
    parser.add_argument(
        "--known-mask",
        metavar="MASK",
        help="what is kept of it: a mask (where not black), or top, left, top:0.3, ...",
    )
    parser.add_argument(
        "--accept",
        type=float,
        default=1.0,
        metavar="A",
        help="draw 1 / A times as many and keep those that the classifier likes best",
    )
    parser.add_argument("--classifier", metavar="NAME", help="a torchvision model, for --accept")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--animate", action="store_true", help="also write a GIF of each picture growing"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="draw anew what lies in OUT from other settings"
    )
    parser.add_argument("-o", "--out", default="samples", metavar="OUT")
    given = parser.parse(arguments)
    if given.n < 1 or given.batch_size < 1:
        raise UserError(
            f"-n {given.n} and --batch-size {given.batch_size} should both be at least 1"
        )
    if (given.checkpoint is None) == (given.from_png is None):
        raise UserError("sample needs either CKPT or --from-png FILE; see: taming sample --help")
    if (given.known is None) != (given.known_mask is None):
        raise UserError(
            "--known IMAGE and --known-mask MASK go together: the picture, and what of it is kept"
        )
    if (given.accept < 1) != (given.classifier is not None) or not 0 < given.accept <= 1:
        raise UserError(
            "--accept A (a share above 0) and --classifier NAME go together: how many are kept, and"
            " who judges"
        )
    if given.accept < 1 and given.classes is None:
        raise UserError(
            "--accept judges classes, so it needs --classes; for masks use"
            " taming.second_stage.rejection in Python"
        )
    if given.from_png:
        for name, value in vars(given).items():
            if name not in (
                "checkpoint",
                "from_png",
                "out",
                "overwrite",
            ) and value != parser.get_default(name):
                raise UserError(
                    f"--{name.replace('_', '-')} {value}: --from-png draws what the PNG says; only"
                    " -o and --overwrite go with it"
                )
    if given.animate and given.accept < 1:
        raise UserError(
            "--animate shows one picture growing, --accept draws several and keeps the best; leave"
            " one out"
        )
    size = size_of(given.size)
    classes = numbers(given.classes) if given.classes is not None else None
    known = (given.known, given.known_mask) if given.known else None

    from taming.inference.repeat import sample_again
    from taming.inference.sample import sample_folder
    from taming.second_stage.sampling import Sampling

    if given.from_png:
        print(sample_again(given.from_png, given.out, given.overwrite))
        return
    names = (
        "seed",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "guidance",
        "hop",
        "accept",
        "classifier",
    )
    settings = Sampling(size, **{name: getattr(given, name) for name in names})
    conditions = {
        "masks": given.masks,
        "pictures": given.images,
        "classes": classes,
        "known": known,
        "n": given.n,
    }
    how = {
        "yaml": given.config,
        "batch_size": given.batch_size,
        "animate": given.animate,
        "overwrite": given.overwrite,
    }
    print(sample_folder(given.checkpoint, given.out, settings, **conditions, **how))

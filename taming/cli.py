"""The command line: argparse only; what is heavy is imported inside the verb, so that help answers at once."""

import argparse
import os
import sys
from pathlib import Path

from taming.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """Raises instead of exiting: one line, with a did-you-mean."""

    def __init__(self, **how):
        super().__init__(allow_abbrev=False, **how)

    def error(self, message: str):
        raise UserError(f"{message}; see: {self.prog} --help")

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        found, unknown = self.parse_known_args(arguments)
        if hasattr(found, "overrides"):  # argparse takes key=value only in one run; users put them between flags too
            found.overrides += [word for word in unknown if "=" in word and not word.startswith("-")]
            unknown = [word for word in unknown if word not in found.overrides]
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            raise UserError(f"unknown argument '{unknown[0]}'{did_you_mean(unknown[0].split('=')[0], flags)}; see: {self.prog} --help")
        return found


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Runs a verb and returns the exit code. A user's mistake is one line on stderr and code 2."""
    try:
        _dispatch(list(arguments))
    except UserError as error:
        told = str(error).split("UserError: ")[-1]  # from a data loader's worker it comes wrapped in a traceback
        print(f"taming: {' '.join(told.split())}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("taming: interrupted before anything was there to save", file=sys.stderr)
        return 130
    except SystemExit as stop:  # argparse's --help
        return int(stop.code or 0)
    return 0


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
    elif arguments[0] in VERBS:
        VERBS[arguments[0]](arguments[1:])
    elif arguments[0].startswith("-"):
        train(arguments)  # python main.py --base config.yaml -t True --gpus 0,
    else:
        raise UserError(f"unknown verb '{arguments[0]}'{did_you_mean(arguments[0], VERBS)}")


def overview() -> str:
    lines = [f"  {name:<12} {verb.__doc__.splitlines()[0]}" for name, verb in VERBS.items()]
    return "taming VERB ...   VQ-GAN and its family, with a Transformer prior\n\n" + "\n".join(lines) + "\n\ntaming VERB --help tells a verb's arguments."


def train(arguments: list[str]) -> None:
    """Train a first or a second stage from a configuration, or go on with a run."""
    parser = Parser(prog="taming train", description=train.__doc__)
    parser.add_argument("-b", "--base", nargs="+", default=[], metavar="CONFIG", help="YAML files, merged from left to right")
    parser.add_argument("-r", "--resume", metavar="RUN", help="go on with this run folder (or its checkpoint), exactly where it stopped")
    parser.add_argument("-n", "--name", help="the run's folder is runs/NAME; default: the name of the last configuration")
    parser.add_argument("-s", "--seed", type=int)
    parser.add_argument("-t", "--train", nargs="?", const="True", default="True", help="accepted as CompVis users write it; False is refused")
    parser.add_argument("--gpus", metavar="0,1", help="run on these GPUs; the same as trainer.accelerator=gpu trainer.devices=...")
    parser.add_argument("--from", dest="start_from", metavar="CKPT", help="take weights from here (ours or published), then train from batch 0")
    parser.add_argument("--config", metavar="YAML", help="what came with a published --from; default: what lies beside it")
    parser.add_argument("--fitting", action="store_true", help="with --from: take what has the right shape, and say what was left")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example optimizer.learning_rate=1e-3 data.batch_size=4")
    given = parser.parse(arguments)
    overrides = given.overrides + [b for b in given.base if "=" in b]
    bases = [b for b in given.base if "=" not in b]
    if str(given.train).lower() not in ("true", "t", "1", "yes", "y"):
        raise UserError(f"-t {given.train}: only training is done here; to test, use taming reconstruct or taming sample")
    if given.seed is not None:
        overrides.append(f"seed={given.seed}")
    if given.gpus is not None:
        overrides += _gpus(given.gpus)
    if given.resume and given.start_from:
        raise UserError("-r and --from exclude each other: -r goes on with a run, --from starts one from weights")
    if (given.fitting or given.config) and not given.start_from:
        raise UserError("--fitting and --config say how --from takes weights; give --from too")
    if given.resume:
        folder = _run_folder(given.resume)
        for override in overrides:
            if override.split("=")[0].split(".")[0] in ("model", "variables"):
                raise UserError(
                    f"{override}: a run that goes on keeps its model, and its variables are filled in already; start a new one with -b, or name the key itself"
                )
        bases = [folder / "config.yaml", *bases]
    elif bases:
        folder = Path("runs") / (given.name or Path(bases[-1]).stem)
    else:
        raise UserError("nothing to train: give a configuration with -b, or a run to go on with by -r")

    from taming import config

    bases, overrides, start_from = _translated(bases, overrides, given)
    experiment = config.load(bases, overrides)
    _quiet()
    from taming import run

    print(run.train(experiment, folder, bool(given.resume), start_from, given.fitting, given.config))


def _translated(bases: list, overrides: list[str], given: argparse.Namespace) -> tuple[list, list[str], str | None]:
    """Configurations of the published code become one of ours; overrides of their model, data and lightning sections are theirs, all others ours. Also what
    to start from: --from, or the checkpoint that they name.
    """
    from taming import config, published

    paths = [Path(base) for base in bases]
    if not all(path.is_file() for path in paths):
        return bases, overrides, given.start_from  # config.load says which is missing
    tree = config.plain_yaml(paths)
    if not published.is_theirs(tree):
        return bases, overrides, given.start_from
    names = {"data.batch_size": "data.params.batch_size", "trainer.accumulate_grad_batches": "lightning.trainer.accumulate_grad_batches"}
    overrides = [f"{names.get(o.split('=')[0], o.split('=')[0])}={o.split('=', 1)[1]}" if "=" in o else o for o in overrides]  # the rate depends on them
    theirs = [o for o in overrides if o.startswith(("model.", "lightning.", "data.params."))]
    devices = next((int(o.split("=")[1]) for o in overrides if o.startswith("trainer.devices=")), None)
    translation = published.translate(published.resolved(config.plain_yaml([tree], theirs)), devices=devices)
    for note in translation.notes:
        print(f"published configuration: {note}", file=sys.stderr)
    start_from = given.start_from
    if not start_from:
        start_from = translation.checkpoints.pop("model", None)
        if start_from and not Path(start_from).exists():
            raise UserError(f"model.params.ckpt_path: '{start_from}' does not exist; correct it, give --from, or start anew with model.params.ckpt_path=null")
        for part, path in translation.checkpoints.items():
            if not Path(path).exists():
                raise UserError(f"{part}: its ckpt_path '{path}' does not exist; correct it, or give a whole model by --from")
            node = {"target": "taming.first_stage.pretrained", "params": {"checkpoint": path}}
            where = translation.config["model"]["params"]
            if part == "conditioner":
                where["conditioner"]["params"]["first_stage"] = node
            else:
                where[part] = node
        if "prior" in translation.config["model"]["params"] and not translation.checkpoints and not start_from:
            raise UserError("first_stage_config names no ckpt_path, so the codes would come from an untrained model; add one, or give a whole model by --from")
    for part in ("train", "validation"):
        if any(o.startswith(f"data.{part}=") for o in overrides):
            translation.config["data"].pop(part, None)  # a whole data set is given, not keys of the translated one
    return [translation.config], [o for o in overrides if o not in theirs], start_from


def sample(arguments: list[str]) -> None:
    """Draw pictures of any size from a second stage: from masks, other pictures, classes, or nothing."""
    parser = Parser(prog="taming sample", description=sample.__doc__)
    parser.add_argument("checkpoint", metavar="CKPT", nargs="?", help="a checkpoint, a run folder, or the name of a shipped model (landscapes)")
    parser.add_argument("--from-png", metavar="FILE", help="draw once more what is in a PNG that this command wrote; needs no CKPT")
    parser.add_argument("--config", metavar="YAML", help="what came with a published checkpoint; default: what lies beside it")
    told = parser.add_mutually_exclusive_group()
    told.add_argument("--masks", metavar="DIR", help="folder of label maps (8-bit PNG), or one of them")
    told.add_argument("--images", metavar="DIR", help="folder of pictures or depth maps, for a prior conditioned on them")
    told.add_argument("--classes", metavar="A,B", help="class numbers")
    parser.add_argument("--size", metavar="HxW", help="size of the pictures, any; default: what the prior was trained on")
    parser.add_argument("-n", type=int, default=1, help="samples for each mask, picture or class; without any: samples in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy")
    parser.add_argument("--top-k", type=int, help="draw from the k most probable codes")
    parser.add_argument("--top-p", type=float, help="draw from the fewest codes with this probability together")
    parser.add_argument("--min-p", type=float, help="draw from codes at least this times as probable as the most probable")
    parser.add_argument("--guidance", type=float, default=1.0, help="1: none; above: follow the condition more closely")
    parser.add_argument(
        "--hop", type=int, default=1, metavar="CODES", help="large pictures: windows move so many codes at a time; larger is faster, 1 is the published rule"
    )
    parser.add_argument("--known", metavar="IMAGE", help="a picture of which part is kept")
    parser.add_argument("--known-mask", metavar="MASK", help="what is kept of it: a mask (where not black), or top, left, top:0.3, ...")
    parser.add_argument("--accept", type=float, default=1.0, metavar="A", help="draw 1 / A times as many and keep those that the classifier likes best")
    parser.add_argument("--classifier", metavar="NAME", help="a torchvision model, for --accept")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--animate", action="store_true", help="also write a GIF of each picture growing")
    parser.add_argument("--overwrite", action="store_true", help="draw anew what lies in OUT from other settings")
    parser.add_argument("-o", "--out", default="samples", metavar="OUT")
    given = parser.parse(arguments)
    if given.n < 1 or given.batch_size < 1:
        raise UserError(f"-n {given.n} and --batch-size {given.batch_size} should both be at least 1")
    if (given.checkpoint is None) == (given.from_png is None):
        raise UserError("sample needs either CKPT or --from-png FILE; see: taming sample --help")
    if (given.known is None) != (given.known_mask is None):
        raise UserError("--known IMAGE and --known-mask MASK go together: the picture, and what of it is kept")
    if (given.accept < 1) != (given.classifier is not None) or not 0 < given.accept <= 1:
        raise UserError("--accept A (a share above 0) and --classifier NAME go together: how many are kept, and who judges")
    if given.accept < 1 and given.classes is None:
        raise UserError("--accept judges classes, so it needs --classes; for masks use taming.second_stage.rejection in Python")
    if given.from_png:
        for name, value in vars(given).items():
            if name not in ("checkpoint", "from_png", "out", "overwrite") and value != parser.get_default(name):
                raise UserError(f"--{name.replace('_', '-')} {value}: --from-png draws what the PNG says; only -o and --overwrite go with it")
    if given.animate and given.accept < 1:
        raise UserError("--animate shows one picture growing, --accept draws several and keeps the best; leave one out")
    size = _size(given.size)
    classes = _numbers(given.classes) if given.classes is not None else None
    known = (given.known, given.known_mask) if given.known else None

    from taming import drawing

    if given.from_png:
        print(drawing.sample_again(given.from_png, given.out, given.overwrite))
        return
    names = ("seed", "temperature", "top_k", "top_p", "min_p", "guidance", "hop", "accept", "classifier")
    settings = drawing.Settings(size, **{name: getattr(given, name) for name in names})
    conditions = {"masks": given.masks, "pictures": given.images, "classes": classes, "known": known, "n": given.n}
    how = {"yaml": given.config, "batch_size": given.batch_size, "animate": given.animate, "overwrite": given.overwrite}
    print(drawing.sample_folder(given.checkpoint, given.out, settings, **conditions, **how))


def reconstruct(arguments: list[str]) -> None:
    """Encode and decode every picture of a folder, at any size, and say how near it came."""
    parser = Parser(prog="taming reconstruct", description=reconstruct.__doc__)
    parser.add_argument("checkpoint", metavar="CKPT")
    parser.add_argument("--config", metavar="YAML", help="what came with a published checkpoint; default: what lies beside it")
    parser.add_argument("folder", metavar="DIR", help="pictures; for a mask tokenizer label maps")
    parser.add_argument("-o", "--out", default="reconstructions", metavar="OUT")
    given = parser.parse(arguments)

    from taming import drawing

    print(drawing.reconstruct_folder(given.checkpoint, given.folder, given.out, given.config))


def encode(arguments: list[str]) -> None:
    """Write the codes of every picture of a folder into one file."""
    parser = Parser(prog="taming encode", description=encode.__doc__)
    parser.add_argument("checkpoint", metavar="CKPT")
    parser.add_argument("--config", metavar="YAML", help="what came with a published checkpoint; default: what lies beside it")
    parser.add_argument("folder", metavar="DIR", help="pictures; for a mask tokenizer label maps")
    parser.add_argument("-o", "--out", required=True, metavar="CODES.npz", help="NAME: int32 (h, w); with several levels NAME/0, NAME/1, ...")
    given = parser.parse(arguments)

    from taming import drawing

    print(drawing.encode_folder(given.checkpoint, given.folder, given.out, given.config))


def compress(arguments: list[str]) -> None:
    """Write a picture as a few bytes: its codes, coded with the prior's probabilities."""
    parser = Parser(prog="taming compress", description=compress.__doc__)
    parser.add_argument("checkpoint", metavar="CKPT", help="of a second stage")
    parser.add_argument("image", metavar="IMAGE", help="of any size")
    parser.add_argument("-o", "--out", required=True, metavar="FILE")
    given = parser.parse(arguments)

    from taming import compression

    print(compression.compress_file(given.checkpoint, given.image, given.out))


def decompress(arguments: list[str]) -> None:
    """Read what taming compress wrote, with the same checkpoint, into a PNG."""
    parser = Parser(prog="taming decompress", description=decompress.__doc__)
    parser.add_argument("checkpoint", metavar="CKPT")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("-o", "--out", required=True, metavar="IMAGE")
    given = parser.parse(arguments)

    from taming import compression

    print(compression.decompress_file(given.checkpoint, given.file, given.out))


def inspect(arguments: list[str]) -> None:
    """Say what a checkpoint is, without building its model."""
    parser = Parser(prog="taming inspect", description=inspect.__doc__)
    parser.add_argument("checkpoint", metavar="FILE")
    parser.add_argument("--config", metavar="YAML", help="what came with a published checkpoint; default: what lies beside it")
    given = parser.parse(arguments)

    from taming import checkpoint

    print(checkpoint.describe(given.checkpoint, given.config))


def convert(arguments: list[str]) -> None:
    """Write a checkpoint, ours or published, as safetensors with its configuration; or a published YAML as ours."""
    parser = Parser(prog="taming convert", description=convert.__doc__)
    parser.add_argument("checkpoint", metavar="IN", help="a checkpoint or a run folder; or a published YAML")
    parser.add_argument("out", metavar="OUT", nargs="?", help="a .safetensors file; for a YAML a .yaml file")
    parser.add_argument("--config", metavar="YAML", help="what came with a published checkpoint; alone with OUT: convert only this")
    parser.add_argument("--half", action="store_true", help="floats in half precision; in a quarter what no sample needs")
    given = parser.parse(arguments)
    if given.out is None and given.config:
        given.checkpoint, given.out = given.config, given.checkpoint
    if given.out is None:
        raise UserError("convert needs IN and OUT; see: taming convert --help")

    from taming import checkpoint

    if given.checkpoint.endswith((".yaml", ".yml")):
        print(checkpoint.convert_yaml(given.checkpoint, given.out))
        return
    if not given.out.endswith(".safetensors"):
        raise UserError(f"'{given.out}' should end in .safetensors")

    checkpoint.make_writable(Path(given.out).parent)
    content = checkpoint.read(given.checkpoint, given.config)
    checkpoint.save_safetensors(given.out, content, given.half)
    for name, why in content.left.items():
        print(f"left aside {name}: {why}", file=sys.stderr)
    print(given.out)


def export(arguments: list[str]) -> None:
    """Write a checkpoint in the published code's layout: checkpoints/last.ckpt and configs/model-project.yaml."""
    parser = Parser(prog="taming export", description=export.__doc__)
    parser.add_argument("checkpoint", metavar="CKPT")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("--config", metavar="YAML", help="what came with a published checkpoint; default: what lies beside it")
    given = parser.parse(arguments)

    from taming import checkpoint

    print(checkpoint.save_published(given.out, checkpoint.read(given.checkpoint, given.config)))


def evaluate(arguments: list[str]) -> None:
    """Measure a checkpoint, or two folders of pictures; every figure carries the protocol that made it."""
    parser = Parser(prog="taming evaluate", description=evaluate.__doc__)
    parser.add_argument("checkpoint", metavar="CKPT", nargs="?", help="a first or second stage; without, --data and --samples are compared")
    parser.add_argument("--config", metavar="YAML", help="what came with a published checkpoint; default: what lies beside it")
    parser.add_argument(
        "--data", metavar="DIR", help="pictures, or images/ and segmentations/, with train.txt and validation.txt; default: what CKPT was trained on"
    )
    parser.add_argument("--train", metavar="DIR", help="the training pictures, where DIR has no train.txt")
    parser.add_argument("--samples", metavar="DIR", help="pictures that were drawn; default: a second stage draws one for each picture of the data")
    parser.add_argument(
        "--features", metavar="NAME|FILE", help="inception (default), a torchvision model, NAME:WEIGHTS, or a VGG16 .safetensors file (@3: its third block)"
    )
    parser.add_argument("--feature-size", metavar="HxW", help="what pictures are resized to for the features; default: the network's own")
    parser.add_argument("--segmenter", metavar="CKPT", help="of taming train -b configs/segmenter/...: measures how faithful samples are to their masks")
    parser.add_argument("--size", metavar="HxW", help="bring all pictures to this size; default: what CKPT was trained on")
    parser.add_argument("--pictures", type=int, metavar="N", help="measure on so many, spread evenly; default: all")
    parser.add_argument("--train-pictures", type=int, default=2000, metavar="N", help="at most so many training pictures, spread evenly")
    parser.add_argument("--only", metavar="A,B", help="some of reconstruction, codes, likelihood, generation, layout")
    parser.add_argument("--reference", metavar="FILE", help="stored statistics instead of real pictures' features")
    parser.add_argument("--store-reference", metavar="FILE", help="write the statistics of the real pictures' features (.npz)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the samples that are drawn here, as for taming sample")
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="of samples and intervals")
    parser.add_argument("--batch-size", type=int, default=32, help="changes no figure")
    parser.add_argument(
        "-o", "--out", metavar="FIGURES.json", help="default: figures.json, in the run's folder where CKPT is one; pictures go into a folder beside"
    )
    given = parser.parse(arguments)
    _quiet()
    out = Path(given.out or (Path(given.checkpoint or "") / "figures.json" if Path(given.checkpoint or "").is_dir() else "figures.json"))
    if out.suffix != ".json":
        raise UserError(f"-o {out} should end in .json")

    from taming import measuring
    from taming.drawing import Settings

    names = (
        "checkpoint",
        "data",
        "train",
        "samples",
        "features",
        "segmenter",
        "pictures",
        "train_pictures",
        "reference",
        "store_reference",
        "seed",
        "batch_size",
    )
    how = {name: getattr(given, name) for name in names} | {"size": _size(given.size), "feature_size": _size(given.feature_size), "yaml": given.config}
    if given.only:
        how["only"] = tuple(part.strip() for part in given.only.split(","))
    how["drawing"] = Settings(**{name: getattr(given, name) for name in ("seed", "temperature", "top_k", "top_p", "guidance")})
    print(measuring.evaluate(out, **how).table())


def report(arguments: list[str]) -> None:
    """Write one page about one or several runs, side by side."""
    parser = Parser(prog="taming report", description=report.__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of taming train; what taming evaluate RUN wrote there is shown too")
    parser.add_argument("-o", "--out", default="report.html", metavar="FILE.html", help="plots go, as PNG, into a folder of the same name")
    given = parser.parse(arguments)
    if not given.out.endswith(".html"):
        raise UserError(f"-o {given.out} should end in .html")

    from taming.evaluation import comparison

    print(comparison.write(given.runs, given.out))


def doctor(arguments: list[str]) -> None:
    """Say in plain words what is wrong with a run, and what to change."""
    parser = Parser(prog="taming doctor", description=doctor.__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+")
    given = parser.parse(arguments)

    from taming.evaluation import doctor as surgery

    for run in given.runs:
        print(surgery.tell(run))


def demo(arguments: list[str]) -> None:
    """Train both stages on drawn landscapes in minutes, and write a report."""
    parser = Parser(prog="taming demo", description=demo.__doc__)
    parser.add_argument("-o", "--out", default="runs/demo", metavar="OUT")
    parser.add_argument("--quick", action="store_true", help="a handful of batches, to see that everything runs")
    given = parser.parse(arguments)
    _quiet()

    from taming import demo as whole

    print(whole.run(given.out, given.quick))


VERBS = {
    "train": train,
    "sample": sample,
    "reconstruct": reconstruct,
    "encode": encode,
    "compress": compress,
    "decompress": decompress,
    "inspect": inspect,
    "convert": convert,
    "export": export,
    "evaluate": evaluate,
    "report": report,
    "doctor": doctor,
    "demo": demo,
}


def _run_folder(name: str) -> Path:
    """runs/x, runs/x/checkpoints/last.ckpt or x -> the run's folder."""
    path = Path(name)
    if path.is_file() and path.name == "last.ckpt":
        path = path.parent.parent
    elif path.is_file():
        raise UserError(f"-r {name}: a run goes on from its last.ckpt; to start a new one from these weights, use --from")
    for folder in (path, Path("runs") / name):
        if (folder / "config.yaml").is_file() and (folder / "checkpoints" / "last.ckpt").is_file():
            return folder
    raise UserError(f"-r {name}: no run with config.yaml and checkpoints/last.ckpt there; start one with -b CONFIG")


def _gpus(text: str) -> list[str]:
    numbers = _numbers(text)
    if numbers != list(range(len(numbers))):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, numbers))
    return ["trainer.accelerator=gpu", f"trainer.devices={len(numbers)}"]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"'{text}' is not a list of numbers such as 0,1") from None


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    text = text if "x" in text.lower() else f"{text}x{text}"
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isdigit() and int(p) for p in parts):
        raise UserError(f"--size {text}: give height x width, for example 64x96")
    return int(parts[0]), int(parts[1])


def _quiet() -> None:
    """Lightning's advice and advertisements are not for the user of this program."""
    import logging
    import warnings

    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "pytorch_lightning.utilities.rank_zero", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")

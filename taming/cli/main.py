"""The command line: argparse only; what is heavy is imported inside the verb, so that help answers
at once.
"""

import errno
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

from taming.allocator import keep_freed_memory
from taming.cli.checkpoints import convert, export, inspect
from taming.cli.configs import configs
from taming.cli.data import data
from taming.cli.demo import demo
from taming.cli.encode import decode, encode, shard
from taming.cli.keys import keys
from taming.cli.layouts import segment, template
from taming.cli.measure import doctor, evaluate, report
from taming.cli.new import new
from taming.cli.pictures import compress, decompress, reconstruct
from taming.cli.sample import sample
from taming.cli.studio import studio
from taming.cli.train import train
from taming.errors import UserError, did_you_mean, first_line

VERBS = {
    "train": train,
    "sample": sample,
    "reconstruct": reconstruct,
    "encode": encode,
    "decode": decode,
    "shard": shard,
    "compress": compress,
    "decompress": decompress,
    "inspect": inspect,
    "convert": convert,
    "export": export,
    "evaluate": evaluate,
    "report": report,
    "doctor": doctor,
    "template": template,
    "segment": segment,
    "configs": configs,
    "data": data,
    "keys": keys,
    "new": new,
    "demo": demo,
    "studio": studio,
}
ALIASES = {"paint": "studio"}
INTERRUPTED, PIPE_CLOSED = 130, 141  # as shells count: 128 and the number of the signal
OUTSIDE = {  # what disks, folders and limits of the machine say; anything else is a bug of ours
    getattr(errno, name)
    for name in (
        "EACCES EDQUOT EEXIST EFBIG EIO EISDIR ELOOP EMFILE ENAMETOOLONG ENFILE ENOENT ENOMEM"
        " ENOSPC ENOTDIR ENXIO EPERM EROFS ETXTBSY"
    ).split()
}


def entry() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(errors="backslashreplace")  # ASCII terminals
    keep_freed_memory()
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # once more, while the first was answered
        code = INTERRUPTED
    sys.exit(code)


def main(words: list[str]) -> int:
    """Runs a verb.

    Args:
        words: of the command line, without the program's name.

    Returns:
        The exit code. What a user can mend is one line on stderr and code 2; what is a bug of ours
        keeps its traceback.
    """
    try:
        _dispatch(list(words))
        sys.stdout.flush()
    except UserError as error:
        return _refused(_without_worker(str(error)), error.code)
    except KeyboardInterrupt:
        print("taming: interrupted; files that are written are complete", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as stop:  # argparse's --help
        return int(stop.code or 0)
    except BrokenPipeError:  # | head -1
        _discard_stdout()
        return PIPE_CLOSED
    except Exception as error:
        reason = _outside_reason(error)
        if reason is None:
            raise
        return _refused(reason)
    return 0


def _dispatch(words: list[str]) -> None:
    if any("\0" in word for word in words):
        raise UserError("an argument holds a zero byte")
    if not words or words[0] in ("-h", "--help"):
        print(overview())
    elif words[0] == "--version":
        from taming import __version__

        print(f"taming {__version__}")
    elif ALIASES.get(words[0], words[0]) in VERBS:
        VERBS[ALIASES.get(words[0], words[0])](words[1:])
    elif words[0].startswith("-"):
        train(words)  # python main.py --base config.yaml -t True --gpus 0,
    else:
        raise UserError(f"unknown verb '{words[0]}'{did_you_mean(words[0], VERBS)}")


def overview() -> str:
    """What `taming --help` prints."""
    lines = [f"  {name:<12} {(verb.__doc__ or '').splitlines()[0]}" for name, verb in VERBS.items()]
    return (
        "taming VERB ...   VQ-GAN and its family, with a Transformer prior\n\n"
        + "\n".join(lines)
        + "\n\ntaming VERB --help lists a verb's arguments."
    )


def _refused(reason: str, code: int = UserError.code) -> int:
    print(f"taming: {' '.join(reason.split())}", file=sys.stderr)
    return code


def _without_worker(message: str) -> str:
    """From a data loader's worker, a message comes at the end of a traceback."""
    if "Original Traceback" not in message:
        return message
    return message.strip().splitlines()[-1].partition("Error: ")[2] or message


def _outside_reason(error: Exception) -> str | None:
    """What the machine or a file did, in one line; None for a bug of ours."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"out of memory ({first_line(error) or 'no more could be had'}); take less at a time"
    if type(error).__name__ == "OutOfMemoryError":  # of a GPU
        return f"out of memory on the GPU ({first_line(error)}); take less at a time"
    if isinstance(error, RecursionError) and not _is_ours(error.__traceback__):
        return "a file is nested too deeply to be read"
    if isinstance(error, OSError) and error.errno in OUTSIDE:
        name = f"'{error.filename}': " if error.filename else ""
        return f"{name}{error.strerror or first_line(error)}"
    return None


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether most of the calls are of this package."""
    package = str(Path(__file__).parents[1])
    names = [frame.filename for frame in traceback.extract_tb(trace)]
    return sum(name.startswith(package) for name in names) > len(names) / 2


def _discard_stdout() -> None:
    """So that the interpreter does not complain when it flushes at the end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass

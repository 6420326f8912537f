"""Pickles run nothing, whatever they are disguised as."""

import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from taming.errors import UserError
from taming.formats.load import read_checkpoint
from taming.formats.unpickler import _Unpickler, read_restricted


class _Reduce:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _disguises(command):
    yield {"state_dict": {}, "x": _Reduce(os.system, command)}
    yield {
        "state_dict": {
            "encoder.conv_in.weight": _Reduce(eval, f"__import__('os').system({command!r})")
        }
    }
    yield {
        "state_dict": {},
        "optimizer_states": [
            {
                "state": {
                    0: [
                        _Reduce(
                            subprocess.call, command, -1, None, None, None, None, None, True, True
                        )
                    ]
                }
            }
        ],
    }
    yield {
        "callbacks": {
            _Reduce(getattr, _Reduce(__import__, "os"), "system"): _Reduce(
                exec, f"import os; os.system({command!r})"
            )
        }
    }


def test_planted_code_runs_nothing_and_is_named(tmp_path):
    marker = tmp_path / "ran"
    for i, planted in enumerate(_disguises(f"touch {marker}")):
        for modern in (True, False):
            path = tmp_path / f"{i}{modern}.ckpt"
            torch.save(planted, path, _use_new_zipfile_serialization=modern)
            with pytest.raises(
                UserError,
                match=(
                    r"refused: it asks to run"
                    r" '(posix|os|builtins|__builtin__|subprocess|commands)\.\w+'"
                ),
            ):
                read_checkpoint(path)
    # A bare pickle
    built = (
        b"\x80\x02cposix\nsystem\nq\x00(X"
        + len(b"touch x").to_bytes(4, "little")
        + b"touch xq\x01tq\x02Rq\x03."
    )
    (tmp_path / "bare.ckpt").write_bytes(built)
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "bare.ckpt")
    # OBJ, then BUILD
    object_and_build = (
        b"\x80\x02(cposix\nsystem\nX" + len(b"true").to_bytes(4, "little") + b"trueo}b."
    )
    (tmp_path / "obj.ckpt").write_bytes(object_and_build)
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "obj.ckpt")
    assert not marker.exists()


def test_disguised_programs_and_broken_archives_are_refused(tmp_path):
    class Doubled(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    torch.jit.script(Doubled()).save(tmp_path / "program.ckpt")
    with open(tmp_path / "program.ckpt", "ab") as file:
        # So that Python's zipfile sees no archive, while torch does
        file.write(b"PK\x05\x06" + bytes(6))
    with pytest.raises(UserError, match="TorchScript"):
        read_restricted(tmp_path / "program.ckpt")
    (tmp_path / "broken.ckpt").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(UserError, match="can't be read"):
        read_checkpoint(tmp_path / "broken.ckpt")
    # BUILD with a slot state
    change = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor\nN}("
        b"X\x08\x00\x00\x00__name__X\x01\x00\x00\x00xu\x86b."
    )
    with pytest.raises(UserError, match="it asks to change '_rebuild_tensor'"):
        _Unpickler(io.BytesIO(change)).load()
    assert torch._utils._rebuild_tensor.__name__ == "_rebuild_tensor"


def test_a_numpy_scalar_is_harmless():
    stream = pickle.dumps({"rate": np.float64(0.5)}, protocol=2)
    assert "rate" in _Unpickler(io.BytesIO(stream)).load()


def test_classes_of_an_old_lightning_are_inert(tmp_path):
    """Named as keys, made with a state: neither needs the package, nor imports it."""
    stream = (
        b"\x80\x02}(cpytorch_lightning.no_such_module\nModelCheckpoint\n}"
        b"cpathlib\nNoSuchPath\n)\x81}X\x05\x00\x00\x00stateK\x01sb}u."
    )
    named, instance = _Unpickler(io.BytesIO(stream)).load()
    assert "pytorch_lightning.no_such_module" not in sys.modules
    assert named.__name__ == "ModelCheckpoint" and type(instance).__name__ == "NoSuchPath"
    assert not hasattr(instance, "state")


@pytest.mark.parametrize("encoding", ["zlib", "idna", "no_such_codec"])
def test_no_codec_is_imported(encoding):
    """numpy scalars carry their bytes as latin1; Python would import whatever a pickle names."""
    codec = f"encodings.{encoding}"
    before = codec in sys.modules
    stream = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00a" + (
        b"X" + len(encoding).to_bytes(4, "little") + encoding.encode() + b"\x86R."
    )
    with pytest.raises(UserError, match=f"text in '{encoding}'"):
        _Unpickler(io.BytesIO(stream)).load()
    assert (codec in sys.modules) == before

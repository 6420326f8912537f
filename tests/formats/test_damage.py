"""A damaged file is named in one line, or is as good as new: never a traceback, never other
numbers.
"""

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import taming
from taming.cli.main import main
from taming.errors import UserError
from taming.formats.describe import describe
from taming.formats.load import read_checkpoint
from taming.formats.ours import read_raw, save_safetensors
from taming.weights import read_weights
from tests.formats.samples import metadata_of, rewrite, small_content, write_ckpt, write_small

ENDINGS = [".ckpt", ".safetensors"]
MANY = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=ENDINGS)
def file(request, tmp_path) -> Path:
    return write_small(tmp_path / f"m{request.param}")


def read_or_refuse(path: Path):
    """The Content, or None where it is refused as it should be."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning is a second line
        try:
            return read_checkpoint(path)
        except UserError as refusal:
            assert "\n" not in str(refusal) and str(path) in str(refusal)
            return None


# Flipped, cut and foreign bytes


@MANY
@given(data=st.data())
def test_a_flipped_bit_is_seen_or_changes_nothing(file, data):
    raw = file.read_bytes()
    place = data.draw(st.integers(0, len(raw) - 1))
    bit = data.draw(st.integers(0, 7))
    damaged = file.with_name(f"damaged{file.suffix}")
    damaged.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :])
    content, original = read_or_refuse(damaged), read_checkpoint(file)
    if content is not None:
        assert content.config == original.config and content.figures == original.figures
        assert content.weights.keys() == original.weights.keys()
        for name, tensor in original.weights.items():
            assert torch.equal(tensor, content.weights[name]), name


@MANY
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_refused(file, share):
    raw = file.read_bytes()
    cut = file.with_name(f"cut{file.suffix}")
    cut.write_bytes(raw[: int(share * len(raw))])
    assert read_or_refuse(cut) is None


@MANY
@given(
    beginning=st.sampled_from(
        [b"", b"PK\x03\x04", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{", b"{", b"("]
    ),
    rest=st.binary(max_size=400),
    ending=st.sampled_from(ENDINGS),
)
def test_random_bytes_are_refused(tmp_path, beginning, rest, ending):
    path = tmp_path / f"m{ending}"
    path.write_bytes(beginning + rest)
    assert read_or_refuse(path) is None
    with pytest.raises(UserError):
        read_weights(path)


NO_WEIGHTS = {
    "is empty": b"",
    "git-LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "is a web page": b"\n<!DOCTYPE html><html><body>Quota exceeded</body></html>",
    "can't be read": b"GIF89a",
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("message", NO_WEIGHTS)
def test_what_people_take_for_weights(tmp_path, message, ending, capsys):
    path = tmp_path / f"m{ending}"
    path.write_bytes(NO_WEIGHTS[message])
    for verb in (["inspect"], ["sample"], ["convert"], ["export"]):
        out = [str(tmp_path / "o.safetensors")] * (verb[0] in ("convert", "export"))
        assert main([*verb, str(path), *out]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    with pytest.raises(UserError, match=message):
        read_weights(path)


@pytest.mark.parametrize("value", [[1], "x", 7, {"a": {"b": [None]}}, {}], ids=repr)
def test_what_is_no_checkpoint(tmp_path, value):
    torch.save(value, tmp_path / "m.ckpt")
    assert read_or_refuse(tmp_path / "m.ckpt") is None


def test_the_content_counts_not_the_ending(tmp_path):
    write_small(tmp_path / "a.ckpt").rename(tmp_path / "b.safetensors")
    write_small(tmp_path / "a.safetensors").rename(tmp_path / "c.ckpt")
    for name in ("b.safetensors", "c.ckpt"):
        assert type(taming.load(tmp_path / name)).__name__ == "VQGAN"
    tensors = {"a": torch.ones(2)}
    torch.save(tensors, tmp_path / "w.safetensors")
    save_file(tensors, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        assert torch.equal(read_weights(tmp_path / name)["a"], tensors["a"])


# Checksums


def test_the_message_names_the_tensor(tmp_path):
    path = write_small(tmp_path / "m.safetensors")
    with open(path, "r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(UserError, match="is damaged: '.*' is not what was written"):
        taming.load(path)


def test_files_without_checksums_load(tmp_path):
    """Those of earlier versions."""
    path = write_small(tmp_path / "m.safetensors")
    rewrite(path, json.dumps(metadata_of(small_content())))
    weights = taming.load(path).state_dict()
    for name, tensor in small_content().weights.items():
        assert weights[name].shape == tensor.shape
    archive = tmp_path / "m.ckpt"
    metadata, state = metadata_of(small_content()), load_file(path)
    state = {f"model.{name}": tensor for name, tensor in state.items()}
    raw = {"taming": metadata, "state_dict": state}
    torch.save(raw, archive, _use_new_zipfile_serialization=False)
    assert torch.equal(
        taming.load(archive).state_dict()["decoder.conv_out.bias"], weights["decoder.conv_out.bias"]
    )


@pytest.mark.parametrize("half", [False, True])
def test_a_file_of_ours_is_read_as_it_was_written(tmp_path, half):
    content = small_content(loss={"discriminator.main.0.weight": torch.randn(2, 3)})
    save_safetensors(tmp_path / "m.safetensors", content, half)
    again = read_checkpoint(tmp_path / "m.safetensors")
    assert (again.stage, again.config, again.batches) == ("first", content.config, 7)
    assert again.loss.keys() == content.loss.keys()
    for name, tensor in content.weights.items():
        expected = tensor.half() if half and tensor.is_floating_point() else tensor
        assert torch.equal(again.weights[name], expected), name


@pytest.mark.parametrize("best", [True, False])
def test_a_damaged_last_checkpoint_names_the_best_one(tmp_path, best, capsys):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    raw = write_ckpt(folder / "last.ckpt").read_bytes()
    if best:
        (folder / "best.ckpt").write_bytes(raw)
    # Archives have padding too, which may be anything
    numbers = small_content().weights["encoder.conv_in.weight"].numpy().tobytes()
    place = raw.index(numbers) + 5
    (folder / "last.ckpt").write_bytes(raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :])
    for read in (taming.load, lambda path: read_raw(path / "checkpoints" / "last.ckpt")):
        with pytest.raises(UserError, match="is damaged") as refusal:
            read(tmp_path / "run")
        assert ("best.ckpt' is there" in str(refusal.value)) == best
    assert main(["inspect", str(tmp_path / "run")]) == 2
    assert ("best.ckpt' is there" in capsys.readouterr().err) == best


# Numbers that are none


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("ending", ENDINGS)
def test_weights_that_are_not_finite_are_named(tmp_path, value, ending):
    content = small_content()
    content.weights["decoder.conv_out.bias"][1] = value
    path = tmp_path / f"m{ending}"
    if ending == ".ckpt":
        write_ckpt(path, state={f"model.{name}": t for name, t in content.weights.items()})
    else:
        save_safetensors(path, content)
    with pytest.raises(UserError, match="NaN or infinity in 1 tensor, 'decoder.conv_out.bias'"):
        taming.load(path)
    assert "NaN or infinity in 1 tensor, 'decoder.conv_out.bias'" in describe(path)


def test_large_numbers_are_finite(tmp_path):
    """Their sum is not, and that is no reason to refuse them."""
    content = small_content()
    content.weights["decoder.conv_out.weight"].fill_(3e38)
    save_safetensors(tmp_path / "m.safetensors", content)
    assert taming.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("value", [70_000.0, -1e20])
def test_what_half_precision_can_not_hold_is_refused(tmp_path, value, capsys):
    content = small_content()
    content.weights["decoder.conv_out.bias"][0] = value
    save_safetensors(tmp_path / "m.safetensors", content)
    out = tmp_path / "half.safetensors"
    assert main(["convert", str(tmp_path / "m.safetensors"), str(out), "--half"]) == 2
    error = capsys.readouterr().err
    assert "'decoder.conv_out.bias'" in error and error.count("\n") == 1 and not out.exists()
    assert main(["convert", str(tmp_path / "m.safetensors"), str(out)]) == 0
    assert torch.equal(
        read_checkpoint(out).weights["decoder.conv_out.bias"],
        content.weights["decoder.conv_out.bias"],
    )


def test_a_quarter_holds_less_and_says_so(tmp_path):
    """float8 up to 448, of a decoder that no sample needs."""
    content = small_content(weights={"conditioner.first_stage.decoder.x": torch.tensor([1000.0])})
    with pytest.raises(UserError, match=r"reaches 1e\+03, but torch.float8_e4m3fn only 448"):
        save_safetensors(tmp_path / "m.safetensors", content, half=True)

"""What a file says runs nothing, imports nothing, and is refused in one line, whoever reads it."""

import copy
import functools
import sys

import pytest
import torch

import taming
from taming import config
from taming.cli.main import main
from taming.errors import UserError
from taming.formats.content import DEPTH
from taming.formats.describe import describe
from taming.formats.load import read_checkpoint
from taming.formats.ours import save_safetensors
from taming.formats.pretrained import pretrained
from tests.conftest import paint_pairs, write_yaml
from tests.formats.samples import (
    changed,
    gpt_node,
    leaves,
    metadata_of,
    rewrite,
    second_content,
    small_content,
    write_ckpt,
    write_small,
)

COMMAND = {"target": "os.system", "params": {"command": "touch pwned"}}
TARGETS = {  # what a file might name
    "a function": COMMAND,
    "a download": {
        "target": "torchvision._internally_replaced_utils.load_state_dict_from_url",
        "params": {"url": "file:///dev/null"},
    },
    "the command line": {
        "target": "taming.cli.main",
        "params": {"words": ["demo", "--out", "pwned"]},
    },
    "the command line's function": {
        "target": "taming.cli.main.main",
        "params": {"words": ["demo", "--out", "pwned"]},
    },
    "a writer": {
        "target": "torchvision.io.write_file",
        "params": {"filename": "pwned", "data": [1]},
    },
    "an archive": {
        "target": "torchvision.datasets.utils.extract_archive",
        "params": {"from_path": "x.zip"},
    },
    "a planted module": {"target": "planted.Model", "params": {}},
    "a planted submodule of ours": {"target": "taming.first_stage.planted.Model", "params": {}},
    "another checkpoint": {
        "target": "taming.first_stage.pretrained",
        "params": {"checkpoint": "other.ckpt"},
    },
    "a private name": {"target": "taming.config.build._built", "params": {"node": COMMAND}},
    "a network of torchvision": {
        "target": "torchvision.models.resnet18",
        "params": {"weights": "DEFAULT"},
    },
}
PLACES = {  # where it might stand
    "model": lambda plain, node: plain.update(model=node),
    "quantizer": lambda plain, node: plain["model"]["params"].update(quantizer=node),
    "deep behind a model that works": lambda plain, node: plain["model"]["params"]["quantizer"][
        "params"
    ].update(normalize=node),
    "in a list": lambda plain, node: plain["model"]["params"].update(attention=[[{"a": node}]]),
}
READERS = {
    "load": lambda path: taming.load(path),
    "pretrained": lambda path: pretrained(str(path)),
    "experiment": lambda path: read_checkpoint(path).experiment(),
}


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A folder on sys.path whose module, when imported, leaves the file `pwned`."""
    (tmp_path / "planted.py").write_text("open('pwned', 'w').close()\nclass Model: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    assert not (tmp_path / "pwned").exists()
    new = {name for name in set(sys.modules) - before if not name.startswith("taming.")}
    assert not {"planted", "taming.first_stage.planted"} & set(sys.modules), new


def planted(node: dict, place: str) -> dict:
    metadata = copy.deepcopy(metadata_of(small_content()))
    metadata["config"]["allow"] = ["os", "planted", "taming", "torchvision"]
    PLACES[place](metadata["config"], copy.deepcopy(node))
    return metadata


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_planted_target_is_refused(trap, target, place, ending):
    path = write_small(trap / f"m{ending}", planted(TARGETS[target], place))
    for read in READERS.values():
        with pytest.raises(UserError) as refusal:
            read(path)
        assert "\n" not in str(refusal.value)
    assert "first stage" in describe(path)  # which says what is there, and resolves nothing


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_every_verb_refuses_it(trap, ending, capsys):
    path = str(write_small(trap / f"m{ending}", planted(COMMAND, "quantizer")))
    images = str(paint_pairs(trap / "data") / "images")
    other = {"params": {"checkpoint": path}, "target": "taming.first_stage.pretrained"}
    plain = metadata_of(small_content())["config"]
    second = {
        **plain,
        "loss": None,
        "model": {
            "target": "taming.second_stage.SecondStage",
            "params": {
                "first_stage": other,
                "conditioner": {"target": "taming.second_stage.Unconditional"},
                "prior": {
                    "target": "taming.second_stage.GPT",
                    "params": {"layers": 1, "heads": 1, "width": 8},
                },
                "size": 16,
            },
        },
    }
    write_yaml(second, trap / "second.yaml")
    for words in (
        ["sample", path],
        ["reconstruct", path, images, "-o", "out"],
        ["encode", path, images, "-o", "codes.npz"],
        ["evaluate", path, "--data", images],
        ["compress", path, f"{images}/p0.png", "-o", "p.tamg"],
        ["train", "-b", "second.yaml"],
    ):
        assert main(words) == 2, words
        assert "Traceback" not in capsys.readouterr().err
    assert main(["inspect", path]) == 0


def test_what_the_caller_allows_is_built_and_nothing_else_of_the_file(tmp_path, monkeypatch):
    """A run of one's own with classes of one's own: the caller says so again."""
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from taming.first_stage import VectorQuantizer\nclass Quantizer(VectorQuantizer): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    metadata = metadata_of(small_content())
    quantizer = metadata["config"]["model"]["params"]["quantizer"]
    metadata["config"]["model"]["params"]["quantizer"] = {**quantizer, "target": "mine.Quantizer"}
    metadata["config"]["allow"] = ["mine"]
    path = write_small(tmp_path / "m.safetensors", metadata)
    with pytest.raises(UserError, match="allow"):
        taming.load(path)
    assert "mine" not in sys.modules
    assert type(taming.load(path, allow=["mine"]).quantizer).__module__ == "mine"
    assert type(pretrained(str(path), allow=["mine"]).quantizer).__module__ == "mine"
    node = {"target": "taming.first_stage.pretrained", "params": {"checkpoint": str(path)}}
    assert type(config.build(node, allow=["mine"]).quantizer).__module__ == "mine"
    with pytest.raises(UserError, match="allow"):
        config.build(node)


LOSS = {"target": "taming.first_stage.VQGANLoss"}
BUILT_ELSEWHERE = {  # classes that a file may name, but whose place is not in a model
    "a loss, which may download": "taming.first_stage.VQGANLoss",
    "a data set, which lists folders": "taming.data.ImageFolder",
}


@pytest.mark.parametrize("target", BUILT_ELSEWHERE.values(), ids=BUILT_ELSEWHERE)
def test_what_is_no_part_of_a_model_is_not_built_in_one(tmp_path, monkeypatch, target):
    built = []
    content = second_content(gpt_node())
    room, _, name = target.rpartition(".")
    made = getattr(sys.modules[room], name)

    @functools.wraps(made.__init__)  # whose declarations are looked at
    def construct(*arguments, **keywords):
        built.append(made)

    monkeypatch.setattr(made, "__init__", construct)
    plain = content.config
    for path in leaves({"model": plain["model"]}):
        node = {"target": target, "params": {"root": "/"} if "data" in target else {}}
        content.config = changed(plain, path, node)
        save_safetensors(tmp_path / "m.safetensors", content)
        with pytest.raises(UserError):
            taming.load(tmp_path / "m.safetensors")
        assert not built, path


@pytest.mark.parametrize("view", [{"size": LOSS}, {"scale": [LOSS]}, {"a": {"b": LOSS}}], ids=repr)
def test_what_is_no_part_of_a_data_set_is_not_built_in_one(tmp_path, view):
    """Evaluation builds the data set that a file names."""
    content = small_content()
    node = {"target": "taming.data.ImageFolder", "params": {"root": str(tmp_path), "view": view}}
    content.config = changed(content.config, ("data", "validation"), node)
    save_safetensors(tmp_path / "m.safetensors", content)
    with pytest.raises(UserError, match=r"validation.params.view.*a class stands where"):
        read_checkpoint(tmp_path / "m.safetensors").experiment()


DEEP = "[" * 100_000 + "]" * 100_000
SAYINGS = {  # metadata of a .safetensors as text
    "no JSON": "{",
    "a deep list": f'{{"config": {DEEP}}}',
    "a deep mapping": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "a list": "[]",
    "a number": "7",
    "nothing": "",
    "a huge text": '{"stage": "' + "x" * 5_000_000 + '"}',
    "a huge number": '{"stage": "first", "batches": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("text", SAYINGS.values(), ids=SAYINGS)
def test_metadata_that_are_no_metadata(tmp_path, text):
    path = write_small(tmp_path / "m.safetensors")
    rewrite(path, text)
    refuse(path)


def nested(depth: int) -> dict:
    node: dict = {}
    for _ in range(depth):
        node = {"a": node}
    return node


CHANGES = {  # one entry of the metadata, as another thing
    "stage": [None, 1, "third", ["first"], {}],
    "batches": [None, -1, 1.5, "7", True, 2**70, [7]],
    "figures": [1, [], {"rec": "low"}, {"rec": None}, {"rec": [1]}, {"rec": 2**80}],
    "config": [None, 1, "x", [], {}, {"model": 1}, {"model": {"target": 1}}, nested(DEPTH + 5)],
}
SECTIONS = {
    "model": [None, 1, [], {}, {"target": "taming.first_stage.VQGAN", "params": 3}],
    "loss": [1, "x", [1], {"target": 1}],
    "data": [None, 1, {"train": 1}, {"validation": [2]}],
    "optimizer": [1, "x", {"learning_rate": "fast"}],
    "trainer": [[], {"max_steps": "many"}, {"unknown": 1}],
    "seed": ["x", -1, None],
    "variables": [1, {"root": "${oc.env:HOME}"}],
    "unknown": [1],
}


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("key, value", [(k, v) for k in CHANGES for v in CHANGES[k]], ids=repr)
def test_metadata_of_other_types(tmp_path, key, value, ending):
    metadata = {**metadata_of(small_content()), key: value}
    refuse(write_small(tmp_path / f"m{ending}", metadata))


def test_names_of_figures_are_words(tmp_path):
    metadata = {**metadata_of(small_content()), "figures": {3: 0.5}}  # which JSON can't say
    refuse(write_small(tmp_path / "m.ckpt", metadata))


@pytest.mark.parametrize("key, value", [(k, v) for k in SECTIONS for v in SECTIONS[k]], ids=repr)
def test_sections_of_other_types(tmp_path, key, value):
    metadata = metadata_of(small_content())
    metadata["config"] = {**metadata["config"], key: value}
    refuse(write_small(tmp_path / "m.ckpt", metadata), loading_only=True)


TENSORS = {
    "no tensor": 1,
    "a list": [1.0],
    "sparse": torch.eye(3).to_sparse(),
    "complex": torch.ones(3, dtype=torch.complex64),
    "of no memory": torch.ones(3, device="meta"),
    "larger than the file": torch.ones(1).expand(10**12),
}


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
def test_what_is_no_plain_tensor(tmp_path, tensor):
    state = {f"model.{name}": value for name, value in small_content().weights.items()}
    state["model.decoder.conv_out.bias"] = tensor
    refuse(write_ckpt(tmp_path / "m.ckpt", state=state))


@pytest.mark.parametrize("state", [None, 1, [], {1: torch.ones(1)}], ids=repr)
def test_a_state_that_is_no_dictionary_of_tensors(tmp_path, state):
    metadata = metadata_of(small_content())
    torch.save({"taming": metadata, "state_dict": state}, tmp_path / "m.ckpt")
    refuse(tmp_path / "m.ckpt")


def refuse(path, loading_only: bool = False) -> None:
    """One line from everybody who reads the file."""
    for read in (taming.load,) if loading_only else (taming.load, describe, read_checkpoint):
        with pytest.raises(UserError) as refusal:
            read(path)
        assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 1000

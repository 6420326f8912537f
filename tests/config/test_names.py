"""What a file may name is a closed table of ours, what a user may name are classes: nothing is run,
and nothing imported, because a file says so.
"""

import sys

import pytest

from taming import config
from taming.errors import UserError
from tests.conftest import first_stage_plain

DANGEROUS = [
    "os.system",
    "subprocess.Popen",
    "builtins.exec",
    "pathlib.Path",
    "torch.load",
    "torch.hub.load",
    "torch.nn.Linear",
    "torchvision._internally_replaced_utils.load_state_dict_from_url",
    "torchvision.io.write_file",
    "torchvision.datasets.utils.extract_archive",
    "torchvision.datasets.CIFAR10",
    "torchvision.models.resnet18",
    "taming.cli.main",
    "taming.cli.main.main",
    "taming.demo.demo",
    "taming.files.write_atomically",
    "taming.training.run.train",
    "taming.formats.load.load",
    "taming.formats.pretrained.pretrained",
    "taming.first_stage.pretrained",
    "taming.first_stage.import_module",
    "taming.first_stage.vqgan.nn",
    "taming.first_stage.VQGAN.load_state_dict",
    "taming.first_stage.Quantizer",
    "taming.second_stage.sample",
    "taming.first_stage.__builtins__.exec",
    "canary.Canary",
]


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A module that can be imported, and leaves a trace when it is."""
    (tmp_path / "canary.py").write_text("class Canary:\n    def __init__(self, **k): pass\n")
    (tmp_path / "canary_functions.py").write_text(
        "from subprocess import Popen\nclass _Hidden: pass\ndef function(): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("canary", None)
    sys.modules.pop("canary_functions", None)


def with_quantizer(node) -> dict:
    plain = first_stage_plain()
    plain["model"]["params"]["quantizer"] = node
    return plain


@pytest.mark.parametrize("allow", [None, ["os", "canary"]], ids=["alone", "allow inside"])
@pytest.mark.parametrize("target", DANGEROUS)
def test_a_file_names_nothing_else_at_any_depth(target, allow, canary):
    node = {"target": target, "params": {}}
    trees = [
        {"model": node},
        with_quantizer(node),
        with_quantizer({"target": "taming.first_stage.VectorQuantizer", "params": {"dim": node}}),
        with_quantizer([{"deep": [node]}]),
    ]
    for tree in trees:
        if allow:
            tree["allow"] = allow
        with pytest.raises(UserError) as error:
            config.from_plain(tree, "a file", trusted=False)
        assert "target" in str(error.value) and "\n" not in str(error.value)
        with pytest.raises(UserError):
            config.build(tree["model"], trusted=False)
    assert "canary" not in sys.modules


def test_the_cure_is_named():
    with pytest.raises(UserError, match=r"--allow canary, in Python .*allow=\['canary'\]"):
        config.from_plain({"model": {"target": "canary.Canary"}}, trusted=False)


def test_what_only_training_needs_is_left_out(canary):
    """A model is loaded without the data set and the loss that it was trained with."""
    plain = first_stage_plain()
    plain["data"]["train"] = {"target": "torchvision.datasets.CIFAR10", "params": {"root": "x"}}
    plain["loss"] = {"target": "canary.Canary"}
    experiment = config.from_plain(plain, trusted=False)
    assert (experiment.data.train, experiment.loss) == ({}, None)
    assert experiment.data.validation and not experiment.trusted
    assert "canary" not in sys.modules


def test_the_caller_allows(canary):
    plain = with_quantizer({"target": "canary.Canary"})
    made = config.resolve("canary.Canary", "model", allow=["canary"], trusted=False)
    assert made.__name__ == "Canary"
    with pytest.raises(
        UserError, match="quantizer: a Canary stands here"
    ):  # named, but no quantizer
        config.from_plain(plain, allow=["canary"], trusted=False)


def test_a_run_that_goes_on_is_a_file(tmp_path, canary):
    from tests.conftest import write_yaml

    plain = first_stage_plain()
    plain["data"]["train"] = {"target": "canary.Canary"}
    run = write_yaml({**plain, "allow": ["canary"]}, tmp_path / "config.yaml")
    with pytest.raises(UserError, match="--allow canary"):
        config.load([], resumed=run)
    assert "canary" not in sys.modules
    for words in ({"allow": ["canary"]}, {"paths": [{"allow": ["canary"]}]}):
        with pytest.raises(UserError, match="canary.Canary stands where a data set belongs"):
            config.load(**{"paths": [], "resumed": run, **words})
    with pytest.raises(UserError, match="canary.Canary stands where a data set belongs"):
        config.load([], ["allow=[canary]"], resumed=run)


def test_a_run_that_goes_on_reads_no_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cret")
    (tmp_path / "config.yaml").write_text("logger: {project: '${oc.env:SECRET}', wandb: online}\n")
    with pytest.raises(UserError, match="should be filled in"):
        config.load([], resumed=tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "target",
    [
        "torchvision._internally_replaced_utils.load_state_dict_from_url",
        "torchvision.datasets.utils.extract_archive",
        "torchvision.datasets.utils.zipfile.ZipFile",
        "torchvision.io.write_file",
        "torchvision.models.resnet18",
        "taming.cli.main",
        "taming.training.run.train",
        "canary_functions.function",
        "canary_functions.Popen",
        "canary_functions._Hidden",
        "canary_functions.missing",
        "no_such_module.Thing",
        "os.system",
        "",
        "os",
        ".os",
        "os..system",
        "os.system ",
        7,
        None,
        ["taming.first_stage.VQGAN"],
    ],
)
def test_ones_own_yaml_names_classes_only(target, canary):
    node = {"target": target, "params": {}}
    with pytest.raises(UserError) as error:
        config.from_plain({"model": node, "allow": ["os", "canary_functions", "no_such_module"]})
    assert "model.target" in str(error.value) and "\n" not in str(error.value)


def test_a_module_of_ones_own_that_fails_is_no_traceback(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="broken_module.*division by zero"):
        config.resolve("broken_module.Thing", "model", allow=["broken_module"])


@pytest.mark.parametrize("target", ["torchvision.datasets.FakeData", "torchvision.models.VGG"])
def test_ones_own_yaml_names_data_sets_and_networks_of_torchvision(target):
    assert config.resolve(target, "model").__name__ == target.rpartition(".")[2]


def test_names_of_earlier_versions():
    for old in ("ScalarQuantizer", "LookupFreeQuantizer", "LinearQuantizer", "vqgan.VQGAN"):
        config.resolve(f"taming.first_stage.{old}", "model", trusted=False)
    config.resolve("taming.evaluation.Segmenter", "model", trusted=False)


def test_the_table_holds_classes_that_can_be_built_and_no_seams():
    names = config.file_classes()
    assert {"taming.first_stage.VQGAN", "taming.second_stage.GPT", "taming.data.ImageFolder"} < set(
        names
    )
    assert "taming.segmenter.Segmenter" in names
    assert not {"Quantizer", "FirstStage", "Prior", "Conditioner"} & {
        name.rpartition(".")[2] for name in names
    }


@pytest.mark.parametrize(
    "place, target",
    [
        ("model", "taming.first_stage.VQGANLoss"),
        ("model", "taming.data.DrawnLandscapes"),
        ("loss", "taming.first_stage.VectorQuantizer"),
        ("loss", "taming.first_stage.VQGAN"),
        ("data.train", "taming.first_stage.MaskLoss"),
        ("data.validation", "taming.segmenter.Segmenter"),
    ],
)
@pytest.mark.parametrize("trusted", [True, False])
def test_a_class_of_another_kind_is_refused(place, target, trusted):
    plain = first_stage_plain()
    *path, last = place.split(".")
    node = plain
    for key in path:
        node = node[key]
    node[last] = {"target": target}
    with pytest.raises(UserError, match="belongs"):
        config.from_plain(plain, trusted=trusted)

"""Many samples in tars: the pictures that single files would hold, shared out, and evaluated."""

import pytest
import torch

from taming import evaluate
from taming.cli.main import main
from taming.errors import UserError
from taming.evaluation.pictures import Samples
from taming.formats.load import find_checkpoint
from taming.inference import sample_shards
from taming.inference.sample import sample
from taming.training import run
from tests.conftest import experiment_of, first_stage_plain, second_stage_plain


@pytest.fixture(scope="module")
def prior(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("prior")
    run.train(experiment_of(first_stage_plain(max_steps=1, pictures_every=9)), root / "first")
    plain = second_stage_plain(root / "first", max_steps=1, pictures_every=9)
    run.train(experiment_of(plain), root / "second")
    return str(find_checkpoint(root / "second"))


@pytest.fixture(autouse=True)
def small_tars(monkeypatch):
    monkeypatch.setattr(sample_shards, "SAMPLES", 4)


def pictures(samples: Samples) -> torch.Tensor:
    return torch.stack([samples[index]["image"] for index in range(len(samples))])


@pytest.mark.parametrize("form", [pytest.param("shards", marks=pytest.mark.slow), "uint8"])
def test_tars_hold_the_pictures_that_files_would_hold(prior, tmp_path, form):
    sample(prior, tmp_path / "files", samples=10, seed=3, batch_size=4)
    sample(prior, tmp_path / "tars", samples=10, seed=3, batch_size=4, form=form)
    assert sorted(p.name for p in (tmp_path / "tars").glob("*.tar")) == [
        "00000.tar",
        "00001.tar",
        "00002.tar",
    ]
    files, tars = Samples(tmp_path / "files"), Samples(tmp_path / "tars")
    assert len(files) == len(tars) == 10
    order = {record.number: index for index, record in enumerate(files.records)}
    for index, record in enumerate(tars.records):
        other = order[record.number]
        assert (tars[index]["image"] - files[other]["image"]).abs().max() < 2.5 / 127
    assert tars.protocol() == files.protocol()


@pytest.mark.slow
def test_several_commands_share_the_tars_whatever_dies(prior, tmp_path):
    sample(prior, tmp_path / "one", samples=10, seed=3, form="shards")
    sample(prior, tmp_path / "many", samples=10, seed=3, form="shards", shard="2/5")
    (tmp_path / "many" / "00001.tar").unlink()
    sample(prior, tmp_path / "many", samples=10, seed=3, form="shards", shard="0/5")
    one, many = Samples(tmp_path / "one"), Samples(tmp_path / "many")
    assert [r.number for r in one.records] == [r.number for r in many.records]
    assert torch.equal(pictures(one), pictures(many))
    with pytest.raises(UserError, match="is made of something else .sampling"):
        sample(prior, tmp_path / "many", samples=10, seed=4, form="shards")


@pytest.mark.slow
def test_files_are_shared_out_without_overlap(prior, tmp_path):
    names = []
    for number in range(3):
        before = {path.name for path in tmp_path.glob("*.png")}
        sample(prior, tmp_path, samples=7, seed=1, shard=f"{number}/3")
        names.append({path.name for path in tmp_path.glob("*.png")} - before - {"sheet.png"})
    assert sum(map(len, names)) == 7 and len(set.union(*names)) == 7 and all(names)


def test_figures_of_tars_and_of_files_are_the_same_also_by_shares(prior, tmp_path):
    features = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh())
    sample(prior, tmp_path / "files", samples=9, seed=3)
    sample(prior, tmp_path / "tars", samples=9, seed=3, form="shards")
    data = tmp_path / "data"
    data.mkdir()
    for index, path in enumerate(sorted((tmp_path / "files").glob("*-*.png"))[:8]):
        (data / f"{index}.png").write_bytes(path.read_bytes())
    request = {"data": str(data), "features": features, "only": ["generation"]}
    files, tars = (
        evaluate(tmp_path / f"of-{name}.json", samples=str(tmp_path / name), **request)
        for name in ("files", "tars")
    )
    expected = {name: figure.value for name, figure in files.figures.items()}
    assert expected and {n: f.value for n, f in tars.figures.items()} == pytest.approx(expected)
    request |= {"samples": str(tmp_path / "tars")}
    for number in range(2):
        evaluate(tmp_path / f"part{number}.json", shard=f"{number}/2", **request)
        assert not (tmp_path / f"part{number}.json").exists()
    parts = [str(tmp_path / f"part{number}.json") for number in range(2)]
    merged = evaluate(tmp_path / "merged.json", merge=parts, **request)
    assert {n: f.value for n, f in merged.figures.items()} == pytest.approx(expected)
    with pytest.raises(UserError, match="holds rows of another protocol"):
        evaluate(tmp_path / "x.json", merge=parts, seed=5, **request)
    with pytest.raises(UserError, match="is no output of taming evaluate --shard"):
        evaluate(tmp_path / "x.json", merge=[str(tmp_path / "data")], **request)


def test_a_seed_has_to_be_the_same_for_all(prior, tmp_path, capsys):
    words = ["sample", prior, "-n", "9", "-o", str(tmp_path), "--format", "shards"]
    assert main([*words, "--shard", "3/3"]) == 2
    assert "give i/n" in capsys.readouterr().err

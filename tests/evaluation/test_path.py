"""From photographs to samples: codes perturbed, and words for what limits a model."""

import pytest
import torch

from taming import evaluate
from taming.errors import UserError
from taming.evaluation import path
from taming.evaluation.doctor import limits
from taming.evaluation.intervals import Estimate
from taming.evaluation.layout import Judge
from taming.evaluation.protocol import Figures
from taming.first_stage import VQVAE, VectorQuantizer
from taming.first_stage.perturbation import NEAREST, neighbours, perturbed


def figures_of(**values: float) -> Figures:
    """With intervals of a twentieth."""
    figures = Figures()
    for name, value in values.items():
        figures.add(name, Estimate(value, 0.95 * value, 1.05 * value), {})
    return figures


def tokenizer(num_codes: int = 300) -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(
        quantizer=VectorQuantizer(num_codes=num_codes, dim=3), width=8, residual_width=4, blocks=1
    ).eval()


def test_neighbours_are_the_nearest_other_codes_by_brute_force():
    model = tokenizer()
    table = neighbours(model)
    vectors = model.quantizer.embedding.weight.detach().double()
    distances = (vectors[:, None] - vectors).square().sum(dim=2)
    distances.fill_diagonal_(torch.inf)
    assert table.shape == (300, NEAREST)
    assert torch.equal(table, distances.argsort(dim=1)[:, :NEAREST])
    assert neighbours(tokenizer(5)).shape == (5, 4), "all others, where there are few"


def test_a_share_of_codes_is_replaced_by_neighbours_and_each_picture_has_its_own_seed():
    table = neighbours(tokenizer())
    codes = torch.randint(300, (64, 64), generator=torch.Generator().manual_seed(1))
    changed = perturbed(codes, table, 0.1, seed=3)
    moved = changed != codes
    assert float(moved.float().mean()) == pytest.approx(0.1, abs=0.02)
    assert (table[codes[moved]] == changed[moved][:, None]).any(dim=1).all()
    assert torch.equal(changed, perturbed(codes, table, 0.1, seed=3))
    assert not torch.equal(changed, perturbed(codes, table, 0.1, seed=4))
    assert torch.equal(codes, perturbed(codes, table, 0.0, seed=3))
    assert (perturbed(codes, table, 1.0, seed=3) != codes).all()


def test_what_limits_is_said_in_words():
    def first_word(**values: float) -> str:
        return path.verdict(figures_of(**values))[0]

    steps = {"fd_real": 100, "fd_reconstructed": 900, "fd_perturbed": 950, "fd": 1000}
    assert first_word(**steps).startswith("The tokenizer limits")
    steps |= {"fd_reconstructed": 200, "fd_perturbed": 220}
    assert first_word(**steps).startswith("The prior limits")
    steps |= {"fd_perturbed": 800}
    assert first_word(**steps).startswith("The decoder's robustness limits")
    steps |= {"fd_reconstructed": 101, "fd_perturbed": 102, "fd": 103}
    assert "as near as photographs" in first_word(**steps)
    # A first stage has no samples
    alone = {"fd_real": 100, "fd_reconstructed": 150}
    assert first_word(**alone, fd_perturbed=400).startswith("The decoder is not robust")
    assert first_word(**alone, fd_perturbed=160).startswith("The tokenizer limits")
    same = {"fd_real": 100, "fd_reconstructed": 101, "fd_perturbed": 102}
    assert first_word(**same).startswith("Reconstructions are as near as photographs")
    assert path.verdict(figures_of(psnr=24)) == []


def test_where_variety_is_lost_is_said_apart_from_the_distance():
    def words(real: float, again: float, drawn: float) -> str:
        values = {"recall_real": real, "recall_reconstructed": again, "recall": drawn}
        return path.verdict(figures_of(**values))[0]

    assert "by the prior" in words(0.64, 0.6, 0.17)
    assert "by the tokenizer" in words(0.64, 0.2, 0.17)
    assert "that of photographs" in words(0.64, 0.63, 0.62)


def test_tables_have_a_row_for_each_step_and_for_each_label():
    figures = figures_of(
        fd_real=1,
        fd_reconstructed=2,
        fd_perturbed=3,
        fd=4,
        layout_real_iou=0.5,
        layout_reconstructed_iou=0.4,
        layout_iou=0.3,
        layout_real_iou_sky=0.9,
        layout_iou_sky=0.8,
    )
    assert path.table(figures) == [
        ("", "fd", "layout_iou"),
        ("photographs", "1", "0.5"),
        ("reconstructions", "2", "0.4"),
        ("perturbed codes", "3", ""),
        ("samples", "4", "0.3"),
    ]
    assert path.label_table(figures) == [("", "photographs", "samples"), ("sky", "0.9", "0.8")]
    assert "| sky | 0.9 | 0.8 |" in path.text(figures)
    assert path.table(Figures()) == path.label_table(Figures()) == [] == path.verdict(Figures())
    assert path.text(Figures()) == ""


def test_agreement_of_a_label_is_intersection_over_union_and_absent_labels_have_none():
    confusion = torch.zeros(2, 3, 3, dtype=torch.int64)
    confusion[:, 0, 0], confusion[:, 0, 1], confusion[:, 1, 1] = 6, 2, 2
    judge = Judge(torch.nn.Identity(), 3, ("sky", "tree", "water"))
    estimates = judge.figures(confusion.numpy(), "layout", seed=0)
    assert estimates["layout_iou_sky"].value == pytest.approx(6 / 8)
    assert estimates["layout_iou_tree"].value == pytest.approx(2 / 4)
    assert "layout_iou_water" not in estimates


def test_doctor_repeats_the_verdict_and_survives_broken_figures(tmp_path):
    assert limits(tmp_path) == []
    values = {"fd_real": 100, "fd_reconstructed": 900, "fd_perturbed": 950, "fd": 1000}
    figures_of(**values).write(tmp_path / "figures.json")
    assert limits(tmp_path)[0].startswith("The tokenizer limits")
    (tmp_path / "figures.json").write_text("{")
    assert "holds no figures" in limits(tmp_path)[0]


def test_several_levels_and_single_codes_are_left_out_with_a_reason():
    with pytest.raises(UserError, match="not of 1"):
        neighbours(tokenizer(1))


def test_a_first_stage_has_reconstructions_and_perturbed_codes_whatever_the_batch(tmp_path):
    from taming.training import run
    from tests.conftest import experiment_of, first_stage_plain

    short = {"max_steps": 1, "validate_every": 1, "checkpoint_every": 1, "pictures_every": 1}
    checkpoint = str(run.train(experiment_of(first_stage_plain(**short)), tmp_path / "first"))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh())
    request = {"checkpoint": checkpoint, "features": network, "only": ("path",)}
    one = evaluate(tmp_path / "one.json", batch_size=1, **request)
    two = evaluate(tmp_path / "two.json", batch_size=3, **request)
    assert {"fd_reconstructed", "fd_perturbed", "psnr_perturbed"} <= set(one.figures)
    for name, figure in one.figures.items():
        assert two[name] == pytest.approx(figure.value, rel=1e-5), name
    assert "10% of the codes" in one.figures["psnr_perturbed"].note

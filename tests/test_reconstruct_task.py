"""`mimsuite reconstruct` on small models: its table, grids of masks, colours, and frames of a run."""

import csv

import numpy as np
import pytest
import torch

from mimsuite import api
from mimsuite.errors import InputError
from mimsuite.models import ViTConfig, ViTForMaskedImageModeling, ViTImageProcessor

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
DECODER = {f"decoder_{key}": value for key, value in SIZES.items()}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """A function that writes a masked image model as a Hugging Face folder, and says where."""
    made = {}

    def folder(channels=3, size=(32, 32), **options):
        key = str((channels, size, options))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("model")
            torch.manual_seed(0)
            config = ViTConfig(
                **SIZES, image_size=list(size), patch_size=8, encoder_stride=8, num_channels=channels, **options
            )
            ViTForMaskedImageModeling(config).save_pretrained(made[key])
            ViTImageProcessor(
                size={"height": size[0], "width": size[1]},
                image_mean=np.linspace(0.4, 0.6, channels).tolist(),
                image_std=np.linspace(0.2, 0.3, channels).tolist(),
            ).save_pretrained(made[key])
        return str(made[key])

    return folder


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("target", "mode"), [("pixels", "raw"), ("norm_pixels", "oracle_stats"), ("hog", "orientations")]
)
def test_the_table_has_the_figures_of_every_image(target, mode, make, tmp_path):
    figures = api.reconstruct(
        init=make(mim_target=target), out=str(tmp_path / "x.png"), csv=str(tmp_path / "deep/x.csv"), count=3, mode=mode
    )
    rows = table(tmp_path / "deep/x.csv")
    assert [list(row) for row in rows] == [["image", "ratio", "mask", "masked_loss", "psnr"]] * 3
    assert len({row["image"] for row in rows}) == 3
    assert {(row["ratio"], row["mask"]) for row in rows} == {("0.6", "random")}
    losses = [float(row["masked_loss"]) for row in rows]
    assert len(set(losses)) == 3
    assert np.mean(losses) == pytest.approx(figures["masked_loss"], rel=1e-5)  # as many are hidden in each
    if target == "hog":
        assert {row["psnr"] for row in rows} == {""}
        assert "psnr" not in figures
    else:
        assert np.mean([float(row["psnr"]) for row in rows]) == pytest.approx(figures["psnr"])


@pytest.mark.parametrize(
    ("values", "kind", "ratios"),
    [
        ({"mask": "none"}, "none", {0.0}),
        ({"mask": "block", "mask.ratio": [0.25, 0.5], "mask.unit": 8}, "block", {k / 16 for k in range(4, 9)}),
    ],
)
def test_without_one_ratio_the_table_has_the_share_that_is_hidden(values, kind, ratios, make, tmp_path):
    api.reconstruct(init=make(), out=str(tmp_path / "x.png"), csv=str(tmp_path / "x.csv"), count=4, **values)
    rows = table(tmp_path / "x.csv")
    assert {row["mask"] for row in rows} == {kind}
    assert {float(row["ratio"]) for row in rows} <= ratios
    assert all((row["psnr"] == "") == (kind == "none") for row in rows)


@pytest.mark.parametrize(
    ("path", "message"),
    [("x.txt", "does not end in .csv; use csv=.*x.csv"), ("there.csv", "exists; use another csv=, or overwrite=true")],
)
def test_a_table_that_cannot_be_written_is_refused_before_anything_is(path, message, make, tmp_path):
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(InputError, match=message):
        api.reconstruct(init=make(), out=str(tmp_path / "x.png"), csv=str(tmp_path / path))
    assert not (tmp_path / "x.png").exists()
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_a_mode_that_does_not_fit_is_refused_before_anything_is_written(make, tmp_path):
    with pytest.raises(InputError, match="mode=oracle_stats is for a model that predicts norm_pixels") as error:
        api.reconstruct(init=make(), out=str(tmp_path / "x.png"), mode="oracle_stats")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())

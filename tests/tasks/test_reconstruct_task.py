"""`mimsuite reconstruct` on small models: its table, grids of masks, colours, and frames of a run."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from mimsuite import api
from mimsuite.errors import InputError
from mimsuite.models import ViTConfig, ViTForMaskedImageModeling, ViTImageProcessor
from mimsuite.pictures.saving import save_image
from mimsuite.pictures.sheets import reconstruction_sheet

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


MAE = {"mask_mode": "drop", "mim_target": "norm_pixels", **DECODER}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"mim_target": "hog"}, MAE], ids=["simmim", "hog", "mae"])
def test_masks_and_ratios_make_a_sheet_of_their_pairs(options, make, tmp_path):
    values = {"init": make(**options), "count": 2, "mask.unit": 8}
    found = api.reconstruct(
        out=str(tmp_path / "x.png"),
        csv=str(tmp_path / "x.csv"),
        masks=["random", "inverse_block"],
        ratios=[0.25, 0.5, 0.9],
        **values,
    )
    pairs = [(kind, ratio) for kind in ("random", "inverse_block") for ratio in (0.25, 0.5, 0.9)]
    assert [(each["mask"], each["ratio"]) for each in found["settings"]] == pairs
    wide = (2 if options.get("mim_target") == "hog" else 1) * (192 + 6) - 6 + 6 * (18 + 2 * 192 + 6)
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.width == wide + 2 * 16
    rows = table(tmp_path / "x.csv")
    assert [(row["mask"], float(row["ratio"])) for row in rows] == [pair for pair in pairs for _ in range(2)]
    for (kind, ratio), each in zip(pairs, found["settings"], strict=True):
        alone = api.reconstruct(
            out=str(tmp_path / "one.png"), overwrite=True, **values, **{"mask": kind, "mask.ratio": ratio}
        )
        assert {key: each[key] for key in alone if key != "out"} == {k: v for k, v in alone.items() if k != "out"}


def test_masks_keep_their_own_defaults(make, tmp_path):
    kinds = ["random", "block", "inverse_block", "grid", "multi_block", "none"]
    found = api.reconstruct(init=make(), out=str(tmp_path / "x.png"), masks=kinds, count=1)
    assert [each["mask"] for each in found["settings"]] == kinds
    assert [each["ratio"] for each in found["settings"]] == [0.6, 0.4, 0.65, 0.75, None, None]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ratios": [0.5, 1.5]}, r"ratios: 1.5 is not in \(0, 1\]; use ratios=\[0.3,0.6,0.9\]"),
        ({"ratios": []}, "is empty or names a value twice"),
        ({"ratios": [0.5, 0.5]}, "is empty or names a value twice"),
        ({"ratios": "half"}, "ratios: half is not in"),
        (
            {"masks": ["random", "blok"]},
            "masks: blok is unknown; masks takes block, grid, inverse_block, multi_block, none, random",
        ),
        ({"masks": ["random"], "mask": "block"}, "mask=block and masks= contradict each other; remove one"),
        ({"masks": ["random"], "mask.ratio": 0.3}, "mask.ratio=0.3 and masks= contradict each other"),
        ({"ratios": [0.5], "mask.ratio": 0.3}, "mask.ratio=0.3 and ratios= contradict each other; remove one"),
        ({"ratios": [0.5], "mask": "none"}, "mask none has no ratio that ratios= could set"),
        ({"ratios": [0.5], "masks": ["none", "grid"]}, "mask none has no ratio that ratios= could set"),
        (
            {"ratios": [k / 8 for k in range(1, 8)], "masks": ["random", "grid"]},
            "make 14 settings, and a sheet holds 12; remove some",
        ),
    ],
)
def test_settings_that_make_no_sheet_are_refused_in_one_line(values, message, make, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        api.reconstruct(init=make(), out=str(tmp_path / "x.png"), **values)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_ratio_that_leaves_mae_nothing_to_see_is_refused_by_its_key(make, tmp_path):
    with pytest.raises(InputError, match=r"ratios=1 hides all 16 units .* use ratios=0.937 or less"):
        api.reconstruct(init=make(**MAE), out=str(tmp_path / "x.png"), ratios=[0.5, 1])


def test_images_of_other_channels_than_the_model_s_are_refused_by_its_number(make, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(
        InputError, match=r"image a.png has 3 channels, and the model takes 4; give images with as many"
    ):
        api.reconstruct(init=make(channels=4), images=str(tmp_path / "a.png"), out=str(tmp_path / "x.png"))


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        *(("jfif", "JPEG"), ("JPE", "JPEG"), ("webp", "WEBP"), ("avif", "AVIF"), ("jp2", "JPEG2000")),
        *(("j2k", "JPEG2000"), ("bmp", "BMP"), ("gif", "GIF"), ("ppm", "PPM"), ("tiff", "TIFF")),
    ],
)
def test_one_image_of_any_ending_is_drawn(ending, kind, make, tmp_path):
    pixels = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    file, written = tmp_path / f"b.{ending}", tmp_path / "b.csv"
    Image.fromarray(pixels).save(file, kind)
    api.reconstruct(init=make(), images=str(file), out=str(tmp_path / "b.png"), csv=str(written))
    (row,) = table(written)
    assert row["image"].startswith("b")


@pytest.fixture
def trained(tmp_path):
    """A folder as a run leaves it, with a grey picture per step; the last is wider."""
    folder = tmp_path / "run"
    (folder / "pictures").mkdir(parents=True)
    (folder / "config.yaml").write_text("out: run")
    for step, grey in ((0, 10), (999_999, 90), (50, 50), (1_000_000, 130)):
        size = (40, 30) if step < 1_000_000 else (50, 30)
        Image.new("RGB", size, (grey,) * 3).save(folder / "pictures" / f"step_{step:06d}.png")
    Image.new("RGB", (5, 5)).save(folder / "pictures" / "curves.png")
    return folder


def test_the_animation_shows_the_run_s_pictures_in_the_order_of_steps_and_holds_the_last(trained, tmp_path):
    found = api.reconstruct(init=str(trained), out=str(tmp_path / "x.gif"), gif=True)
    assert found == {"steps": [0, 50, 999_999, 1_000_000], "out": str(tmp_path / "x.gif")}
    seen = []
    with Image.open(tmp_path / "x.gif") as movie:
        assert (movie.n_frames, movie.size, movie.info["loop"]) == (4, (50, 30), 0)
        for number in range(4):
            movie.seek(number)
            frame = movie.convert("RGB")
            seen.append((frame.getpixel((20, 15))[0], frame.getpixel((45, 15))[0], movie.info["duration"]))
    assert seen == [(10, 255, 600), (50, 255, 600), (90, 255, 600), (130, 130, 3000)]


def test_an_animation_of_large_pictures_is_shrunk(trained, tmp_path):
    Image.new("RGB", (1000, 2400), (200,) * 3).save(trained / "pictures" / "step_2000000.png")
    api.reconstruct(init=str(trained), out=str(tmp_path / "x.gif"), gif=True)
    with Image.open(tmp_path / "x.gif") as movie:
        assert (movie.n_frames, movie.size) == (5, (500, 1200))


def test_count_limits_the_rows_of_an_animation(trained, tmp_path):
    """Row `i` of the sheet of step `s` has the grey `10 s + i`; the footer stays below the last."""
    for path in (trained / "pictures").glob("step_*"):
        path.unlink()
    mask = np.zeros((5, 4, 4), dtype=bool)
    sheets = {}
    for step in (1, 2):
        images = np.stack([np.full((64, 64, 3), 10 * step + row, dtype=np.uint8) for row in range(5)])
        sheet = reconstruction_sheet(images, images, mask, title=f"step {step}", footer="below", captions=["x"] * 5)
        save_image(sheet, trained / "pictures" / f"step_00000{step}.png")
        sheets[step] = np.asarray(sheet)
    heights = {}
    for count in (2, 4, 5, 9):
        out = tmp_path / f"{count}.gif"
        assert api.reconstruct(init=str(trained), out=str(out), gif=True, count=count)["steps"] == [1, 2]
        with Image.open(out) as movie:
            movie.seek(1)
            frame = np.asarray(movie.convert("RGB"))
        column = frame[:, 100, 0]
        assert [grey for grey in range(20, 25) if (column == grey).sum() > 150] == list(range(20, 20 + min(count, 5)))
        heights[count] = len(frame)
        assert np.array_equal(frame[-40:, 16:60] < 200, sheets[2][-40:, 16:60] < 200)
    assert heights[4] - heights[2] == 2 * (192 + 20 + 6)
    assert heights[5] - heights[4] == 192 + 20 + 6
    assert heights[5] == heights[9] == len(sheets[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": "weights"}, "is not a run folder, and gif=true shows the pictures that a run wrote"),
        ({"out": "x.png"}, "out=.*x.png does not end in .gif; use out=.*x.gif"),
        ({"gif": False}, "is a GIF, which gif=true makes of a run's pictures; add gif=true or use a .png"),
        ({"gif": "yes"}, "gif=yes is not true or false"),
        ({"count": 3}, "is of an earlier version: it does not say where its rows are; remove count="),
        ({"count": 0}, "count=0 is not a whole number of at least 1"),
        ({"seed": 3}, "seed= cannot change them; remove seed="),
        ({"mask.ratio": 0.3}, "mask.ratio= cannot change them; remove mask.ratio="),
    ],
)
def test_what_makes_no_animation_is_refused_in_one_line(change, message, trained, make, tmp_path):
    values = {"init": str(trained), "out": "x.gif", "gif": True} | change
    values["init"] = make() if values["init"] == "weights" else values["init"]
    with pytest.raises(InputError, match=message) as error:
        api.reconstruct(**values | {"out": str(tmp_path / values["out"])})
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_without_pictures_and_one_with_a_broken_one_make_no_animation(trained, tmp_path):
    (trained / "pictures" / "step_000050.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"step_000050.png cannot be read as a picture; remove it"):
        api.reconstruct(init=str(trained), out=str(tmp_path / "x.gif"), gif=True)
    for path in (trained / "pictures").glob("step_*"):
        path.unlink()
    with pytest.raises(InputError, match=r"holds no pictures/step_.* yet; use gif=false"):
        api.reconstruct(init=str(trained), out=str(tmp_path / "x.gif"), gif=True)
    assert not (tmp_path / "x.gif").exists()


@pytest.fixture(scope="module")
def cubes(tmp_path_factory):
    """Three images of 12 channels as TIFF files."""
    import tifffile

    folder = tmp_path_factory.mktemp("cubes")
    random = np.random.default_rng(0)
    for i in range(3):
        waves = np.sin(np.arange(32)[:, None, None] / 5 + random.random(12) * 6) + np.cos(np.arange(32)[:, None] / 7)
        tifffile.imwrite(folder / f"{i}.tif", (waves * 60 + 128).clip(0, 255).astype(np.uint8), planarconfig="contig")
    return folder


@pytest.mark.parametrize("shown", [None, [7, 1, 0], "pca"])
def test_any_three_channels_of_many_can_be_shown(shown, cubes, make, tmp_path):
    import tifffile

    api.reconstruct(init=make(12), images=str(cubes), out=str(tmp_path / "x.png"), channels_shown=shown, count=1)
    with Image.open(tmp_path / "x.png") as sheet:
        original = np.asarray(sheet)[16 + 30 + 22 :][: 32 * 6 : 6, 16:][:, : 32 * 6 : 6]
    cube = tifffile.imread(cubes / "0.tif")
    if shown == "pca":
        assert (original.reshape(-1, 3).std(0) > 20).all()
        correlation = np.corrcoef(original.reshape(-1, 3).T.astype(float))
        assert np.abs(correlation - np.eye(3)).max() < 0.6  # over visible pixels it is 0
    else:
        assert np.abs(original.astype(int) - cube[..., shown or [0, 1, 2]]).max() <= 1


def test_the_colours_of_a_comparison_come_from_what_is_visible_under_every_mask(cubes, make, tmp_path):
    values = {"init": make(12), "images": str(cubes), "count": 3, "channels_shown": "pca", "mask.unit": 8}
    api.reconstruct(out=str(tmp_path / "x.png"), ratios=[0.3, 0.6], **values)
    with pytest.raises(InputError, match="takes its colours from visible pixels, and the masks leave none; hide less"):
        api.reconstruct(out=str(tmp_path / "y.png"), ratios=[0.3, 1], **values)


@pytest.mark.parametrize(
    ("channels", "shown", "message"),
    [
        (3, [0, 1], r"channels_shown=\[0, 1\] is not three channel numbers from 0 to 2; use .*=\[0,1,2\], or pca"),
        (3, [0, 1, 3], "is not three channel numbers from 0 to 2"),
        (3, [0, -1, 2], "is not three channel numbers from 0 to 2"),
        (3, [0, 1.5, 2], "is not three channel numbers from 0 to 2"),
        (3, "rgb", "channels_shown=rgb is not three channel numbers"),
        (1, [0, 1, 2], r"from 0 to 0; use such as channels_shown=\[0,0,0\]$"),
        (2, "pca", "channels_shown=pca takes 3 channels or more, and the images have 2; remove channels_shown="),
    ],
)
def test_channels_that_are_not_there_are_refused_in_one_line(channels, shown, message, make, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        api.reconstruct(init=make(channels), out=str(tmp_path / "x.png"), channels_shown=shown)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())

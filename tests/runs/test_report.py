"""The report: right for every kind of run, escaped, one file, and it works in a browser."""

import base64
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from mimsuite.errors import InputError
from mimsuite.pictures.curves import run_key
from mimsuite.pictures.layout import Group, lay_out
from mimsuite.pictures.saving import save_image
from mimsuite.runs.reporting.charts import sheets_of
from mimsuite.runs.reporting.facts import read_facts
from mimsuite.runs.reporting.page import EXPLAINED, describe_report, write_report
from mimsuite.runs.reporting.verdicts import judge_run
from mimsuite.tasks import report

SCRIPT = "<script>alert(1)</script>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def make_run(folder, task="pretrain", *, status="done", rows=(), metrics=None, config=None, sheets=()):
    """A run folder as its files would be; no `summary.json` where the status is None."""
    (folder / "pictures").mkdir(parents=True)
    steps = max((row["step"] for row in rows), default=0)
    planned = {"steps": steps if status == "done" else 100} if task == "pretrain" else {}
    values = {"seed": 0, "data": None, "init": None, "model": {"_target_": "x.ViTConfig"}} | planned | (config or {})
    (folder / "config.yaml").write_text(json.dumps(values))
    (folder / "overrides.txt").write_text("seed=0\n")
    (folder / "environment.json").write_text(json.dumps({"device": "CPU, 1 thread", "libraries": {"torch": "2.13.0"}}))
    (folder / "train.log").write_text(f"2026-11-28 12:00:00,000 mimsuite 0.3.0 {task} -> x\n")
    if rows:
        columns = ["step", *sorted({key for row in rows for key in row} - {"step"})]
        cells = [columns, *([str(row.get(key, "")) for key in columns] for row in rows)]
        (folder / "metrics.csv").write_text("".join(",".join(line) + "\n" for line in cells))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if status is not None:
        last = {key: value for row in rows for key, value in row.items() if key != "step"} | (metrics or {})
        content = {"task": task, "status": status, "steps": steps, "metrics": last, "mimsuite": "0.3.0"}
        (folder / "summary.json").write_text(json.dumps(content))
    for step in sheets:
        Image.new("RGB", (300, 200), (step % 256, 90, 160)).save(folder / "pictures" / f"step_{step:06d}.png")
    return folder


def losses(*values, flat=0.7, every=10):
    return [{"step": every * n, "val/loss": value, "val/loss_mean_colour": flat} for n, value in enumerate(values)]


def said(folder, **keywords):
    return [f"{verdict.kind}: {verdict.text}" for verdict in judge_run(read_facts(folder, "run", **keywords))]


def page_of(tmp_path, *folders):
    write_report([read_facts(folder, folder.name) for folder in folders], tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


def test_the_step_is_named_at_which_the_loss_fell_below_one_colour_per_image(tmp_path):
    rows = losses(0.9, 0.75, 0.65, 0.6, 0.599, 0.599, 0.599, 0.599, 0.599, 0.599, 0.599)
    (line,) = said(make_run(tmp_path / "a", rows=rows))
    assert line == (
        "good: the masked loss fell below the mean-colour line at step 20: it is 0.599, and one colour per image has "
        "0.7"
    )


def test_a_loss_that_was_below_that_line_before_the_first_step_is_no_good_news(tmp_path):
    (line,) = said(make_run(tmp_path / "a", rows=losses(0.6, 0.599, 0.599)))
    assert line.startswith("note: the masked loss was below the mean-colour line before the first step, so this line")


def test_a_loss_against_a_teacher_that_moves_is_not_said_to_have_risen(tmp_path):
    rows = [{"step": n, "val/loss": 0.2 + n / 100, "val/loss_mean_target": 0.9} for n in range(9)]
    (line,) = said(make_run(tmp_path / "a", rows=rows))
    assert line.startswith("good: at the end val/loss is 0.28, below that of one prediction for all cells")


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        (
            "probe/top1",
            (0.4, 0.5, 0.45),
            "note: weights-best/ has the weights of step 1, where probe/top1 was best: 50",
        ),
        ("probe/top1", (0.4, 0.3, 0.2), "bad: weights-best/ .* no weights of the run are better by it than untrained "),
        ("quality/rankme", (5, 9, 8), r"note: .* was best: 9 \(5 before the first step\); it needs no labels, and may"),
        ("quality/alpha_req", (1.1, 1.5, 2), "bad: .* was best: 1.5 .* better by it than untrained ones; it needs no"),
    ],
)
def test_the_report_says_which_weights_the_online_probe_has_kept(metric, values, expected, tmp_path):
    folder = make_run(tmp_path / "a", rows=[{"step": n, metric: value} for n, value in enumerate(values)])
    summary = json.loads((folder / "summary.json").read_text())
    best = {"best_step": 1, "best_metric": metric, "best_value": values[1]}
    (folder / "summary.json").write_text(json.dumps(summary | best))
    assert re.match(expected, next(line for line in said(folder) if "weights-best" in line))


def test_a_run_without_validation_says_so(tmp_path):
    (line,) = said(make_run(tmp_path / "a", rows=[{"step": 10, "train/loss": 0.5}, {"step": 20, "train/loss": 0.4}]))
    assert line.startswith("note: nothing was validated")


def test_a_loss_from_before_the_first_step_is_no_verdict_on_the_training(tmp_path):
    rows = [*losses(0.79, flat=0.65), {"step": 500, "train/loss": 0.6}]
    _, line = said(make_run(tmp_path / "a", status=None, rows=rows))
    assert line == "note: val/loss was measured before the first step alone, so it says nothing of the training"


def test_a_loss_that_never_got_there_or_rose_again_is_bad_news(tmp_path):
    never, rose = said(make_run(tmp_path / "a", rows=losses(0.9, 0.8, 0.75, 0.72, 0.72, 0.73, 0.76)))
    assert never.startswith("bad: the masked loss never fell below the mean-colour line: it is 0.76, and one")
    for name, end in (("b", 0.8), ("c", float("nan"))):
        back, *_ = said(make_run(tmp_path / name, rows=losses(0.9, 0.6, 0.65, end)))
        assert back.startswith(
            "bad: the masked loss was below the mean-colour line until step 20, and is not at the en"
        )
    assert rose == "note: val/loss was lowest at step 30 (0.72) and has risen since"


@pytest.mark.parametrize(
    ("status", "skipped", "expected"),
    [
        (None, [], "bad: the run was killed, or ended with an error at step 30 of 100; resume=true goes on from the"),
        (
            "interrupted",
            [],
            "note: the run was stopped at step 30 of 100; resume=true goes on from the last",
        ),
        (None, [28, 29, 30], "bad: the run ended because its loss was not finite at step 30 of 100; use a smaller lr"),
    ],
)
def test_a_run_that_did_not_come_to_its_end_says_so_first(status, skipped, expected, tmp_path):
    folder = make_run(tmp_path / "a", status=status, rows=losses(0.9, 0.6, 0.5, 0.4))
    if skipped:
        (folder / "skipped_steps.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in skipped))
    found = said(folder)
    assert found[0].startswith(expected)
    assert any("3 steps changed nothing" in line for line in found) == bool(skipped)
    assert page_of(tmp_path, folder).count("<section") == 1


def test_what_several_processes_and_a_resumed_run_have_written_counts_once(tmp_path):
    folder = make_run(tmp_path / "a", rows=losses(0.9, 0.6, 0.5, 0.4))
    skipped = [{"step": step, "rank": rank, "ids": [rank]} for step in (3, 7, 3) for rank in range(4)]
    bad = [{"shard": shard, "key": key, "reason": "cut"} for shard, key in (("a", "1"), ("b", "1"), ("a", "1"))]
    for name, lines in (("skipped_steps.jsonl", skipped), ("bad_samples.jsonl", bad)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = said(folder)
    assert "bad: 2 steps changed nothing, as loss or gradient was not finite" in found
    assert "note: 2 images could not be decoded; bad_samples.jsonl names them" in found


def probe_run(folder, *, top1=0.6, random=0.5, interval=(0.55, 0.65), classes=("cat", "dog")):
    make_run(folder, "probe", metrics={"probe/top1": top1} | ({} if random is None else {"random/probe/top1": random}))
    linear = {"interval": list(interval), "per_class": [0.25, 1.0]}
    (folder / "probe.json").write_text(json.dumps({"classes": list(classes), "rows": [{"linear": linear}]}))
    head = "features,probe,layer,pool,held_out,metric\n"
    rows = [
        f"pretrained,linear,{layer},{pool},0.{layer}{n},top1"
        for layer in (1, 2)
        for n, pool in enumerate(["cls", "mean"])
    ]
    (folder / "probe.csv").write_text(head + "\n".join(rows) + "\nrandom initialisation,linear,2,cls,0.9,top1\n")
    return folder


@pytest.mark.parametrize(
    ("random", "expected"),
    [
        (0.5, "good: features better than random initialisation: probe/top1 is 60.0 %"),
        (0.58, "note: features not clearly better than random initialisation, which is in the interval: probe/top1 is"),
        (0.6, "bad: features no better than random initialisation: probe/top1 is 60.0 % (95 % interval 55.0 %"),
        (None, "note: probe/top1 is 60.0 % (95 % interval 55.0 % to 65.0 %); baselines=true says"),
    ],
)
def test_a_probe_is_compared_with_random_weights_by_its_interval(random, expected, tmp_path):
    assert said(probe_run(tmp_path / "a", random=random))[0].replace("\N{NO-BREAK SPACE}", " ").startswith(expected)


def test_a_probe_shows_each_layer_and_pooling_and_the_worst_class_first(tmp_path):
    (run,) = describe_report([read_facts(probe_run(tmp_path / "a"), "a")])["runs"]
    assert run["heat"]["layers"] == [1, 2]
    assert [(pool, [round(heat, 2) for _, heat in cells]) for pool, cells in run["heat"]["rows"]] == [
        ("cls", [0.0, 0.91]),
        ("mean", [0.09, 1.0]),
    ]
    assert [name for name, *_ in run["classes"]] == ["cat", "dog"]


def evaluation(folder, metrics, *, images=100, per_class="", **more):
    """The folder of an evaluation on the test split."""
    make_run(folder, "evaluate", metrics=metrics)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"split": "test", "images": images} | more))
    if per_class:
        (folder / "per_class.csv").write_text(per_class)
    return folder


@pytest.mark.parametrize(
    ("metrics", "per_class", "expected"),
    [
        ({"test/top1": 0.6}, "class,images,accuracy\ncat,40,0.9\ndog,60,0.4\n", "bad: test/top1 is 60.0 % of 100 ima"),
        ({"test/top1": 0.9}, "class,images,accuracy\ncat,40,0.9\ndog,60,0.9\n", "good: test/top1 is 90.0 % of 100 i"),
        ({"test/r2": -0.1, "test/mae": 2}, "", "bad: test/r2 is -0.1 of 100 images; always the mean would reach 0"),
        ({"test/map": 0.5}, "", "note: test/map is 50.0 % of 100 images"),
        (
            {"test/loss": 0.5, "test/loss_mean_colour": 0.4},
            "",
            "bad: test/loss is 0.5, not below that of one colour per",
        ),
    ],
)
def test_an_evaluation_is_compared_with_what_needs_no_model(metrics, per_class, expected, tmp_path):
    (line,) = said(evaluation(tmp_path / "a", metrics, per_class=per_class))
    assert line.replace("\N{NO-BREAK SPACE}", " ").startswith(expected)
    assert ("the most frequent class would reach 60.0" in line) == bool(per_class)


def test_an_evaluation_shows_its_classes_and_sizes(tmp_path):
    per_class = f"class,images,accuracy\ncat,40,0.9\n{SCRIPT},60,0.4\nrare,0,\n"
    sizes = [{"image_size": [64, 96], "top1": 0.5}, {"image_size": [96, 96], "top1": 0.6}]
    folder = evaluation(tmp_path / "a", {"test/top1": 0.5}, per_class=per_class, sizes=sizes, image_size=[64, 96])
    (run,) = describe_report([read_facts(folder, "a")])["runs"]
    assert [(name, images) for name, _, images in run["classes"]] == [(SCRIPT, "60"), ("cat", "40")]
    assert [(size, len(values)) for size, values in run["sizes"]["rows"]] == [("64 x 96", 1), ("96 x 96", 1)]
    assert dict(run["facts"])["images"] == "100, 64 x 96 pixels"
    assert page_of(tmp_path, folder).count("<script>") == 1


def test_the_weights_of_a_classifier_are_named_by_the_metric_that_chose_them(tmp_path):
    folder = make_run(tmp_path / "a", "finetune", rows=[{"step": 4, "val/top1": 0.25, "val/loss": 1.0}])
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"best_step": 4, "best_value": 0.25}))
    chosen, untested = said(folder)
    assert chosen == "note: the weights are those of step 4, where val/top1 was best: 25.0\N{NO-BREAK SPACE}%"
    assert untested.startswith("note: no test images: val/top1 is of the images by which the weights were chosen")


def test_a_run_has_one_colour_in_curves_and_tables_and_says_which_loss_it_has(tmp_path):
    probe = probe_run(tmp_path / "probe")
    pixels = {"objective": {"loss": "l1", "target": "pixels"}}
    folders = [make_run(tmp_path / f"r{n}", rows=losses(0.9, 0.6), config=pixels) for n in range(8)]
    other = {"objective": {"loss": "mse", "target": "norm_pixels"}}
    folders += [make_run(tmp_path / "other", rows=losses(0.9, 0.6), config=other), probe]
    found = describe_report([read_facts(folder, folder.name) for folder in [probe, *folders]])
    keys = [(run["colour"], run["sign"]) for run in found["runs"]]
    assert keys[0] == keys[-1] == ("", "")  # a probe has no curves
    assert len(set(keys[1:-1])) == 9
    assert keys[1] == run_key(0)
    assert found["table"]["columns"][:4] == ["run", "task", "status", "loss"]
    assert found["table"]["rows"][9][3] == "MSE of normalised pixels"
    assert [label for label, _ in found["curves"]] == ["loss: L1 of pixels", "loss: MSE of normalised pixels"]
    assert found["notes"] == [EXPLAINED["val/loss_mean_colour"]]


def test_collapse_is_bad_news(tmp_path):
    rows = [row | {"quality/cosine": 0.999} for row in losses(0.9, 0.6)]
    assert any(
        line.startswith("bad: all images have nearly the same features")
        for line in said(make_run(tmp_path / "a", rows=rows))
    )


@pytest.mark.parametrize(("teacher", "of_which"), [("ema", "the teacher's have a deviation of 0.020"), ("runs/a", "")])
def test_a_collapse_is_seen_in_a_teacher_that_follows_and_beside_one_that_stays_in_the_student(
    teacher, of_which, tmp_path
):
    values = {"val/loss_mean_target": 0.3, "quality/teacher_deviation": 0.02, "quality/cosine": 0.5}
    rows = [{"step": n, "val/loss": 0.2} | values for n in range(3)]
    config = {"objective": {"teacher": teacher}}
    target, *found = said(make_run(tmp_path / "a", rows=rows, config=config))
    assert ("the targets move" in target) == (teacher == "ema")
    assert [of_which in line for line in found] == [True] * (teacher == "ema")
    rows = [row | {"quality/teacher_deviation": 0.9, "quality/cosine": 0.999} for row in rows]
    _, *found = said(make_run(tmp_path / "b", rows=rows, config=config))
    assert ["mean cosine 0.999" in line for line in found] == [True] * (teacher != "ema")


def test_names_classes_keys_and_metrics_are_text_wherever_they_stand(tmp_path):
    hostile = make_run(
        *(tmp_path / "a&b<i>", "pretrain"),
        rows=[{"step": 1, f"mine/{SCRIPT}": 1.0, "val/loss": 0.5}, {"step": 2, "val/loss": 0.4}],
        config={SCRIPT: SCRIPT, "data": '"><img src=x onerror=alert(1)>', "seed": "a b"},
    )
    (hostile / "overrides.txt").write_text(f"data={SCRIPT}\n")
    text = page_of(tmp_path, hostile, probe_run(tmp_path / SCRIPT.replace("/", "_"), classes=(SCRIPT, "</script><b>")))
    assert text.count("<script>") == 1  # ours
    for part in ("<i>", "<b>", "<img src=x", "alert(1)</script>"):
        assert part not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_nothing_comes_from_elsewhere(tmp_path):
    text = page_of(tmp_path, make_run(tmp_path / "a", rows=losses(0.9, 0.6), sheets=(0, 10)))
    assert "Content-Security-Policy\" content=\"default-src 'none'" in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp", text)


def test_twenty_runs_with_many_sheets_stay_below_five_megabytes(tmp_path):
    noise = Image.effect_noise((65, 45), 90).resize((650, 450)).convert("RGB")
    folders = []
    for number in range(20):
        folders.append(make_run(tmp_path / f"r{number:02d}", rows=losses(0.9, 0.6, 0.5), config={"seed": number}))
        for step in (0, 10, 20):
            noise.save(folders[-1] / "pictures" / f"step_{step:06d}.png", compress_level=1)
    text = page_of(tmp_path, *folders)
    assert len(text) < 5_000_000
    assert text.count("<section") == 20
    folders[3:] = [probe_run(tmp_path / "probe")]  # of another task: its keys are no differences
    found = describe_report([read_facts(folder, folder.name) for folder in folders])
    assert found["differences"]["columns"] == ["seed"]  # a row for each run: there are more runs than keys
    assert found["differences"]["rows"][1] == ("r01", ["1"])
    few = describe_report([read_facts(folder, folder.name) for folder in folders[:1] * 2])
    assert few["differences"] is None
    assert found["table"]["columns"] == [
        *("run", "task", "status", "steps", "time", "probe/top1", "random/probe/top1"),
        *("val/loss", "val/loss_mean_colour"),
    ]


def test_of_many_sheets_the_first_and_the_last_stay(tmp_path):
    folder = make_run(tmp_path / "a", sheets=range(0, 600, 10))
    kept = [sheet.step for sheet in sheets_of(folder, 10_000_000)]
    assert len(kept) == 24
    assert (kept[0], kept[-1]) == (0, 590)
    (folder / "pictures" / "step_000000.png").write_bytes(b"cut")
    assert [sheet.step for sheet in sheets_of(folder, 1)] == []


def test_runs_without_sheets_leave_their_room_to_others_and_verdicts_stand_first(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8))
    folder = make_run(tmp_path / "a", rows=losses(0.9, 0.6))
    for step in (0, 10):
        noise.save(folder / "pictures" / f"step_{step:06d}.png", compress_level=1)
    others = [make_run(tmp_path / f"r{number}", rows=losses(0.9, 0.8)) for number in range(5)]
    found = describe_report([read_facts(one, one.name) for one in [folder, *others]])
    alone = describe_report([read_facts(folder, "a")])
    assert found["runs"][0]["sheets"] == alone["runs"][0]["sheets"] != []
    text = page_of(tmp_path, folder, *others)
    assert text.index("<strong>a</strong>: the masked loss fell below") < text.index("<h2>Curves")
    assert text.index("<strong>r4</strong>: the masked loss never fell") < text.index("<h2>Curves")


def test_where_room_is_scarce_sheets_lose_rows_and_stay(tmp_path):
    folder = make_run(tmp_path / "a")
    noise = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), np.uint8)
    for step in (0, 10):
        sheet = lay_out([Group("", [("image", noise)], ["row"] * 4)], f"step {step}", "footer")
        save_image(sheet, folder / "pictures" / f"step_{step:06d}.png")

    def heights(budget):
        pictures = [base64.b64decode(found.picture.partition(",")[2]) for found in sheets_of(folder, budget)]
        return [Image.open(io.BytesIO(picture)).height for picture in pictures]

    whole, few, none = heights(1_000_000), heights(30_000), heights(1_000)
    assert whole == [sheet.height] * 2
    assert few in ([sheet.height - 96 - 20 - 6] * 2, [sheet.height - 3 * (96 + 20 + 6)] * 2)
    assert none == []


def test_runs_below_a_folder_stand_in_the_order_of_their_numbers_and_by_what_sets_them_apart(tmp_path):
    for number in range(11):
        folder = make_run(tmp_path / "sweep" / str(number), rows=losses(0.9, 0.6))
        (folder / "overrides.txt").write_text(f"seed={number}\nout={folder}\n")
    out = tmp_path / "x.html"
    values = {"runs": str(tmp_path / "sweep"), "out": str(out), "overwrite": False}
    found = report.run(OmegaConf.create(values))
    assert list(found["runs"]) == [f"{number}: seed={number}" for number in range(11)]


def test_what_is_missing_or_damaged_is_named_and_the_rest_is_shown(tmp_path):
    folder = make_run(tmp_path / "a", rows=losses(0.9, 0.6))
    (folder / "environment.json").write_text("{")
    (folder / "metrics.csv").write_text("step,val/loss\n1,x\n")
    facts = read_facts(folder, "a")
    assert len(facts.problems) == 2
    assert "environment.json" in page_of(tmp_path, folder)
    (folder / "summary.json").write_text(json.dumps({"version": "other"}))
    with pytest.raises(InputError, match="written by another program"):
        read_facts(folder, "a")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("per_class.csv", "class,images,accuracy\ncat,40,0.9\ndog,4"),  # cut
        ("per_class.csv", "class,images,accuracy\ncat,40,x,y,z\n"),
        ("probe.json", '{"classes": [1], "rows": [{"linear": {"interval": ["a", null], "per_class": ["x"]}}]}'),
        ("probe.csv", "features,probe,layer\npretrained,linear,x\npretrained,linear\n"),
        ("data.json", '{"train": [{"samples": null}], "val": [3], "test": 7}'),
        ("metrics.csv", "step,val/loss,train/loss\n1,inf,1e38\n2,nan,-1e38\n3,-inf,\n"),
    ],
)
def test_values_that_make_no_sense_are_left_out(name, content, tmp_path):
    folder = probe_run(tmp_path / "a")
    (folder / name).write_text(content)
    assert page_of(tmp_path, folder).count("<section") == 1


def in_browser(page, *arguments):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *arguments]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_the_slider_works_in_a_browser_and_the_console_stays_empty(tmp_path):
    page_of(tmp_path, make_run(tmp_path / "a", rows=losses(0.9, 0.6, 0.5), sheets=(0, 10, 20)))
    page = tmp_path / "report.html"
    shown = r'class="shown"[^>]*?data-step="(\d+)"|data-step="(\d+)"[^>]*?class="shown"'
    assert re.findall(shown, in_browser(page, "--dump-dom"))[0][1] == "20"
    move = (
        "<script>const s = document.querySelector('input'); s.value = 1; s.dispatchEvent(new Event('input'));</script>"
    )
    page.write_text(page.read_text().replace("</body>", f"{move}</body>"))
    moved = in_browser(page, "--dump-dom")
    assert [max(pair) for pair in re.findall(shown, moved)] == ["10"]
    assert "<output>10</output>" in moved


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_on_a_narrow_screen_words_stay_whole_and_nothing_is_wider_than_the_page(tmp_path):
    folders = [make_run(tmp_path / f"interrupted{n}", rows=losses(0.9, 0.6), sheets=(0, 10)) for n in range(9)]
    page_of(tmp_path, *folders)
    page = tmp_path / "report.html"
    measure = (
        "<script>const cells = [...document.querySelectorAll('th, td:not(.number)')].map(cell => cell.offsetWidth);"
        "document.title = Math.min(...cells) + ' ' + (document.documentElement.scrollWidth - innerWidth);</script>"
    )
    page.write_text(page.read_text().replace("</body>", f"{measure}</body>"))
    narrowest, beyond = map(
        int, re.findall(r"<title>(-?\d+) (-?\d+)<", in_browser(page, "--window-size=500,800", "--dump-dom"))[0]
    )
    assert narrowest >= 40
    assert beyond <= 0

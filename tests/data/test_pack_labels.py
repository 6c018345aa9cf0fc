"""Labels from a CSV file, and what a dry run says."""

import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from counting import count_labels
from PIL import Image

from mimsuite.data.checks.inspect import raw_samples
from mimsuite.data.label_join import LabelFile, join_labels
from mimsuite.data.open import open_index
from mimsuite.data.packing.pack import describe_plan, pack
from mimsuite.data.packing.plan import Choice, plan_pack
from mimsuite.errors import InputError


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def scans(tmp_path):
    """Six images in two folders."""
    for i in range(6):
        path = tmp_path / "scans" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
    return tmp_path / "scans"


NAMES = [f"{'ab'[i % 2]}/{i}.jpg" for i in range(6)]


def csv(tmp_path, labels, header="file,label", names=NAMES, encoding="utf-8"):
    rows = [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
    path = tmp_path / "labels.csv"
    path.write_bytes("\n".join([header, *rows, ""]).encode(encoding))
    return str(path)


def packed(scans, tmp_path, labels, **options):
    """The label of each image by its number, and the index."""
    index = pack(scans, tmp_path / "out", labels=labels, **options)
    return {int(s.key[-1]): s.label for s in raw_samples(index, "train", 99)}, index


def refused(scans, tmp_path, labels, **options):
    with pytest.raises(InputError) as error:
        pack(scans, tmp_path / "out", labels=labels, **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    return str(error.value)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("column", ["file", "path", "filename", "image", "File"])
def test_names_become_classes_in_sorted_order(column, separator, scans, tmp_path):
    file = tmp_path / "l.csv"
    rows = [separator.join(("note", column, "class"))]
    rows += [separator.join(("x", name, "dog" if i < 4 else "cat")) for i, name in enumerate(NAMES)]
    file.write_text("\r\n".join(rows), encoding="utf-8-sig")
    labels, index = packed(scans, tmp_path, str(file))
    assert labels == {0: 1, 1: 1, 2: 1, 3: 1, 4: 0, 5: 0}
    assert index.classes == ("cat", "dog")
    assert (tmp_path / "out" / "classes.txt").read_text() == "cat\ndog\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "\n \nfile;label\n{};x\n{};y\n"), ("a.tsv", "file\tlabel, graded\n{}\tx\n{}\ty\n")],
    ids=str,
)
def test_the_separator_is_that_of_the_header_wherever_it_stands(name, text, scans, tmp_path):
    table = tmp_path / name
    table.write_text(text.format(*NAMES[:2]))
    labels, index = packed(scans, tmp_path, str(table), labels_column="label, graded" if "tsv" in name else None)
    assert (index.classes, labels[0], labels[1]) == (("x", "y"), 0, 1)


def test_whole_numbers_are_classes_themselves(scans, tmp_path):
    labels, index = packed(scans, tmp_path, csv(tmp_path, [3, 0, 1, 0, 3, 3]))
    assert labels == {0: 3, 1: 0, 2: 1, 3: 0, 4: 3, 5: 3}
    assert index.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize("mark", [";", "|"])
def test_several_names_are_a_list_of_classes(mark, scans, tmp_path):
    values = ["red", f"red{mark}blue", "blue", f"green {mark} red", "blue", f"blue{mark}blue"]
    labels, index = packed(scans, tmp_path, csv(tmp_path, values))
    assert index.classes == ("blue", "green", "red")
    assert labels == {0: (2,), 1: (0, 2), 2: (0,), 3: (1, 2), 4: (0,), 5: (0,)}
    assert count_labels(index, "train") == {0: 4, 1: 1, 2: 3}


def test_several_numbers_are_a_list_of_classes(scans, tmp_path):
    labels, index = packed(scans, tmp_path, csv(tmp_path, ["0", "2;1", "1", "1", "0", "0"]))
    assert labels[1] == (1, 2)
    assert index.classes == ("0", "1", "2")


def test_decimals_are_regression(scans, tmp_path):
    values = ["1", "2.5", "-3e-2", ".5", "0.1", "7."]
    labels, index = packed(scans, tmp_path, csv(tmp_path, values))
    assert labels == dict(enumerate(map(float, values)))
    assert all(isinstance(label, float) for label in labels.values())
    assert index.classes is None
    assert index.has_labels
    assert not (tmp_path / "out" / "classes.txt").exists()


def test_labels_reach_the_batch(scans, tmp_path):
    from mimsuite.data.datamodule import eval_loader

    def batch(values, out):
        index = pack(scans, tmp_path / out, labels=csv(tmp_path, values))
        (found,) = eval_loader(index, "train", image_size=(16, 16), batch=6, workers=0, labels=True)
        return found.labels

    assert sorted(batch(["1", "2.5", "3", "4", "5", "6"], "a").flatten().tolist()) == [1, 2.5, 3, 4, 5, 6]
    lists = batch(["a;b", "b", "c", "a", "a", "a"], "b")
    assert sorted(map(tuple, lists.tolist())) == sorted([(1, 1, 0), (0, 1, 0), (0, 0, 1), *[(1, 0, 0)] * 3])


def test_columns_of_other_names_are_named_by_keys(scans, tmp_path):
    labels = csv(tmp_path, range(6), header="where,grade")
    labels, _ = packed(scans, tmp_path, labels, labels_file="where", labels_column="grade")
    assert labels == {i: i for i in range(6)}


def test_paths_may_be_absolute_dotted_or_from_windows(scans, tmp_path):
    names = [str(scans / NAMES[0]), f"./{NAMES[1]}", NAMES[2].replace("/", "\\"), *NAMES[3:]]
    labels, _ = packed(scans, tmp_path, csv(tmp_path, range(6), names=names))
    assert labels == {i: i for i in range(6)}


A = ["a"] * 6
FAULTS = {
    "no file": (
        lambda t: csv(t, [*A, "a"], names=[*NAMES, "c/9.jpg"]),
        ["row 8 names 'c/9.jpg'", "not an image"],
    ),
    "twice": (
        lambda t: csv(t, [*A, "a"], names=[*NAMES, "./a/0.jpg"]),
        ["row 8 names 'a/0.jpg' again (first in row 2)", "a;b"],
    ),
    "mixed": (lambda t: csv(t, ["a", "b", "7", *A[:3]]), ["mixed kinds", "'7' (row 4)", "'a' (row 2)", "class_7"]),
    "mixed list": (lambda t: csv(t, ["a;b", "1", *A[:4]]), ["mixed kinds", "'1' (row 3)"]),
    "all empty": (lambda t: csv(t, [""] * 6), ["none of the images has a label"]),
    "none beside others": (lambda t: csv(t, ["a;none", *A[:5]]), ["row 2", "'a;none' has none beside others"]),
    "decimal commas": (
        lambda t: csv(t, ["1", '"2,5"', *"3456"]),
        ["row 3", "'2,5' looks like a number with a decimal comma; write 2.5"],
    ),
    "ambiguous": (
        lambda t: csv(t, [*A, "a"], names=[*NAMES[:5], "b/5", "5"]),
        ["row 8 names '5', which is not an image"],
    ),
    "empty part": (lambda t: csv(t, ["a;;b", *A[:5]]), ["row 2", "'a;;b' has an empty part"]),
    "negative": (lambda t: csv(t, [1, -1, 2, 3, 4, 5]), ["row 3", "'-1' is not a class", "labels_kind=regression"]),
    "huge": (lambda t: csv(t, [1, 10**9, 2, 3, 4, 5]), ["row 3", "'1000000000' is not a class"]),
    "infinite": (lambda t: csv(t, ["1e999", *"12345"]), ["row 2", "'1e999' is not finite"]),
    "not utf-8": (lambda t: csv(t, ["a", "ä", *A[:4]], encoding="latin-1"), ["row 3 is not UTF-8", "0xe4", "save"]),
    "no label column": (lambda t: csv(t, A, header="file,grade"), ["no column label or class", "file, grade"]),
    "no file column": (lambda t: csv(t, A, header="name,label"), ["no column file or path", "labels_file="]),
    "two columns": (
        lambda t: csv(t, [f"{NAMES[i]},a" for i in range(6)], header="file,path,label"),
        ["several possible columns (file, path)", "labels_file="],
    ),
    "short row": (lambda t: csv(t, ["a", "b,c", *A[:4]]), ["row 3 has 3 cells where the header has 2", "quote"]),
    "only a header": (lambda t: csv(t, [], names=[]), ["has no row below a header"]),
    "missing": (lambda t: str(t / "none.csv"), ["none.csv cannot be read (No such file"]),
    "bad quotes": (lambda t: csv(t, ['"a', *A[:5]]), ["unexpected end of data", "fix the quotes"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_csv_is_named_with_row_value_and_fix(fault, scans, tmp_path):
    make, words = FAULTS[fault]
    message = refused(scans, tmp_path, make(tmp_path))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda t: csv(t, A[:5], names=NAMES[:5]), ["no row for 1 of 6 images", "'b/5.jpg'", "add their rows"]),
        (lambda t: csv(t, ["a", " ", *A[:4]]), ["row 3 has an empty column 'label'", "fill it in"]),
    ],
)
def test_every_image_may_be_asked_to_have_a_label(make, words, scans, tmp_path):
    message = refused(scans, tmp_path, make(tmp_path), labels_missing="error")
    for word in words:
        assert word in message
    assert "labels_missing=maybe is unknown" in refused(scans, tmp_path, make(tmp_path), labels_missing="maybe")


@pytest.mark.parametrize("missing", ["unlabelled", "skip"])
def test_images_without_a_row_or_with_an_empty_label_have_no_label(missing, scans, tmp_path):
    labels, index = packed(scans, tmp_path, csv(tmp_path, ["x", "", "y", "x"], names=NAMES[:4]), labels_missing=missing)
    without = {} if missing == "skip" else {1: None, 4: None, 5: None}
    assert labels == {0: 0, 2: 1, 3: 0} | without
    assert index.has_labels
    assert index.classes == ("x", "y")
    done = "left out" if missing == "skip" else "packed without"
    line = f"3 of 6 images have a label in {tmp_path / 'labels.csv'}; 3 are {done} (labels_missing={missing})"
    assert line in index.reading


def test_a_group_is_needed_even_of_an_image_without_a_label(scans, tmp_path):
    table = csv(tmp_path, ["x,p", ",p", "y,q", "x,q", "y,q", "x,q"], header="file,label,patient")
    labels, _ = packed(scans, tmp_path, table, group_by="patient")
    assert labels == {0: 0, 1: None, 2: 1, 3: 0, 4: 1, 5: 0}
    table = csv(tmp_path, ["x,p", "y,"] * 3, header="file,label,patient")
    with pytest.raises(InputError, match="row 3 has an empty column 'patient'"):
        plan_pack(scans, Choice(labels=table, group_by="patient"))
    table = csv(tmp_path, ["x,p"] * 5, header="file,label,patient", names=NAMES[:5])
    with pytest.raises(InputError, match=r"no row for 1 of 6 images .* and group_by=patient needs one"):
        plan_pack(scans, Choice(labels=table, group_by="patient"))


def test_in_label_sets_none_is_no_finding_and_empty_is_unknown(scans, tmp_path):
    labels, index = packed(scans, tmp_path, csv(tmp_path, ["x;y", "none", "", "y", "None", "x"]))
    assert labels == {0: (0, 1), 1: (), 2: None, 3: (1,), 4: (), 5: (0,)}
    assert index.classes == ("x", "y")


def test_single_labels_may_be_meant_as_sets_and_whole_numbers_as_numbers(scans, tmp_path):
    table = csv(tmp_path, ["x", "none", "y", "y", "x", "x"])
    plan = plan_pack(scans, Choice(labels=table, labels_kind="multilabel"))
    assert {p.file: p.label for p in plan.pictures}["b/1.jpg"] == ()
    assert plan_pack(scans, Choice(labels=table)).classes == ["none", "x", "y"]
    ages = csv(tmp_path, [34, 51, 34, 60, 71, 51])
    plan = plan_pack(scans, Choice(labels=ages, labels_kind="regression"))
    assert {p.file: p.label for p in plan.pictures}["b/3.jpg"] == 60.0
    assert plan.classes == []


@pytest.mark.parametrize(
    ("values", "labels", "classes"),
    [
        (["0.0", "1.0", "1.", "0", "0.0", "1.0"], [0, 1, 1, 0, 0, 1], ["0", "1"]),  # pandas, where some are empty
        ([1, 3, 2, 3, 1, 1], [0, 2, 1, 2, 0, 0], ["1", "2", "3"]),  # counted from 1
        ([1, 3, 1, 3, 1, 1], [0, 2, 0, 2, 0, 0], ["1", "2", "3"]),  # 2 may be in another table
        ([0, 3, 0, 3, 0, 0], [0, 3, 0, 3, 0, 0], ["0", "1", "2", "3"]),
        ([2019, 2021, 2019, 2021, 2021, 2019], [0, 1, 0, 1, 1, 0], ["2019", "2021"]),
    ],
)
def test_whole_numbers_are_classes_however_they_are_written_and_counted(values, labels, classes, scans, tmp_path):
    plan = plan_pack(scans, Choice(labels=csv(tmp_path, values)))
    found = {p.file: p.label for p in plan.pictures}
    assert [found[name] for name in NAMES] == labels
    assert plan.classes == classes


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")], ids=str)
def test_letters_of_two_signs_and_of_one_are_the_same(forms, tmp_path):
    on_disk, in_table = (unicodedata.normalize(form, "größe/é.jpg") for form in forms)
    path = tmp_path / "src" / on_disk
    path.parent.mkdir(parents=True)
    path.write_bytes(picture(0))
    (path.parent / "b.jpg").write_bytes(picture(1))
    for names in ([in_table], [in_table.removesuffix(".jpg")], [str(tmp_path / "src" / in_table)]):
        plan = plan_pack(tmp_path / "src", Choice(labels=csv(tmp_path, ["x"], names=names)))
        assert {p.file: p.label for p in plan.pictures}[on_disk] == 0
    (path.parent / unicodedata.normalize("NFC" if forms[0] == "NFD" else "NFD", "é.jpg")).write_bytes(picture(2))
    table = csv(tmp_path, ["x"], names=[in_table])
    if on_disk == in_table:
        assert [p.file for p in plan_pack(tmp_path / "src", Choice(labels=table)).pictures if p.label == 0] == [on_disk]
    else:
        with pytest.raises(InputError, match="fits 2 images"):
            plan_pack(tmp_path / "src", Choice(labels=table))


def test_names_may_lack_their_ending_unless_two_images_have_the_name(scans, tmp_path):
    bare = [name[:-4] for name in NAMES]
    plan = plan_pack(scans, Choice(labels=csv(tmp_path, [0, 1, 0, 1, 0, 1], names=bare)))
    assert {p.file: p.label for p in plan.pictures} == {name: i % 2 for i, name in enumerate(NAMES)}
    (scans / "a" / "0.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"'a/0' fits 2 images \(a/0.jpg and a/0.png\); name each image by its whole"):
        plan_pack(scans, Choice(labels=csv(tmp_path, [0, 1, 0, 1, 0, 1], names=bare)))


def test_shards_are_packed_again_with_their_paths_and_with_labels_of_a_table(scans, tmp_path):
    pack(scans, tmp_path / "bare", labels="none")
    table = csv(tmp_path, ["x", "y", "x", "y"], names=NAMES[:4])
    index = pack(tmp_path / "bare", tmp_path / "again", labels=table)
    assert {s.key: s.label for s in raw_samples(index, "train", 9)} == {
        name[:-4].replace("/", "_"): i % 2 if i < 4 else None for i, name in enumerate(NAMES)
    }
    assert sorted(p.file for p in plan_pack(tmp_path / "again", Choice()).pictures) == sorted(NAMES)
    with pytest.raises(InputError, match=r"has no label for 2 of 6 images, the first is '[ab]/[45].jpg'"):
        pack(tmp_path / "bare", tmp_path / "strict", labels=table, labels_missing="error")


def test_folders_before_paths_are_found_wherever_the_rows_of_other_images_stand(scans, tmp_path):
    pack(scans, tmp_path / "bare", labels="none")
    names = [f"/old/scans/{name}" for name in ("gone/7.jpg", *NAMES[:4], "gone/8.jpg")]
    for rows in (names, names[::-1]):
        table = csv(tmp_path, ["y" if "gone" in name else "x" for name in rows], names=rows)
        found = join_labels(open_index(str(tmp_path / "bare")), LabelFile(Path(table), None, None, "classes"))
        assert (found.unmatched, len(found.data.given.labels)) == (2, 4)


def test_shards_keep_the_path_of_each_image_and_webdataset_reads_it(scans, tmp_path):
    from webdataset.tariterators import group_by_keys, tar_file_expander

    from mimsuite.data.members import read_files
    from mimsuite.data.shard_files import ShardFiles

    index = pack(scans, tmp_path / "out", labels="none")
    samples, files = index.records("train"), ShardFiles(index.fetching)
    assert sorted(read_files(files, samples)) == sorted(NAMES)
    with (tmp_path / "out" / "train-000000.tar").open("rb") as stream:
        foreign = list(group_by_keys(tar_file_expander([{"url": "x", "stream": stream}])))
    found = {(sample["__key__"], sample["file.txt"].decode()) for sample in foreign}
    assert found == {(name[:-4].replace("/", "_"), name) for name in NAMES}
    (tmp_path / "out" / "index.json").unlink()  # a scan finds the paths again
    scanned = open_index(str(tmp_path / "out"), tmp_path / "cache")
    assert read_files(files, scanned.records("train")) == read_files(files, samples)


def test_keys_that_need_a_csv_say_so(scans, tmp_path):
    assert "labels_column=x names a column, but labels=auto" in refused(scans, tmp_path, "auto", labels_column="x")
    assert "labels_file=x names a column" in refused(scans, tmp_path, "none", labels_file="x")
    assert "labels_kind=classes is for the labels of a table" in refused(scans, tmp_path, "none", labels_kind="classes")
    assert "labels_missing=skip is for the labels of a table" in refused(scans, tmp_path, "none", labels_missing="skip")
    assert "group_by=patient names a column" in refused(scans, tmp_path, "none", group_by="patient")
    assert "labels=flder is unknown" in refused(scans, tmp_path, "flder")
    table = csv(tmp_path, A)
    assert "no column 'grade'; it has the columns file, label" in refused(scans, tmp_path, table, labels_column="grade")
    assert "no column 'patient'" in refused(scans, tmp_path, table, group_by="patient")


def test_a_dry_run_foretells_counts_shards_and_bytes(scans, tmp_path):
    choice = Choice(labels=csv(tmp_path, ["x;y", "y", "y", "x", "x", "x"]), val_fraction=0.34)
    found = describe_plan(scans, choice, 2000)
    index = pack(scans, tmp_path / "out", **choice._asdict(), shard_size=2000)
    assert found.images == {split: index.num_samples(split) for split in index.splits} == {"train": 4, "val": 2}
    assert found.shards == {split: len(shards) for split, shards in index.splits.items()}
    assert found.shards["train"] > 1
    assert found.labels == {split: count_labels(index, split) for split in index.splits}
    assert found.bytes == sum(s.bytes for shards in index.splits.values() for s in shards)
    assert found.classes == list(index.classes)


def test_json_labels_are_as_the_format_says(scans, tmp_path):
    import tarfile

    pack(scans, tmp_path / "out", labels=csv(tmp_path, ["x;y", "y", "y", "x", "x", "x"]))
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as archive:
        found = [json.load(archive.extractfile(m)) for m in archive if m.name.endswith(".json")]
    assert sorted(found, key=str) == sorted([{"label": [0, 1]}, *[{"label": [1]}] * 2, *[{"label": [0]}] * 3], key=str)
    assert open_index(str(tmp_path / "out")).has_labels


def test_a_share_that_whole_images_cannot_give_is_reported(scans, tmp_path, caplog):
    caplog.set_level("INFO", "mimsuite")
    index = pack(scans, tmp_path / "out", labels=csv(tmp_path, ["a", "b", "c"] * 2), val_fraction=0.3)
    assert index.num_samples("val") == 3
    assert "val_fraction=0.3: val gets 50.0% of the images, since each class gives whole images" in caplog.text


def test_the_reading_tells_the_range_of_numbers(scans, tmp_path):
    plan = plan_pack(scans, Choice(labels=csv(tmp_path, ["0.5", "3", "", "-2", "1", "1"])))
    assert plan.reading[0] == "train  6 images, 1 without a label, numbers from -2 to 3"


@pytest.mark.parametrize("name", ["C:\\old\\A\\0.JPG", "other/0.jpg", "0.png"])
def test_a_row_that_names_no_image_is_told_the_one_it_may_mean(name, scans, tmp_path):
    said = refused(scans, tmp_path, csv(tmp_path, list("abcdef"), names=[name, *NAMES[1:]]))
    assert "is not an image below" in said
    assert "(did you mean 'a/0.jpg'?)" in said


WRONG_TEXTS = {
    "NaN": "label 'NaN' stands for a missing value; leave the cell empty",
    "N/A": "label 'N/A' stands for a missing value",
    "cat;NA": "label 'NA' stands for a missing value",
    "\"['cat', 'dog']\"": "looks like a list; write cat;dog",
    '"[]"': "looks like a list; write none",
    '"cat\ngrey"': "has a line break",
}


@pytest.mark.parametrize("text", WRONG_TEXTS)
def test_what_would_be_a_class_by_mistake_is_refused_with_its_row(text, scans, tmp_path):
    said = refused(scans, tmp_path, csv(tmp_path, ["cat", "dog", "cat", text, "cat", "dog"]))
    assert f"labels.csv row {6 if 'line break' in WRONG_TEXTS[text] else 5}: " in said
    assert WRONG_TEXTS[text] in said


def test_a_missing_value_among_numbers_is_named_as_such(scans, tmp_path):
    said = refused(scans, tmp_path, csv(tmp_path, ["0.5", "nan", "1.5", "2", "3", "4"]), labels_kind="regression")
    assert "row 3: label 'nan' stands for a missing value; leave the cell empty" in said


def test_numbers_with_zeros_before_them_stay_names(scans, tmp_path):
    labels, index = packed(scans, tmp_path, csv(tmp_path, ["007", "7", "010", "007", "7", "010"]))
    assert index.classes == ("007", "010", "7")
    assert labels == {0: 0, 1: 2, 2: 1, 3: 0, 4: 2, 5: 1}


def test_a_comma_of_thousands_is_not_taken_for_a_decimal_one(scans, tmp_path):
    assert "write 1.000 or 1000" in refused(scans, tmp_path, csv(tmp_path, ['"1,000"', *"23456"]))


def test_two_columns_of_one_name_cannot_be_chosen(scans, tmp_path):
    said = refused(scans, tmp_path, csv(tmp_path, ["cat,x"] * 6, header="file,label,label"))
    assert "give each another name" in said


def test_a_column_of_splits_is_named_because_it_is_not_read(scans, tmp_path, caplog):
    caplog.set_level("INFO", "mimsuite")
    table = csv(tmp_path, ["cat,train", "dog,val"] * 3, header="file,label,split")
    assert set(pack(scans, tmp_path / "out", labels=table).splits) == {"train"}
    assert "column 'split'" in caplog.text
    assert "is not read" in caplog.text

"""Groups of images, such as those of a patient, that no split may part."""

import pytest

from mimsuite.data.packing.plan import Choice, plan_pack
from mimsuite.errors import InputError


@pytest.fixture
def slides(tmp_path):
    """Two hundred names of forty patients, two classes, and their CSV; the images are never read."""
    src, rows = tmp_path / "slides", ["file,label,patient"]
    for i in range(200):
        patient, label = i % 40, "xy"[i % 40 % 3 == 0]
        path = src / label / f"p{patient}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        rows.append(f"{path.relative_to(src)},{label},p{patient}")
    (tmp_path / "slides.csv").write_text("\n".join(rows))
    return src


def patients(plan, split):
    return {p.path.parent.name for p in plan.pictures if p.split == split}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("by", ["patient", "folder", "folder:2"])
def test_a_group_is_never_in_both_splits(by, seed, slides, tmp_path):
    labels = str(tmp_path / "slides.csv") if by == "patient" else "folder"
    plan = plan_pack(slides, Choice(labels=labels, group_by=by, val_fraction=0.2, seed=seed))
    assert patients(plan, "train") | patients(plan, "val") == {f"p{i}" for i in range(40)}
    assert not patients(plan, "train") & patients(plan, "val")
    for label, total in ((0, 130), (1, 70)):
        share = sum(p.label == label for p in plan.pictures if p.split == "val") / total
        assert 0.15 < share < 0.25


def test_without_groups_patients_are_parted(slides):
    plan = plan_pack(slides, Choice(labels="folder", val_fraction=0.2))
    assert patients(plan, "train") & patients(plan, "val")
    assert [sum(p.label == i and p.split == "val" for p in plan.pictures) for i in (0, 1)] == [26, 14]


def test_the_seed_decides_which_groups_are_taken(slides):
    chosen = [
        patients(plan_pack(slides, Choice(group_by="folder", val_fraction=0.2, seed=seed)), "val") for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_groups_that_are_too_large_are_refused_with_what_was_reached(slides):
    with pytest.raises(InputError) as error:
        plan_pack(slides, Choice(labels="none", group_by="folder:1", val_fraction=0.1))
    message = str(error.value)
    assert "val_fraction=0.1 cannot be reached with group_by=folder:1: 2 groups, the largest with 65% of the" in message
    assert "0.0% was reached; choose val_fraction=0.35, or smaller groups" in message
    plan_pack(slides, Choice(labels="none", group_by="folder:1", val_fraction=0.35))


def test_what_groups_reach_is_said(slides, caplog):
    caplog.set_level("INFO", "mimsuite")
    plan_pack(slides, Choice(labels="none", group_by="folder:1", val_fraction=0.25))
    assert "1 of 2 groups go to val, 35.0% of the images" in caplog.text


def test_groups_without_a_share_change_nothing_and_that_is_said(slides):
    said = "group_by=folder:1 changes nothing, as all images are train"
    for share, wanted in ((0.0, True), (0.25, False)):
        lines = plan_pack(slides, Choice(labels="none", group_by="folder:1", val_fraction=share)).reading
        assert any(line.startswith(said) for line in lines) == wanted


def test_plates_that_are_read_as_classes_too_are_split_whole(tmp_path, caplog):
    for name in (f"plate{plate}/{i}.jpg" for plate in range(12) for i in range(4)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    plan = plan_pack(tmp_path, Choice(group_by="folder:1", val_fraction=0.1))
    assert len(plan.classes) == 12
    assert (len(patients(plan, "train")), len(patients(plan, "val"))) == (11, 1)
    assert "train lacks the classes that go to val" in caplog.text


def test_a_path_part_that_is_not_there_is_named(slides):
    with pytest.raises(InputError, match=r"group_by=folder:3, but x/p1/1.jpg lies in 2 folders below src"):
        plan_pack(slides, Choice(group_by="folder:3", val_fraction=0.2))
    with pytest.raises(InputError, match="parts are counted from 1"):
        plan_pack(slides, Choice(group_by="folder:0", val_fraction=0.2))


def test_a_group_that_the_folders_part_is_named(tmp_path):
    for split in ("train", "val"):
        (tmp_path / "src" / split / "p1").mkdir(parents=True)
        (tmp_path / "src" / split / "p1" / f"{split}.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"group_by=folder:2: group 'p1' lies in train and val"):
        plan_pack(tmp_path / "src", Choice(group_by="folder:2"))

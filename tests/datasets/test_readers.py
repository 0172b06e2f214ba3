"""Tiny data sets in each layout, as their owners lay them out."""

import json

import numpy as np
import pytest
from support.datasets import draw_image, mark_voxels, write_cases, write_nifti

from zoo.datasets import stroke_columns
from zoo.datasets.cases import Case, cases, detect, fitting, readers
from zoo.datasets.left_out import unused_files


def isles(root, num=2):
    for case in range(1, num + 1):
        folder = root / f"training_{case}"
        for name in ("ADC", "MTT", "rCBF", "rCBV", "Tmax", "TTP"):
            key = f"VSD.Brain.XX.O.MR_{name}.{1270 + case}"
            write_nifti(folder / key / f"{key}.nii", draw_image(case, (16, 24, 8)))
        raw = folder / f"VSD.Brain.XX.O.MR_4DPWI.{99 + case}" / f"VSD.Brain.XX.O.MR_4DPWI.{99 + case}.nii"
        write_nifti(raw, np.ones((16, 24, 8, 1, 3), np.int16))
        write_nifti(
            folder / f"VSD.Brain.XX.O.OT.{128 + case}" / f"VSD.Brain.XX.O.OT.{128 + case}.nii", mark_voxels((1, 2, 3))
        )
    (root / "ISLES2017_Training.csv").write_text(
        "Case,mRS,TICI,TSS,TTT\ntraining_1,2,2B,201,135\ntraining_2,1,,,90.5\n"
    )
    return root


def valdo(root):
    for subject, raters in (("sub-101", (1, 2)), ("sub-207", (3, 4))):
        for name in ("T1", "T2", "FLAIR"):
            write_nifti(root / subject / f"{subject}_space-T1_desc-masked_{name}.nii.gz", draw_image())
        for rater in raters:
            write_nifti(
                root / subject / f"{subject}_space-T1_desc-Rater{rater}_Lacunes.nii.gz", mark_voxels((rater, 2, 3))
            )
    return root


def decathlon(root, modalities=("FLAIR", "T1w")):
    for name in ("a_001", "a_002"):
        write_nifti(root / "imagesTr" / f"{name}.nii.gz", np.stack([draw_image(k) for k in range(len(modalities))], -1))
        write_nifti(root / "labelsTr" / f"{name}.nii.gz", mark_voxels((1, 2, 3)))
        write_nifti(root / "imagesTr" / f"._{name}.nii.gz", draw_image())
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("a_001", "a_002")]
    modality = {str(number): name for number, name in enumerate(modalities)}
    (root / "dataset.json").write_text(json.dumps({"modality": modality, "training": training, "test": []}))
    return root


def bids(root):
    (root / "dataset_description.json").parent.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "tiny", "BIDSVersion": "1.9.0"}')
    (root / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t71\tF\nsub-02\tn/a\tM\n")
    for subject, session in (("01", "a"), ("01", "b"), ("02", "a")):
        anat = root / f"sub-{subject}" / f"ses-{session}" / "anat"
        write_nifti(anat / f"sub-{subject}_ses-{session}_T1w.nii.gz", draw_image())
        write_nifti(anat / f"sub-{subject}_ses-{session}_acq-high_FLAIR.nii.gz", draw_image())
        out = root / "derivatives" / "manual" / f"sub-{subject}" / f"ses-{session}" / "anat"
        write_nifti(out / f"sub-{subject}_ses-{session}_desc-lesion_mask.nii.gz", mark_voxels((1, 2, 3)))
        write_nifti(out / f"sub-{subject}_ses-{session}_desc-brain_mask.nii.gz", mark_voxels((1, 2, 3)))
    return root


def test_each_layout_is_recognised_from_its_files(tmp_path):
    write_cases(tmp_path / "folder")
    layouts = {name: detect(maker(tmp_path / name)) for name, maker in LAYOUTS.items()}
    assert layouts == {name: name for name in LAYOUTS}
    assert detect(tmp_path / "folder") == "folder"
    assert readers() == ["bids", "decathlon", "folder", "isles2017", "isles2024", "nnunet", "valdo"]


def isles2024(root, stroke="sub-stroke", first="ses-01", second="ses-02"):
    for number in (1, 2):
        key = f"{stroke}000{number}"
        for name in ("tmax", "cbf", "cbv", "mtt"):
            folder = root / "derivatives" / key / first / "perfusion-maps"
            write_nifti(folder / f"{key}_{first}_space-ncct_{name}.nii.gz", draw_image())
        for name, what in (
            ("cta", draw_image()),
            ("cow-msk", mark_voxels((1, 2, 3))),
            ("lvo-msk", mark_voxels((1, 2, 3))),
        ):
            write_nifti(root / "derivatives" / key / first / f"{key}_{first}_space-ncct_{name}.nii.gz", what)
        write_nifti(root / "raw_data" / key / first / f"{key}_{first}_ncct.nii.gz", draw_image())
        write_nifti(root / "raw_data" / key / second / f"{key}_{second}_adc.nii.gz", draw_image(shape=(8, 8, 8)))
        mask = root / "derivatives" / key / second / f"{key}_ses-02_space-ncct_lesion-msk.nii.gz"
        write_nifti(mask, mark_voxels((1, 2, 3)))
        tables = root / "phenotype" / key
        for session, name, text in (
            (first, "demographic_baseline", "Age,NIHSS at admission,Onset to door\n71,14,1:10:00\n"),
            (second, "outcome", "Door to recanalization,TICI postinterventional\n2:05:00,2c\n"),
        ):
            path = tables / session / f"{key}_{session}_{name}.csv"
            path.parent.mkdir(parents=True)
            path.write_text(text)
    (root / "dataset_description.json").write_text('{"BIDSVersion": "1.9.0"}')
    return root


def nnunet(root, ending=".nii.gz", channels=("T1", "FLAIR")):
    for part, keys in (("Tr", ("a_001", "a_002")), ("Ts", ("b_001",))):
        for key in keys:
            for number in range(len(channels)):
                path = root / f"images{part}" / f"{key}_{number:04d}.nii.gz"
                write_nifti(path, draw_image(number)).rename(path.with_name(f"{key}_{number:04d}{ending}"))
            if part == "Tr":
                path = root / "labelsTr" / f"{key}.nii.gz"
                write_nifti(path, mark_voxels((1, 2, 3))).rename(path.with_name(f"{key}{ending}"))
    names = {str(number): name for number, name in enumerate(channels)}
    described = {"channel_names": names, "labels": {"background": 0, "tumour": 1}, "numTraining": 2}
    (root / "dataset.json").write_text(json.dumps({**described, "file_ending": ending}))
    return root


LAYOUTS = {
    "bids": bids,
    "decathlon": decathlon,
    "isles2017": isles,
    "isles2024": isles2024,
    "nnunet": nnunet,
    "valdo": valdo,
}


def test_nnunet_channels_by_number_and_name_and_labels_beside(tmp_path):
    root = nnunet(tmp_path / "Dataset001_Tiny")
    first, second = cases(root)
    assert (first.id, second.id, list(first.channels)) == ("a_001", "a_002", ["T1", "FLAIR"])
    assert [path.name for path in first.files] == ["a_001_0000.nii.gz", "a_001_0001.nii.gz", "a_001.nii.gz"]
    (case, _) = fitting(root, ("FLAIR", "T1"), patterns={"T1": "0"})
    assert [path.name for path in case.channels.values()] == ["a_001_0001.nii.gz", "a_001_0000.nii.gz"]
    assert cases(root, channels={"x": "flair"})[0].channels["x"].name == "a_001_0001.nii.gz"
    with pytest.raises(ValueError, match=r"no channel in dataset\.json 'FLAIRE'\. Did you mean 'FLAIR'"):
        cases(root, channels={"x": "FLAIRE"})
    assert [item.path.name for item in unused_files(root, cases(root))] == ["b_001_0000.nii.gz", "b_001_0001.nii.gz"]
    (root / "imagesTr" / "a_002_0001.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"Case a_002 has no channel 'FLAIR' \(_0001\)\. Add the file"):
        cases(root)


def test_nnunet_test_cases_by_request_or_by_their_folder(tmp_path):
    root = nnunet(tmp_path)
    assert [(case.id, case.labels) for case in cases(root, labels="labelsTs")] == [("b_001", None)]
    assert detect(root / "imagesTs") == "nnunet"
    assert cases(root / "imagesTs") == cases(root, labels="labelsTs")
    write_nifti(root / "labelsTs" / "b_001.nii.gz", mark_voxels((1, 2, 3)))
    assert cases(root / "imagesTs")[0].labels.name == "b_001.nii.gz"
    with pytest.raises(ValueError, match=r"no label folder of nnU-Net 'labels'"):
        cases(root, labels="labels")


def test_nnunet_first_version_other_suffixes_and_equal_names(tmp_path):
    root = nnunet(tmp_path / "mgz", ".mgz")
    assert cases(root)[0].labels.name == "a_001.mgz"
    root = nnunet(tmp_path / "png", ".png")
    with pytest.raises(ValueError, match=r"says that its files end in .\.png., and \.nii\.gz, \.nii, \.mgz, \.mgh are"):
        cases(root)
    root = nnunet(tmp_path / "first", channels=("MR", "MR"))
    described = json.loads((root / "dataset.json").read_text())
    modality = described.pop("channel_names")
    (root / "dataset.json").write_text(json.dumps({**described, "modality": modality, "training": []}))
    assert detect(root) == "nnunet" and list(cases(root)[0].channels) == ["MR_0", "MR_1"]


@pytest.mark.parametrize("names", [("sub-stroke", "ses-01", "ses-02"), ("sub-strokecase", "ses-0001", "ses-0002")])
def test_isles_2024_maps_first_infarct_later(tmp_path, names):
    root = isles2024(tmp_path, *names)
    first, second = cases(root)
    assert list(first.channels) == ["Tmax", "CBF", "CBV", "MTT"] and second.id == f"{names[0]}0002"
    assert first.channels["Tmax"].name == f"{names[0]}0001_{names[1]}_space-ncct_tmax.nii.gz"
    assert first.labels.name == f"{names[0]}0001_ses-02_space-ncct_lesion-msk.nii.gz"
    known = {"age": 71.0, "nihss": 14.0, "tici": "2c", "time_to_reperfusion_h": 3.25}
    assert {name: first.tabular[name] for name in known} == known and first.tabular["Age"] == 71
    assert cases(root, channels={"ct": "ncct"})[0].channels["ct"].name.endswith("_ncct.nii.gz")
    with pytest.raises(ValueError, match=r"no ISLES 2024 image 'TTP'\. Did you mean 'MTT'\?"):
        cases(root, channels={"TTP": "TTP"})
    next(root.glob("derivatives/*2/*/perfusion-maps/*_mtt*")).unlink()
    with pytest.raises(ValueError, match=rf"Case {names[0]}0002 has no channel 'MTT'\. Add the file"):
        cases(root)


def test_bids_phenotype_tables_are_joined(tmp_path):
    root = bids(tmp_path)
    (root / "phenotype").mkdir()
    (root / "phenotype" / "stroke.tsv").write_text("participant_id\tNIHSS\tmTICI\nsub-01\t12\t3\nsub-02\tn/a\t2A\n")
    first, *_, last = cases(root)
    assert first.tabular == {"nihss": 12.0, "tici": "3", "age": 71.0, "sex": "F", "NIHSS": 12.0, "mTICI": 3.0}
    assert last.tabular == {"tici": "2a", "sex": "M", "mTICI": "2A"}


@pytest.mark.parametrize(
    ("row", "known"),
    [
        ({"tici": "2b"}, {}),
        ({"TICI Scale Grade": "TICI 2b"}, {"tici": "2b"}),
        ({"TICI": 0.0}, {"tici": "0"}),
        ({"TICI": "unknown"}, {"tici": "unknown"}),
        ({"Time to treatment (min)": 90.0, "Age": 55.0}, {"time_to_reperfusion_h": 1.5, "age": 55.0}),
        ({"Door to recanalization": "0:10:30"}, {}),
        ({"Onset to door": 30.0, "Door to recanalization": "1 day 0:30"}, {"time_to_reperfusion_h": 25.0}),
    ],
)
def test_known_columns_by_hand(row, known):
    assert stroke_columns.with_known_names(row) == {**known, **row}


def test_isles_maps_lesion_and_table(tmp_path):
    first, second = cases(isles(tmp_path), channels={"tmax": "Tmax", "adc": "ADC"})
    assert list(first.channels) == ["tmax", "adc"]
    assert first.channels["tmax"].name == "VSD.Brain.XX.O.MR_Tmax.1271.nii"
    assert first.labels.name == "VSD.Brain.XX.O.OT.129.nii"
    tabular = {"mRS": 2.0, "TICI": "2B", "TSS": 201.0, "TTT": 135.0}
    assert first.tabular == {"tici": "2b", "time_to_reperfusion_h": 2.25, **tabular}
    assert second.tabular == {"time_to_reperfusion_h": 90.5 / 60, "mRS": 1.0, "TTT": 90.5}
    assert len(cases(tmp_path)[0].channels) == 6


def test_isles_names_the_missing_map(tmp_path):
    root = isles(tmp_path)
    next(root.glob("training_2/*Tmax*/*.nii")).unlink()
    with pytest.raises(ValueError, match=r"Case training_2 has no channel 'Tmax'\. Add the file"):
        cases(root)
    with pytest.raises(ValueError, match=r"no ISLES 2017 map 'TTPP'\. Did you mean 'TTP'\?"):
        cases(root, channels={"ttp": "TTPP"})


def test_isles_plain_names_of_relative_maps(tmp_path):
    case = cases(isles(tmp_path), channels={"CBF": "CBF", "CBV": "CBV"})[0]
    assert [path.name for path in case.channels.values()] == [
        "VSD.Brain.XX.O.MR_rCBF.1271.nii",
        "VSD.Brain.XX.O.MR_rCBV.1271.nii",
    ]


def test_valdo_takes_the_first_rater_or_the_one_named(tmp_path):
    root = valdo(tmp_path)
    first, second = cases(root)
    assert list(first.channels) == ["T1", "T2", "FLAIR"]
    assert [case.labels.name.split("desc-")[1] for case in (first, second)] == [
        "Rater1_Lacunes.nii.gz",
        "Rater3_Lacunes.nii.gz",
    ]
    with pytest.raises(ValueError, match=r"no mask of sub-207 by 'Rater2'.* Choose from: Rater3, Rater4"):
        cases(root, labels="Rater2")


def test_decathlon_channels_are_volumes_of_one_file(tmp_path):
    first, second = cases(decathlon(tmp_path), channels={"t1": "T1w"})
    assert first.volumes == {"t1": 1}
    assert (first.id, second.id) == ("a_001", "a_002")
    assert len(first.files) == 2
    with pytest.raises(ValueError, match=r"no modality 'T1'\. Did you mean 'T1w'\?"):
        cases(tmp_path, channels={"t1": "T1"})


def test_decathlon_with_one_modality_and_with_a_lost_file(tmp_path):
    root = decathlon(tmp_path, ("CT",))
    assert cases(root)[0].volumes == {}
    (root / "labelsTr" / "a_002.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"lists './labelsTr/a_002.nii.gz', and there is no such file"):
        cases(root)


def test_bids_sessions_derivatives_and_participants(tmp_path):
    listed = cases(bids(tmp_path))
    assert [case.id for case in listed] == ["sub-01_ses-a", "sub-01_ses-b", "sub-02_ses-a"]
    assert [case.subject for case in listed] == ["sub-01", "sub-01", "sub-02"]
    assert list(listed[0].channels) == ["FLAIR", "T1w"]
    assert listed[1].labels.name == "sub-01_ses-b_desc-lesion_mask.nii.gz"
    assert (listed[0].tabular, listed[2].tabular) == ({"age": 71.0, "sex": "F"}, {"sex": "M"})


def test_bids_entities_choose_and_several_files_are_named(tmp_path):
    root = bids(tmp_path)
    write_nifti(root / "sub-02/ses-a/anat/sub-02_ses-a_run-2_T1w.nii.gz", draw_image())
    assert cases(root, channels={"flair": "acq-high_FLAIR"})[0].channels["flair"].name.endswith("acq-high_FLAIR.nii.gz")
    with pytest.raises(ValueError, match=r"sub-02_ses-a has 2 files for channel 'T1w': .*run-2_T1w.*run-1_T1w"):
        cases(root, channels={"t1": "T1w"})
    with pytest.raises(ValueError, match=r"sub-01_ses-a has no channel 'T2w'"):
        cases(root, channels={"t2": "T2w"})
    brain = cases(root, channels={"flair": "FLAIR"}, labels="desc-brain_mask")
    assert brain[0].labels.name.endswith("desc-brain_mask.nii.gz")


def test_bids_parts_of_complex_images_are_no_channels(tmp_path):
    root = bids(tmp_path)
    anat = root / "sub-02/ses-a/anat"
    write_nifti(anat / "sub-02_ses-a_part-phase_T1w.nii.gz", draw_image())
    assert cases(root)[2].channels["T1w"].name == "sub-02_ses-a_T1w.nii.gz"
    assert [item.reason.split(",")[0] for item in unused_files(root, cases(root)) if "part" in item.path.name] == [
        "complex parts"
    ]
    (anat / "sub-02_ses-a_T1w.nii.gz").rename(anat / "sub-02_ses-a_part-imag_T1w.nii.gz")
    with pytest.raises(ValueError, match=r"sub-02_ses-a has no channel 'T1w'; left out 2 files: .*part-imag_T1w"):
        cases(root, channels={"t1": "T1w"})
    assert list(cases(root)[0].channels) == ["FLAIR"]


def test_bids_without_description_as_isles_2022_has_it(tmp_path):
    for number in (1, 2):
        key = f"sub-strokecase000{number}"
        write_nifti(tmp_path / key / "ses-0001" / "dwi" / f"{key}_ses-0001_adc.nii.gz", draw_image())
        write_nifti(tmp_path / "derivatives" / key / "ses-0001" / f"{key}_ses-0001_msk.nii.gz", mark_voxels((1, 2, 3)))
    listed = cases(tmp_path)
    assert listed[1].labels.name == "sub-strokecase0002_ses-0001_msk.nii.gz"
    assert list(listed[0].channels) == ["adc"]


def test_folder_by_pattern(tmp_path):
    for subject in ("p1", "p2"):
        for visit in ("v1", "v2"):
            write_nifti(tmp_path / subject / visit / f"{subject}_T1_x.nii.gz", draw_image())
            write_nifti(tmp_path / "masks" / f"{subject}-{visit}.nii", mark_voxels((1, 2, 3)))
    listed = cases(
        tmp_path, channels={"t1": "{subject}/{visit}/{subject}_T1*.nii.gz"}, labels="masks/{subject}-{visit}.nii"
    )
    assert [(case.id, case.subject) for case in listed][1:3] == [("p1_v2", "p1"), ("p2_v1", "p2")]
    assert listed[3].labels.name == "p2-v2.nii"
    with pytest.raises(ValueError, match=r"pattern 't1.nii' has no place"):
        cases(tmp_path, reader="folder", channels={"t1": "t1.nii"})
    with pytest.raises(ValueError, match=r"holds no case: channels \{'t1': 'x/\{id\}.nii'\}"):
        cases(tmp_path, channels={"t1": "x/{id}.nii"})


def test_folder_of_subfolders(tmp_path):
    write_cases(tmp_path)
    listed = cases(tmp_path)
    assert [sorted(case.channels) for case in listed] == [["flair", "t1"]] * 4
    assert listed[0].labels.name == "mask.nii"
    (tmp_path / "tabular.csv").write_text("case,TICI,time_to_reperfusion_h\ncase1,2B,4.5\ncase9,3,1\n")
    rows = [case.tabular for case in cases(tmp_path)]
    assert rows == [{}, {"tici": "2b", "TICI": "2B", "time_to_reperfusion_h": 4.5}, {}, {}]
    (tmp_path / "case2" / "t1.nii").unlink()
    with pytest.raises(ValueError, match=r"Case case2 has no channel 't1', which other cases have"):
        cases(tmp_path)


def test_a_single_channel_may_have_any_name(tmp_path):
    write_cases(tmp_path / "one", 2, channels=("T1w",))
    listed = fitting(tmp_path / "one", ("image",))
    assert [(list(case.channels), case.channels["image"].name) for case in listed] == [(["image"], "T1w.nii")] * 2
    write_cases(tmp_path / "two", 1)
    assert list(fitting(tmp_path / "two", ("image",))[0].channels) == ["flair", "t1"]
    decathlon(tmp_path / "four")
    (case, _) = fitting(tmp_path / "four", ("image",), patterns={"image": "T1w"})
    assert (list(case.channels), case.volumes) == (["image"], {"image": 1})


def test_a_folder_without_a_case_says_what_it_holds(tmp_path):
    (tmp_path / "IM1").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "sourcedata").mkdir()
    (tmp_path / "sourcedata" / "IM2").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(ValueError, match=r"looked for; left out 1 file: IM1 \(DICOM; dcm2niix .*\)\. Check"):
        cases(tmp_path)


def test_folders_at_any_depth_on_request(tmp_path):
    for site in ("north", "south"):
        write_cases(tmp_path / site, 2)
    with pytest.raises(ValueError, match=r"holds no case: one subfolder a case, .* \(--recursive takes folders at any"):
        cases(tmp_path)
    listed = cases(tmp_path, recursive=True)
    assert [case.id for case in listed] == ["north_case0", "north_case1", "south_case0", "south_case1"]
    assert listed[2].channels["t1"] == tmp_path / "south" / "case0" / "t1.nii" and listed[3].labels.name == "mask.nii"


def test_bad_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        cases(tmp_path / "none")
    with pytest.raises(ValueError, match=r"no reader 'bid'\. Did you mean 'bids'\?"):
        cases(tmp_path, reader="bid")
    with pytest.raises(ValueError, match="holds no case"):
        cases(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset\.json is not JSON"):
        cases(tmp_path)


def test_layouts_that_both_fit_are_named(tmp_path):
    bids(decathlon(tmp_path))
    with pytest.raises(ValueError, match=r"could be bids or decathlon\. Choose with reader='bids'"):
        cases(tmp_path)
    assert len(cases(tmp_path, reader="decathlon")) == 2


def test_files_of_a_case_come_once():
    case = Case("a", "a", {"x": "one.nii", "y": "one.nii"}, "two.nii")
    assert case.files == ["one.nii", "two.nii"]

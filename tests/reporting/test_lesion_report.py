"""The report's parts about lesions, on two cases of boxes that are counted by hand."""

import io

import nibabel
import numpy as np
import pytest
from matplotlib.image import imread

from zoo.evaluation import lesions
from zoo.evaluation.froc import detections
from zoo.reporting import lesion_report, report
from zoo.reporting.lesion_report import LesionCase
from zoo.reporting.thumbnails import PIXELS, Thumbnails
from zoo.workflows import evaluate_lesions

SHAPE, AFFINE = (40, 48, 56), np.diag([1.0, 1.0, 1.0, 1.0])
NAMES = {1: "thalamus", 2: "white_matter"}


def masks(number):
    """Case 0: one of two lesions found (a voxel too wide), one false; case 1: one lesion missed."""
    truth, drawn = np.zeros((2, *SHAPE), bool)
    truth[8:12, 8:12, 8:12] = True
    if number == 0:
        truth[30:36, 30:36, 30:36] = True
        drawn[30:37, 30:36, 30:36] = True
        drawn[10:13, 30:33, 40:43] = True
    return truth, drawn


def case(number):
    truth, drawn = masks(number)
    regions = np.ones(SHAPE, int)
    regions[20:] = 2
    matching = lesions.match_lesions(drawn, truth, (1, 1, 1), regions=regions)
    scored = detections(np.where(drawn, 0.9, np.where(truth, 0.3, 0)), truth, (1, 1, 1))
    return LesionCase(f"case{number}", "lacune", matching, AFFINE, scored, NAMES)


CASES = [case(0), case(1)]


def test_lesions_of_all_cases_count_alike():
    row = lesion_report.summary(CASES)
    assert (row["images"], row["lesions"], row["found"], row["false_positives"]) == (2, 3, 1, 1)
    assert row["sensitivity"] == pytest.approx(1 / 3) and row["precision"] == 0.5 and row["fp_per_image"] == 0.5
    assert row["dice_of_hits"] == pytest.approx(2 * 216 / (216 + 252))
    assert row["panoptic_quality"] == pytest.approx(216 / 252 * 2 / (3 + 2))


def test_by_size_and_by_region_by_hand():
    size = {row["diameter, mm"]: row for row in lesion_report.by_size(CASES)}
    assert (size["3 to 5"]["lesions"], size["3 to 5"]["found"]) == (2, 0)
    assert size["5 to 8"]["sensitivity"] == 1.0
    region = {row["region"]: row for row in lesion_report.by_region(CASES)}
    assert (region["thalamus"]["lesions"], region["thalamus"]["found"], region["thalamus"]["false"]) == (2, 0, 1)
    assert region["white matter"]["sensitivity"] == 1.0


def test_every_lesion_has_a_row():
    rows = lesion_report.rows(CASES)
    assert [row["outcome"] for row in rows] == ["found", "missed", "false", "missed"]
    assert [rows[2][name] for name in ("x_mm", "y_mm", "z_mm")] == [11, 31, 41]
    assert rows[2]["volume_mm3"] == pytest.approx(27) and rows[2]["region"] == "thalamus"


def test_a_thumbnail_has_the_lesion_in_its_middle_and_both_outlines():
    truth, drawn = masks(0)
    volume = np.random.default_rng(0).uniform(1, 2, SHAPE).astype(np.float32)
    made = Thumbnails([nibabel.Nifti1Image(volume, AFFINE)] * 2, drawn, truth)
    picture = imread(io.BytesIO(made.png([32.5, 32.5, 32.5])))[..., :3]
    assert picture.shape[0] < picture.shape[1] and picture.shape[0] > 2 * PIXELS
    coloured = picture.max(-1) - picture.min(-1) > 0.3
    rows, columns = np.nonzero(coloured[3 : 3 + PIXELS, 3 : 3 + PIXELS])
    assert abs(rows.mean() - PIXELS / 2) < 3 and abs(columns.mean() - PIXELS / 2) < 3
    assert not (imread(io.BytesIO(made.png([5, 40, 5])))[..., :3][3:30, 3:30] > 0.5).all()


def test_outlines_leave_what_they_surround_to_be_seen():
    truth = masks(0)[0]
    made = Thumbnails([nibabel.Nifti1Image(np.ones(SHAPE, np.float32), AFFINE)], np.zeros_like(truth), truth)
    tile = imread(io.BytesIO(made.png([32.5, 32.5, 32.5])))[3 : 3 + PIXELS, 3 : 3 + PIXELS, :3]
    coloured = tile.max(-1) - tile.min(-1) > 0.3
    assert coloured.any() and not coloured[PIXELS // 2 - 2 : PIXELS // 2 + 2, PIXELS // 2 - 2 : PIXELS // 2 + 2].any()


def test_pictures_of_a_case_cut_its_largest_lesion():
    two = np.zeros(SHAPE, np.uint8)
    two[2:4, 2:4, 2:4], two[20:25, 10:13, 5:8] = 1, 1
    first, second = (nibabel.Nifti1Image(each, AFFINE) for each in (np.zeros_like(two), two))
    assert evaluate_lesions.find_largest_mm([first, second]) == pytest.approx((AFFINE @ [22, 11, 6, 1])[:3])
    assert evaluate_lesions.find_largest_mm([first]) is None


def test_the_page_shows_missed_and_false_lesions(tmp_path):
    def draw(lesion_case, lesion):
        truth, drawn = masks(int(lesion_case.case[-1]))
        volume = np.random.default_rng(0).uniform(1, 2, SHAPE).astype(np.float32)
        return Thumbnails([nibabel.Nifti1Image(volume, AFFINE)], drawn, truth).png(lesion_case.centre_mm(lesion))

    parts = lesion_report.sections(CASES, draw)
    titles = {part.title: part for part in parts}
    assert len(titles["lacune: 2 missed"].thumbnails) == 2 and len(titles["lacune: 1 false"].thumbnails) == 1
    assert {"lacune: FROC", "lacune: by diameter", "lacune: by region"} <= set(titles)
    page = report.write_report(tmp_path / "r.html", title="x", lead="y", facts={}, sections=parts).read_text()
    assert page.count('loading="lazy"') == 3 and "at (10, 10, 10) mm, thalamus" in page

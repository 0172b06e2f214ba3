"""The page: self-contained, honest about what is missing, working in a real browser."""

import base64
import dataclasses
import math
import pathlib
import re
import shutil
import subprocess

import pytest

from zoo.reporting import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
]  # fmt: skip


@pytest.fixture
def page(tmp_path):
    table = [
        {"case": "sub-01", "dice": 0.91, "hd95_mm": 2.0, "status": "ok"},
        {"case": "sub-02", "dice": 0.35, "hd95_mm": math.nan, "status": "missed <b>"},
        {"case": "sub-03", "dice": 0.62, "hd95_mm": 11.5, "status": "ok"},
    ]
    pictures = [
        report.draw_distributions({"caudate": [0.8, 0.9, 0.7], "all": [0.5, math.nan]}, label="Dice", caption="Dice"),
        report.draw_calibration([0.6, 0.9], [0.5, 0.9], [100, 900]),
    ]
    sections = [
        report.Section("Cases", table=table),
        report.Section("Pictures", figures=pictures),
        report.Section("Empty"),
    ]
    return report.write_report(
        tmp_path / "report.html", title="A report", lead="Three cases.", facts={"cases": 3}, sections=sections
    )


def test_page_needs_nothing_from_outside(page):
    text = page.read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:)", text) and "@import" not in text
    assert "<h2>Empty</h2>" not in text
    assert "missed &lt;b&gt;" in text
    assert [f.name for f in page.parent.iterdir()] == ["report.html"]


def test_names_are_text_wherever_they_stand(tmp_path):
    name = "\"><script>alert('x')</script>"
    picture = report.draw_calibration([0.6], [0.5], [100])
    picture = dataclasses.replace(picture, caption=name)
    sections = [
        report.Section(name, table=[{name: name, "dice": 0.5}], note=name, figures=[picture], thumbnails=[picture])
    ]
    path = report.write_report(tmp_path / "report.html", title=name, lead=name, facts={name: name}, sections=sections)
    text = path.read_text()
    assert "alert(&#39;x&#39;)" in text and "<script>alert" not in text and '"><script' not in text
    assert text.count("&lt;script&gt;alert") >= 10


def test_missing_numbers_are_dashes_and_never_zero():
    assert report.cell(math.nan) == {"value": "", "shown": "–", "text": False}
    assert report.cell(0.91234)["shown"] == "0.912"
    assert report.cell(1234.5)["shown"] in ("1234", "1235")
    assert report.cell("ok")["text"] and not report.cell(7)["text"]


def test_calibration_error_by_hand():
    picture = report.draw_calibration([0.6, 0.9], [0.5, 0.9], [100, 900])
    assert "error 0.010" in picture.caption and "1,000 voxels" in picture.caption
    assert base64.b64decode(picture.data).startswith(b"\x89PNG")


def browse(page, tmp_path, script):
    """Loads the page with a probe appended; returns what the probe wrote into the document."""
    probe = pathlib.Path(page).read_text().replace("</body>", f"<pre id='probe'></pre><script>{script}</script></body>")
    copy = tmp_path / "probe.html"
    copy.write_text(probe)
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=3000",
        "--dump-dom",
        copy.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    return re.search(r"<pre id=\"probe\">(.*?)</pre>", done.stdout, re.S).group(1), done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_table_sorts_and_pictures_decode_in_a_browser(page, tmp_path):
    script = """
    const out = [], log = e => out.push("error " + e); window.onerror = log;
    const first = () => [...document.querySelectorAll("tbody tr")].map(r => r.cells[0].textContent).join(" ");
    const heads = document.querySelectorAll("th button");
    heads[1].click(); out.push(first()); heads[1].click(); out.push(first());
    heads[2].click(); out.push(first()); heads[2].click(); out.push(first());
    window.addEventListener("load", () => {
      out.push([...document.images].every(i => i.complete && i.naturalWidth > 100) ? "images" : "broken");
      document.getElementById("probe").textContent = out.join("|");
    });"""
    page_state, errors = browse(page, tmp_path, script)
    assert page_state.split("|") == [
        "sub-02 sub-03 sub-01", "sub-01 sub-03 sub-02",
        "sub-01 sub-03 sub-02", "sub-03 sub-01 sub-02", "images",
    ]  # fmt: skip
    assert "CONSOLE" not in errors

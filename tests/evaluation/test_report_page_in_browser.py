"""The page of an evaluation in a real browser, on a phone's width and on a screen's."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from mrl.evaluation.report_page import report_page
from tests.evaluation.sample_report import full_report, sample_curves

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTHS = (360, 390, 768, 1200)

# A window cannot be as narrow as a phone, a frame in it can. The frame's document is measured from outside.
WRAPPER = """<!DOCTYPE html><meta charset="utf-8">
%s
<pre id="found"></pre>
<script>
function measured(frame) {
  const page = frame.contentDocument, root = page.documentElement;
  const boxes = [...page.querySelectorAll("svg[role=img]")].map(svg => ({
    label: svg.getAttribute("aria-label"),
    outer: svg.getBoundingClientRect().toJSON(),
    texts: [...svg.querySelectorAll("text")].map(
      text => ({words: text.textContent, box: text.getBoundingClientRect().toJSON()})),
  }));
  const frames = [...page.querySelectorAll(".scroll")].map(
    found => ({right: found.getBoundingClientRect().right, first: found.getAttribute("aria-label")}));
  return {
    asked: frame.clientWidth, wide: root.scrollWidth, high: root.scrollHeight, boxes, frames,
    loaded: frame.contentWindow.performance.getEntriesByType("resource").length,
    letters: parseFloat(frame.contentWindow.getComputedStyle(page.body).fontSize),
  };
}
window.addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(measured);
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>"""


def browse(folder: Path, page: Path, *options: str) -> str:
    """What the browser writes to standard output."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser is installed (looked for {', '.join(BROWSERS)})")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--user-data-dir={folder}/profile",
    ]
    command = [browser, *flags, *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    (folder / "report.html").write_text(report_page(full_report(), sample_curves()), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def views(folder: Path) -> dict[int, Any]:
    """What the page looks like, by the width of the screen."""
    text = html.escape((folder / "report.html").read_text(encoding="utf-8"))
    frames = "\n".join(
        f'<iframe srcdoc="{text}" style="border:0; width:{width}px; height:900px"></iframe>'
        for width in WIDTHS
    )
    wrapper = folder / "wrapper.html"
    wrapper.write_text(WRAPPER.replace("%s", frames), encoding="utf-8")
    dump = browse(folder, wrapper, "--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom")
    found = re.search(r'<pre id="found">(.+?)</pre>', dump)
    assert found, "the page was not measured"
    return dict(zip(WIDTHS, json.loads(html.unescape(found.group(1))), strict=True))


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(views: dict[int, Any], width: int) -> None:
    view = views[width]
    assert view["asked"] == width
    assert view["wide"] <= width
    assert view["high"] > 2000
    for box in view["boxes"]:
        assert box["outer"]["left"] >= 0
        assert box["outer"]["right"] <= width
    assert all(frame["right"] <= width for frame in view["frames"])
    assert len(view["frames"]) == 14


@pytest.mark.parametrize("width", WIDTHS)
def test_the_words_in_plots_are_legible_and_apart(views: dict[int, Any], width: int) -> None:
    view = views[width]
    assert len(view["boxes"]) == 12
    for drawing in view["boxes"]:
        outer, texts = drawing["outer"], drawing["texts"]
        assert len(texts) > 8
        for text in texts:
            box = text["box"]
            assert box["height"] >= 10, text  # the height of a line: letters are a little lower
            assert outer["left"] - 1 <= box["left"], text
            assert box["right"] <= outer["right"] + 1, text
            assert outer["top"] - 1 <= box["top"], text
            assert box["bottom"] <= outer["bottom"] + 1, text
        pairs = [(one, other) for place, one in enumerate(texts) for other in texts[:place]]
        meeting = [
            (one["words"], other["words"]) for one, other in pairs if overlap(one["box"], other["box"])
        ]
        assert not meeting, drawing["label"]


def overlap(one: dict[str, float], other: dict[str, float], slack: float = 2.0) -> bool:
    """Whether two boxes share more than a rim: a line's height has air above and below its letters."""
    return (
        min(one["right"], other["right"]) - max(one["left"], other["left"]) > slack
        and min(one["bottom"], other["bottom"]) - max(one["top"], other["top"]) > 2 * slack
    )


def test_a_narrow_screen_has_one_column_of_plots_and_a_wide_one_two(views: dict[int, Any]) -> None:
    histograms = [
        [box["outer"] for box in views[width]["boxes"] if box["label"].startswith("Histogram")]
        for width in WIDTHS
    ]
    assert len({box["left"] for box in histograms[0]}) == 1
    assert len({box["left"] for box in histograms[-1]}) == 2


def test_nothing_is_fetched(views: dict[int, Any]) -> None:
    assert all(view["loaded"] == 0 for view in views.values())


def test_the_page_is_painted(folder: Path) -> None:
    picture = folder / "page.png"
    browse(folder, folder / "report.html", f"--screenshot={picture}", "--window-size=1200,1400")
    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[:2] == (1400, 1200)
    assert (pixels[..., :3].min(axis=-1) < 0.5).mean() > 0.005  # ink
    assert (pixels[..., :3].min(axis=-1) > 0.95).mean() > 0.5  # and paper


def test_the_page_prints(folder: Path) -> None:
    paper = folder / "page.pdf"
    browse(folder, folder / "report.html", f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    pages = len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes()))
    assert 4 <= pages <= 12

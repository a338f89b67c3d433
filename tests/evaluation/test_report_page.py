"""The page of an evaluation, as its text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from mrl.evaluation.report_page import report_page
from mrl.evaluation.results import Baseline, Grid, ListReport, PrefixReport, Report, SearchPoint
from tests.evaluation.sample_report import bare_report, full_report, list_report, sample_curves

EVIL = "<script>alert(1)</script><img src=x onerror='alert(2)'>\" onload=\"alert(3)"


class Reader(HTMLParser):
    """Elements with their attributes and texts; a wrong end fails at once."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"{tag} has an attribute twice: {names}"
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    def named(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]

    def text(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if tag in tags]


@pytest.fixture(scope="module")
def full() -> Reader:
    return Reader(report_page(full_report(), sample_curves()))


def test_the_page_is_well_formed_and_has_a_language_and_a_title(full: Reader) -> None:
    assert full.elements[0] == ("html", {"lang": "en"})
    assert full.text("title") == ["Evaluation of best.pt"]
    assert len(full.named("h1")) == 1
    levels = [int(tag[1]) for tag, _ in full.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_ids_are_unique_and_links_lead_to_them(full: Reader) -> None:
    ids = [attributes["id"] for _, attributes in full.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert [link["href"] for link in full.named("a")] == ["#list-1", "#list-2"]
    assert {"list-1", "list-2", "recommendation"} <= set(ids)


def test_nothing_is_loaded_and_nothing_runs(full: Reader) -> None:
    page = report_page(full_report(), sample_curves())
    assert not full.named("script", "link", "img", "iframe", "object", "embed", "base", "form")
    attributes = [item for _, found in full.elements for item in found.items()]
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert not [
        value for name, value in attributes if name in {"src", "href"} and not str(value).startswith("#")
    ]
    assert not re.search(r"https?:|//[a-z]|url\(|@import|javascript:", page)


def test_what_comes_first_is_the_answer(full: Reader) -> None:
    assert full.text("h2")[:3] == ["Which dimension to ship", "At a glance", "vox1-o"]
    assert full.text("dd")[0].startswith("192 numbers.")


def test_every_part_has_its_section(full: Reader) -> None:
    per_list = [
        "EER against dimension",
        "Compared with",
        "DET curves",
        "Scores and thresholds",
        "Length of the test utterance",
        "Precision of stored embeddings",
        "Cascade",
    ]
    assert full.text("h3") == 2 * per_list
    assert full.text("h4") == 2 * [f"{dim} numbers" for dim in (64, 128, 192, 256)]
    assert full.text("h2")[-2:] == ["Search", "How it was measured"]
    facts = " ".join(full.text("dd"))
    for fact in (
        "python evaluate.py --checkpoint",
        "SHA-256 3f0c1d9b",
        "VoxCeleb1-O (cleaned)",
        "1,000 bootstrap",
    ):
        assert fact in facts


def test_parts_that_were_not_measured_leave_no_trace() -> None:
    page = Reader(report_page(bare_report(), []))
    assert page.text("h2") == ["At a glance", "vox1-o", "How it was measured"]
    assert page.text("h3") == ["EER against dimension"]
    text = " ".join(text for tag, text in page.texts if tag != "style")
    for absent in ("interval", "Command", "SHA-256 3f", "Time", "every prefix"):
        assert absent not in text


def test_figures_are_described_in_words(full: Reader) -> None:
    drawings = [found for found in full.named("svg") if found.get("role") == "img"]
    assert len(drawings) == 2 * (1 + 1 + 4)
    assert all(drawing["aria-label"] and drawing["viewbox"] for drawing in drawings)
    assert re.search(r"64: \d\.\d\d %, 128: \d\.\d\d %", str(drawings[0]["aria-label"]))
    silent = [found for found in full.named("svg") if "class" in found]
    assert all(found["aria-hidden"] == "true" for found in silent)


def test_tables_have_headings_for_columns_and_rows(full: Reader) -> None:
    assert len(full.named("table")) == 1 + 2 * (2 + 1 + 2 + 1) + 1
    assert all(found.get("scope") in {"col", "row"} for found in full.named("th"))
    frames = [found for found in full.named("div") if found.get("class") == "scroll"]
    assert len(frames) == len(full.named("table"))
    assert all(found["tabindex"] == "0" and found["aria-label"] for found in frames)


def test_rows_are_as_wide_as_their_table(full: Reader) -> None:
    page = report_page(full_report(), sample_curves())
    for table in re.findall(r"<table>(.*?)</table>", page):
        rows = re.findall(r"<tr.*?</tr>", table)
        widths = [len(re.findall("<t[dh]", row)) + ('class="below"' in row) for row in rows]
        assert len(set(widths)) == 1


def test_worse_is_darker_and_text_stays_readable() -> None:
    grid = Grid("Lengths", ("1 s", "full"), (64, 128), ((0.1, 0.05), (0.02, float("nan"))))
    report = replace(bare_report(), lists=(replace(bare_report().lists[0], durations=grid),))
    opacities = re.findall(r"rgb\(213 94 0 / ([\d.]+)\)", report_page(report, []))
    assert opacities == ["0.42", "0.24", "0.00", "0.00"]


def evil_list() -> ListReport:
    item = list_report(EVIL, official_name=EVIL)
    grid = replace(item.durations, title=EVIL, rows=(EVIL,) * 5) if item.durations else None
    baseline = Baseline(EVIL, (64,), (0.05,), (None,))
    return replace(item, recommendation=EVIL, baselines=(baseline,), durations=grid, sha256=EVIL)


def test_names_and_paths_are_text_whatever_they_hold() -> None:
    report = Report(
        encoder=f"dir/{EVIL}",
        dims=(64,),
        confidence=0.95,
        lists=(evil_list(),),
        search=(SearchPoint(EVIL, 64, 256, 10, 5, 1.0, 1.0, 1.0),),
        seconds={EVIL: 1.0},
        command=EVIL,
    )
    page = Reader(report_page(report, sample_curves((EVIL,))))
    assert not page.named("script", "img")
    assert not [name for _, found in page.elements for name in found if name.startswith("on")]
    assert sum(EVIL in text for _, text in page.texts) >= 8


def test_a_path_that_is_no_text_is_shown() -> None:
    page = report_page(replace(bare_report(), encoder="caf\udce9/best.pt"), [])
    assert r"caf\udce9/best.pt" in page
    page.encode("utf-8")


def one_prefix(**changes: float) -> PrefixReport:
    return replace(bare_report().lists[0].prefixes[0], **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("eer", [0.0, 0.5, 1.0, float("nan")])
def test_extreme_error_rates_are_drawn(eer: float) -> None:
    item = replace(bare_report().lists[0], prefixes=(one_prefix(eer=eer),), curve=(0.5, eer))
    page = report_page(replace(bare_report(), lists=(item,)), sample_curves(("vox1-o",)))
    drawings = "".join(re.findall(r"<svg.*</svg>", page))
    assert not re.search(r'[ ",](nan|-?inf)', drawings)
    Reader(page)


def test_a_baseline_far_beyond_is_named_and_does_not_flatten_the_plot() -> None:
    item = bare_report().lists[0]
    far = Baseline("random", (64,), (0.4,), (None,))
    page = report_page(replace(bare_report(), lists=(replace(item, baselines=(far,)),)), [])
    assert "Beyond the plot: random at 64 (40.00\u00a0%)." in page
    near = Baseline("truncated", (64,), (1.5 * item.prefixes[0].eer,), (None,))
    page = report_page(replace(bare_report(), lists=(replace(item, baselines=(near,)),)), [])
    assert "Beyond the plot" not in page


def test_the_page_stays_small() -> None:
    names = tuple(f"list{number}" for number in range(4))
    report = replace(full_report(), lists=tuple(list_report(name, seed) for seed, name in enumerate(names)))
    assert len(report_page(report, sample_curves(names)).encode()) < 500_000

"""The report page: what a browser and a hostile corpus make of it."""

from __future__ import annotations

import itertools
import os
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from oracles.small_build import Kept, Lost, SmallBuild, write_build

from codemill.pipeline.manifest import write_manifest
from codemill.pipeline.report import render_report
from codemill.pipeline.report_diff import LINE_CHARACTERS

VOID = {"meta", "br", "col", "link", "img", "input", "hr"}
HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7 }}{% raw %}$\\frac{a}{$\x00\x07\x1b\x85\u202e\u2066\ufeff-->]]></style>"


class Page(HTMLParser):
    """A page taken apart: elements with their attributes, whether tags match, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text.append(" " if tag in ("td", "th") else "")

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def code(number: int, lines: int = 12) -> str:
    rng = random.Random(number)
    return "\n".join(f"def f{number}_{i}(x):\n    return x + {rng.randrange(10**6)}" for i in range(lines))


def corpus() -> tuple[list[Kept], list[Lost]]:
    kept = [Kept(code(i, 1 + i % 9), f"pkg/m{i}.py", license=("MIT", "Apache-2.0", None)[i % 3]) for i in range(60)]
    lost = [Lost("line_too_long", code(100 + i), f"long/{i}.py") for i in range(5)]
    lost += [Lost("exact_duplicate", code(i, 1 + i % 9), f"copy/{i}.py", survivor=code(i, 1 + i % 9)) for i in range(7)]
    for i in range(12):
        survivor = kept[i % 8].text
        near = survivor.replace("x +", "y +", 1) + f"\n# {i}"
        lost.append(Lost("near_duplicate", near, f"fork/{i}.py", survivor=survivor, similarity=0.7 + i / 50))
    detail = "humaneval HumanEval/7 prompt: return [x for x in strings if substring in x]"
    lost.append(Lost("contaminated", code(300), "bench/a.py", detail=detail))
    return kept, lost


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> SmallBuild:
    return write_build(tmp_path_factory.mktemp("build") / "out", *corpus())


@pytest.fixture(scope="module")
def page(build: SmallBuild) -> str:
    return render_report(build)


def test_page_asks_the_network_for_nothing_and_runs_no_script(page: str) -> None:
    elements = Page(page).elements
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in elements}
    for _, attributes in elements:
        assert not {"src", "srcset", "xlink:href", "data", "action"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in page.replace("url(#", "") and "@import" not in page
    policy = next(a for a in Page(page).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_every_link_and_clip_path_inside_the_page_has_one_target(page: str) -> None:
    elements = Page(page).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a["href"][1:] for _, a in elements if a.get("href")} | set(re.findall(r"url\(#([^)]+)\)", page))
    assert links <= set(ids)


def test_headings_descend_one_by_one_and_tables_and_plots_are_named(page: str) -> None:
    elements = Page(page).elements
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert len(Page(page).all("table")) == len(Page(page).all("caption"))
    plots = [attributes for _, attributes in elements if attributes.get("role") == "img"]
    assert len(plots) == 7 and all(attributes["aria-label"] for attributes in plots)
    assert len(Page(page).all("svg")) == 2 * len(plots)


def test_page_states_the_counts_of_the_build(build: SmallBuild, page: str) -> None:
    words, (kept, lost) = Page(page).words, corpus()
    everything = len(kept) + len(lost)
    assert f"{everything} files came in, {len(kept)} are kept and {len(lost)} were dropped" in words
    assert "7 exact and 12 near-duplicates" in words
    assert "humaneval HumanEval/7 prompt" in words and "bench/a.py" in words and "substring in x" in words
    packing = build.manifest["packing"]
    assert f"{packing['tokens']:,}" in words and f"{packing['sequences']:,} sequences of 256 tokens" in words
    assert build.manifest["config_sha256"] in words and "Apache-2.0" in words
    assert "fork/0.py" in words and "fork/11.py" in words  # the least and the most similar pair


def test_counts_that_do_not_add_up_are_told(tmp_path: Path) -> None:
    build = write_build(tmp_path / "out", *corpus())
    part = build.path / "dropped" / "part-00001.parquet"
    pq.write_table(pq.read_table(part).slice(1), part)  # a row that is nowhere
    assert "The counts do not add up" in render_report(build)


def test_page_is_the_same_however_rows_lie_in_files(tmp_path: Path, page: str) -> None:
    kept, lost = corpus()
    shuffled = [*lost]
    random.Random(5).shuffle(shuffled)
    again = write_build(tmp_path / "out", kept, shuffled, files=5)
    assert render_report(again) == page


def test_page_is_the_same_in_another_process(build: SmallBuild, page: str) -> None:
    program = (
        "import sys, pathlib; from oracles.small_build import SmallBuild;"
        "from codemill.pipeline.report import render_report;"
        "sys.stdout.buffer.write(render_report(SmallBuild(pathlib.Path(sys.argv[1]))).encode())"
    )
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "12345",
        "PYTHONPATH": str(Path(__file__).parent),
        "TZ": "Asia/Tokyo",
    }
    command = [sys.executable, "-c", program, str(build.path)]
    assert subprocess.run(command, capture_output=True, check=True, env=environment).stdout.decode() == page


def test_hostile_text_is_shown_and_changes_nothing(tmp_path: Path, page: str) -> None:
    survivor = HOSTILE + code(1)
    kept = [
        Kept(survivor, HOSTILE, repo=HOSTILE, language=HOSTILE, license=HOSTILE),
        *(Kept(HOSTILE * 4 + code(i), f"{HOSTILE}{i}") for i in range(9)),
    ]
    lost = [
        Lost("near_duplicate", survivor + HOSTILE, HOSTILE, survivor=survivor, similarity=0.9),
        Lost("contaminated", code(9), HOSTILE, detail=f"{HOSTILE} a b: {HOSTILE}"),
    ]
    hostile = render_report(write_build(tmp_path / "out", kept, lost))
    parsed = Page(hostile)
    assert parsed.all("script") == [] and len(parsed.all("style")) == 1
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]", hostile)
    assert "<script>alert(1)</script>\"'&{{ 7*7 }}{% raw %}" in parsed.words
    assert "␀␇␛[U+0085][U+202E][U+2066][U+FEFF]" in parsed.words
    assert len(parsed.all("section")) == len(Page(page).all("section"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"length": None}, "this build ends at documents"),
        ({"documents": False}, "The kept documents were not written"),
        ({"stages": False}, "Pairs are shown where the stages were kept"),
        ({"near": False}, "Near-deduplication was off"),
        ({"length": None, "documents": False, "stages": False, "near": False}, "this build ends at documents"),
    ],
)
def test_what_a_build_left_out_is_said(tmp_path: Path, options: dict, says: str) -> None:
    kept, lost = corpus()
    if options.get("near") is False:
        lost = [document for document in lost if document.reason != "near_duplicate"]
    words = Page(render_report(write_build(tmp_path / "out", kept, lost, **options))).words
    assert says in words and "Undefined" not in words


def test_builds_that_kept_or_dropped_nothing_have_a_report(tmp_path: Path) -> None:
    kept, lost = corpus()
    empty = [Lost("empty", "", f"{i}.py") for i in range(3)]
    for name, some, others in (("none", [], lost[:5]), ("empty", kept[:1], empty), ("void", [], [])):
        assert Page(render_report(write_build(tmp_path / name, some, others))).all("h1")


def test_page_stays_small_whatever_the_corpus(tmp_path: Path) -> None:
    line = "'" * 1000  # five bytes each in HTML
    rng = random.Random(3)
    texts = ["\n".join(f"{line}{rng.random()}" for _ in range(320)) for _ in range(8)]
    kept = [
        Kept(text, f"{i}/" + "'" * 5000, language=f"l{i}" + line, license=f"{i}{line}") for i, text in enumerate(texts)
    ]
    kept += [Kept(f"x{i}", f"{i}", language=f"tongue-{i}", license=f"LicenseRef-{i}") for i in range(300)]
    lost = [
        Lost("near_duplicate", text.replace("0.", "1."), "'" * 5000, survivor=text, similarity=0.7 + i / 40)
        for i, text in enumerate(texts)
    ]
    lost += [Lost("contaminated", f"y{i}", f"p{i}", detail=f"b T/{i} f: {line}") for i in range(300)]
    build = write_build(tmp_path / "out", kept, lost, length=8192)
    build.manifest["config"]["notes"] = [line] * 1000
    html = render_report(build)
    assert len(html.encode()) < 3_000_000
    words = Page(html).words
    for said in (
        "Showing 20 of 309 languages",
        "Showing 20 of 308 licences",
        "Showing 6 of 8 pairs",
        "Showing 20 of 300 hits",
    ):
        assert said in words
    assert "'" * (LINE_CHARACTERS + 1) not in "".join(re.findall(r'<td class="left">(.*?)</td>', html))


def test_writing_the_manifest_again_does_not_change_the_page(build: SmallBuild, page: str) -> None:
    """The page is named in the manifest that is written after it: it must not depend on that."""
    write_manifest(build.path, {**build.manifest, "files": [*build.manifest["files"], {"file": "report.html"}]})
    assert render_report(SmallBuild(build.path)) == page

"""The web site: built of executed notebooks, complete on the disk, and searched in a real browser."""

import re
import runpy
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from conftest import write_corpus
from lab import photograph
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mtlib.study import paper, plots, tables
from mtlib.workbook.notebooks import run_notebook

pytest.importorskip("jupyter_book", reason="the site is not installed: `make site` does it")
ROOT = Path(__file__).resolve().parents[1]
MATHML = runpy.run_path(str(ROOT / "docs/_ext/mathml.py"))
pytestmark = pytest.mark.timeout(900)  # building the site is one test's work, however busy the machine
DOCSTRINGS = runpy.run_path(str(ROOT / "docs/_ext/docstrings.py"))


def build(folder, *options):
    """Run docs/build.py on the results and figures in `folder`."""
    command = [sys.executable, ROOT / "docs/build.py", "--preset", "smoke", "--output", folder / "docs", *options]
    folders = ["--results", folder / "results", "--figures", folder / "figures"]
    return subprocess.run([*command, *folders], capture_output=True, text=True, cwd=folder)


EVIL = "<script>evil=1</script><img src onerror=evil=2>"


def executed(picture: bytes) -> nbformat.NotebookNode:
    """A notebook with a formula, and a printed line, Table 2 as 03_smart shows it and a figure as outputs."""
    ours = paper.table(2)[["qqp", "sst", "sts", "mean"]].assign(evenness=0.5, trained="10 x 45 x 16, 0.00012")
    table = tables.pretty(tables.beside_paper(ours, 2, short=True))
    evil = pd.DataFrame({"text": [EVIL], "score": [0.5]})
    shown = {"text/html": table.to_html(), "text/plain": str(table)}
    outputs = [
        new_output("stream", name="stdout", text="mean 0.782\n"),
        new_output("execute_result", data=shown, execution_count=1),
        *(
            new_output("execute_result", data={"text/html": show(evil)._repr_html_(), "text/plain": EVIL})
            for show in (tables.pretty, tables.readable)
        ),
        new_output("display_data", data={"image/png": b64encode(picture).decode(), "text/plain": "<Figure>"}),
    ]
    text = r"# 03 SMART: adversary or noise?" + "\n\nWith $\\ell_s \\geq 0$:\n\n$$p_i \\propto N_i^\\alpha$$"
    cells = [new_markdown_cell(text), new_code_cell("report.write_table()", outputs=outputs, execution_count=1)]
    return new_notebook(cells=cells, metadata={"language_info": {"name": "python", "pygments_lexer": "ipython3"}})


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The folder of a site that was built of one notebook, Table 7 and one figure."""
    folder = tmp_path_factory.mktemp("site")
    notebooks = folder / "results/notebooks/smoke-sample"
    notebooks.mkdir(parents=True)
    figure, axes = plt.subplots()
    axes.plot([1, 2, 3])
    picture = plots.save(figure, "figure_3", folder / "figures/smoke-sample")[1].read_bytes()
    nbformat.write(executed(picture), notebooks / "03_smart.ipynb")
    nbformat.write(executed(picture), notebooks / "04_mnrl.running.ipynb")
    ours = paper.table(7)[["qqp", "sst", "sts", "mean"]].assign(evenness=0.5)
    beside = tables.beside_paper(ours, 7)
    tables.write_table(beside, "table_7", folder / "results/tables/smoke-sample", caption="All methods")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "docs/_build/html"


@pytest.fixture
def page(browser):
    """A page, and in `page.faults` what it asked of the network, could not load, or complained of."""
    page = browser.new_page()
    page.set_default_timeout(120_000)  # a busy machine is no fault
    page.faults = []
    page.on("request", lambda r: page.faults.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.on("requestfailed", lambda request: page.faults.append(f"{request.url}: {request.failure}"))
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    yield page
    page.close()


def test_without_notebooks_it_says_what_makes_them(tmp_path):
    done = build(tmp_path)
    assert done.returncode == 66
    assert "`make run PRESET=smoke CORPUS=sample` makes them" in done.stderr
    assert not (tmp_path / "docs").exists()


def test_the_pages_are_the_finished_notebook_the_guides_and_every_module(html):
    assert [path.name for path in (html / "notebooks").iterdir()] == ["03_smart.html"]
    guides = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert guides <= {path.stem for path in html.glob("*.html")}
    smart = (html / "api/mtlib.objectives.smart.html").read_text()
    assert 'id="mtlib.objectives.smart.Smart"' in smart and "FieldInfo" not in smart
    front = (html / "index.html").read_text()
    for row in paper.table(7).reset_index().to_dict("records"):
        assert row["method"] in front and f"{row['mean']:.3f}" in front
    assert "<math" in (html / "notebooks/03_smart.html").read_text()


def test_no_page_names_a_script_style_or_image_elsewhere(html):
    for path in html.rglob("*.html"):
        found = re.findall(r'<(?:script|link|img|iframe)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"', path.read_text())
        assert not found, path
        assert "https://" not in "".join(re.findall(r"<script\b.*?</script>", path.read_text(), re.DOTALL)), path


@pytest.mark.parametrize(
    "name", ["index", "notebooks/03_smart", "concept-smart", "penalties", "api/index", "api/mtlib.objectives.smart"]
)
def test_a_page_opens_from_the_disk_without_the_network(html, page, name):
    page.goto((html / f"{name}.html").as_uri())
    widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert all(widths) and len(widths) == (name in ("index", "notebooks/03_smart", "concept-smart"))
    assert page.faults == []


@pytest.mark.parametrize("name", ["index", "tutorial", "quickstart", "concept-ranking", "faq"])
def test_the_links_of_a_page_lead_to_pages_and_places(html, name):
    links = re.findall(r'<a class="reference internal" href="([^"#]*)#?([^"]*)"', (html / f"{name}.html").read_text())
    assert any(target.startswith("glossary") for target, _ in links)
    for target, anchor in set(links):
        there = (html / (target or f"{name}.html")).read_text()
        assert not anchor or f'id="{anchor}"' in there, f"{target}#{anchor}"


def test_a_link_of_the_tutorial_opens(html, page):
    page.goto((html / "tutorial.html").as_uri())
    page.click("article a.internal:has-text('evenness')")
    page.wait_for_url((html / "glossary.html").as_uri() + "#evenness")
    page.wait_for_selector("section#evenness")
    assert page.faults == []
    photograph(page, "site-glossary")


@pytest.mark.parametrize("name", ["index", "architecture", "cluster", "penalties", "reliability", "api/index"])
def test_no_table_of_a_guide_is_wider_than_its_page(html, page, name):
    page.set_viewport_size({"width": 1300, "height": 900})
    page.goto((html / f"{name}.html").as_uri())
    found = page.eval_on_selector_all(
        "article table", "all => all.map(t => [t.offsetWidth, t.parentElement.clientWidth])"
    )
    assert found or name == "penalties"
    assert all(table <= place + 1 for table, place in found), found


def test_the_widest_table_of_a_notebook_fits_a_laptop_s_screen(html, page):
    page.set_viewport_size({"width": 1400, "height": 900})
    page.goto((html / "notebooks/03_smart.html").as_uri())
    found = page.eval_on_selector_all(
        "article table", "all => all.map(t => [t.offsetWidth, t.parentElement.clientWidth])"
    )
    assert max(table for table, _ in found) > 500 and all(table <= place + 1 for table, place in found), found


def test_nothing_that_a_text_holds_runs_on_a_page_of_the_site(html, page):
    page.goto((html / "notebooks/03_smart.html").as_uri())
    assert page.get_by_text(EVIL[:40], exact=False).count() >= 2  # pandas cuts long cells
    assert page.evaluate("window.evil") is None and page.faults == []


def test_search_finds_smart(html, page):
    page.goto((html / "search.html").as_uri() + "?q=SMART")
    page.wait_for_selector("#search-results li a:has-text('03 SMART: adversary or noise?')")
    assert page.locator("#search-results li").count() > 3
    photograph(page, "site-search")
    page.click("#search-results li a:has-text('03 SMART: adversary or noise?')")
    assert page.url.startswith((html / "notebooks/03_smart.html").as_uri())
    assert page.faults == []


def test_every_page_is_in_one_part():
    made = runpy.run_path(str(ROOT / "docs/build.py"))
    guides = sorted((ROOT / "docs").glob("*.md"))
    assert {page for pages in made["PARTS"].values() for page in pages} <= {guide.stem for guide in guides}
    parts = made["contents"]([Path("03_smart.ipynb")], guides, ["mtlib"])["parts"]
    assert [part["caption"] for part in parts] == ["Start", "Notebooks", "Methods", "Guides", "Library"]
    listed = sorted(chapter["file"] for part in parts for chapter in part["chapters"])
    assert listed == sorted(["api/index", "notebooks/03_smart", *(guide.stem for guide in guides)])


def test_formulas_say_what_they_minimise_below_min():
    made = MATHML["displayed"](r"\arg\min_\theta\; x_i")
    assert "<munder><mo>min</mo>" in made and "<mtext>arg</mtext>" in made and "<msub><mi>x</mi>" in made


def test_docstrings_become_paragraphs_and_code():
    text = """SMART: |d|_inf of `x`, which is `f`(x).

mode "ball": at a_b,
    and more.
Raises E.

    with run:
        step()

End."""
    assert DOCSTRINGS["rewritten"](text.split("\n")) == [
        *("", r"SMART: \|d\|\_inf of ``x``, which is ``f``\ (x).", "", ""),
        *('``mode "ball"``: at a\\_b,', "and more.", "", "Raises E.", ""),
        *(".. code-block:: python", "", "    with run:", "        step()", "", "End."),
    ]


@pytest.fixture(scope="module")
def infested(tmp_path_factory):
    """The pages of 00, 08 and 09, executed on a corpus whose every text has a script in it."""
    place = tmp_path_factory.mktemp("infested")
    folder = write_corpus(place / "corpus")
    for file in folder.glob("*.csv"):
        head, *rows = file.read_text().splitlines()
        cells = [row.split("\t") for row in rows]
        texts = range(2, len(head.split("\t")) - 1)
        changed = ["\t".join(f"{EVIL} {cell}" if n in texts else cell for n, cell in enumerate(row)) for row in cells]
        file.write_text("\n".join([head, *changed, ""]))
    for stage in ("00_data", "08_confusion", "09_explore"):
        values = {"preset": "smoke", "corpus": str(folder)}
        made = run_notebook(stage, values, results=place / "results", figures=place / "figures")
        html, _ = HTMLExporter().from_filename(str(made))
        (place / f"{stage}.html").write_text(html)
    return place


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", ["00_data", "08_confusion", "09_explore"])
def test_nothing_that_a_corpus_holds_runs_on_an_executed_page(infested, page, stage):
    path = infested / f"{stage}.html"
    assert "evil=1" in path.read_text(), "the texts are shown"
    page.route(re.compile("^https?:"), lambda route: route.abort())
    page.goto(path.as_uri())
    page.wait_for_timeout(500)
    assert page.evaluate("window.evil") is None

"""The notebooks as a person has them: JupyterLab in a browser, cells run, sentences typed, trainings interrupted."""

import re

import pytest
from lab import ROOT, Lab, put_notebook
from pipelines import project, trains

from mtlib import RunStore
from mtlib.workbook.notebooks import with_preset
from mtlib.workbook.parameters import load_notebook, parameters_of

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXPLORER = "Explorer(ticked"
LONG = 'runs = {"long": study.experiment(name="long").but(epochs=5, steps_per_epoch=100)}'


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a small project that has 09, and a notebook whose training takes a while."""
    folder = project(tmp_path_factory.mktemp("lab") / "project")
    put_notebook(ROOT / "notebooks" / "09_explore.ipynb", folder / "notebooks", preset=str(folder / "mine.yaml"))
    with Lab(folder, folder.parent / "home") as lab:
        yield lab


@pytest.fixture
def page(browser):
    """A page that is closed behind the test."""
    page = browser.new_page()
    yield page
    page.close()


@pytest.mark.timeout(900)
def test_runs_answer_what_is_typed_and_their_curves_are_laid_over_each_other(lab, page):
    notebook = lab.open(page, "09_explore")
    notebook.run_all(timeout=600)
    explorer, before = notebook.cell(EXPLORER), notebook.output(EXPLORER)
    notebook.photograph("explorer")
    first = explorer.locator("input").first
    first.fill("")
    first.press_sequentially("I loved every minute of it.")
    explorer.get_by_text("loved", exact=True).first.wait_for()
    after = notebook.output(EXPLORER)
    answers = [re.findall(r"\d\.\d\d", text.partition("Words")[0]) for text in (before, after)]
    assert len(answers[0]) == len(answers[1]) == 8 and answers[0] != answers[1]
    notebook.photograph("typed")
    explorer.get_by_role("tab", name="Near in training").click()
    explorer.locator("b", has_text="duplicate").or_(explorer.locator("b", has_text="different")).first.wait_for(
        timeout=120_000
    )
    notebook.photograph("near")
    explorer.get_by_role("tab", name="Perturbed").click()
    explorer.locator("img").first.wait_for()
    notebook.photograph("perturbed")
    table = notebook.cell("ticked = RunTable")
    curves = table.locator("img").first.get_attribute("src")
    columns = explorer.locator("table").first.locator("th").count()
    table.locator("input[type=checkbox]:not(:checked)").first.check()
    explorer.locator("table").first.locator("th").nth(columns).wait_for()
    assert table.locator("img").first.get_attribute("src") != curves
    table.scroll_into_view_if_needed()
    notebook.photograph("ticked")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_is_interrupted_and_its_cell_run_again(lab, page):
    source = trains(lab.folder / "03_long.ipynb", LONG)
    put_notebook(source, lab.folder / "notebooks", preset=str(lab.folder / "mine.yaml"))
    notebook = lab.open(page, "03_long")
    notebook.menu("Run", "Run All Cells")
    notebook.cell("study.fit").get_by_text(re.compile(r"[1-9]\d*/500")).first.wait_for(timeout=300_000)
    notebook.menu("Kernel", "Interrupt Kernel")
    notebook.wait()
    run = RunStore(lab.folder / "results").find("long")
    assert run.status == "interrupted"
    assert "Run the cell again to continue" in notebook.output("study.fit")
    assert "Traceback" not in notebook.output("study.fit")
    notebook.cell("study.fit").scroll_into_view_if_needed()
    notebook.photograph("interrupted")
    notebook.run_all(timeout=600)
    assert run.complete and "long" in notebook.output("study.fit")
    assert notebook.cell("study.fit").locator("img").count() == 1, "the curve that grew"
    notebook.photograph("again")


@pytest.fixture(scope="module")
def workbook(tmp_path_factory):
    """JupyterLab on a project with every notebook, at the size of the preset smoke."""
    folder = tmp_path_factory.mktemp("workbook") / "project"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "presets").symlink_to(ROOT / "presets")
    for path in NOTEBOOKS:
        known = parameters_of(load_notebook(path), path.name)
        values, _ = with_preset(path.stem, known, {"preset": "smoke"} if "preset" in known else {})
        put_notebook(path, folder / "notebooks", **values)
    with Lab(folder, folder.parent / "home") as lab:
        yield lab


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_all_cells_of_every_notebook_run_in_a_fresh_kernel(workbook, page, name):
    notebook = workbook.open(page, name)
    notebook.run_all(timeout=1500)
    assert "results/" in notebook.output("study.outputs") or "figures/" in notebook.output("study.outputs")
    notebook.photograph("end")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_another_weight_in_03_is_another_row_of_its_table(workbook, page):
    notebook = workbook.open(page, "03_smart")
    notebook.run_all(timeout=1500)
    before = notebook.output("table_2 =")
    given = notebook.cell("preset = 'smoke'").locator(".cm-content")
    given.click()
    text = given.inner_text()
    changed = re.sub(r"^weights = \[15.*\]$", "weights = [7, 15]", text, flags=re.MULTILINE)
    assert changed != text and "λ = 15" in before and "λ = 7" not in before
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(changed)
    notebook.run_all(timeout=600)
    assert "λ = 7" in notebook.output("table_2 =")
    notebook.cell("table_2 =").scroll_into_view_if_needed()
    notebook.photograph("another-weight")

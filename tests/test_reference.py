"""What is kept of a study beside the code: everything but a corpus' sentences and this machine's folders."""

import json
import runpy
import tarfile
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from mtlib.errors import MissingRunError, StorageError
from mtlib.study import tables

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = runpy.run_path(str(ROOT / "docs" / "reference.py"))
SENTENCE = "a sentence of the corpus"


@pytest.fixture
def study(tmp_path):
    """Results and figures of a study with one executed notebook; `write(*outputs, tags=())` makes that."""
    folder = tmp_path / "results" / "notebooks" / "smoke-sample"
    folder.mkdir(parents=True)
    for name in ("tables", "figures"):
        (tmp_path / ("results/tables" if name == "tables" else name) / "smoke-sample").mkdir(parents=True)
    (tmp_path / "results/tables/smoke-sample/table_7.csv").write_text("method,mean\nbaseline,0.5\n")
    (tmp_path / "figures/smoke-sample/figure_3.png").write_bytes(b"png")
    (tmp_path / "figures/smoke-sample/figure_1a.html").write_text(SENTENCE)

    def write(*outputs, tags=(), source="1", **options):
        cell = new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags), "papermill": {"duration": 1}})
        nbformat.write(new_notebook(cells=[cell]), folder / "03_smart.ipynb")
        nbformat.write(new_notebook(), folder / "04_mnrl.failed.ipynb")
        place = tmp_path / "reference"
        folders = tmp_path / "results", tmp_path / "figures", place
        return place, REFERENCE["write_reference"]("smoke-sample", *folders, **options)

    return write


def test_tables_figures_and_finished_notebooks_are_kept(study):
    place, paths = study(new_output("stream", text="mean 0.5"))
    kept = {str(path.relative_to(place)) for path in paths}
    assert kept == {"table_7.csv", "figure_3.png", "notebooks/03_smart.ipynb"}
    text = (place / "notebooks/03_smart.ipynb").read_text()
    assert "mean 0.5" in text and "papermill" not in text


def test_no_sentence_goes_along(study):
    shown = tables.readable(pd.DataFrame({"text_a": [SENTENCE]}))
    data = {"text/html": shown.to_html(), "text/plain": repr(shown)}
    place, paths = study(new_output("execute_result", data=data))
    assert all(SENTENCE not in path.read_text() for path in paths if path.suffix in (".ipynb", ".csv"))
    place, paths = study(new_output("stream", text=SENTENCE), tags=["texts"])
    assert SENTENCE not in (place / "notebooks/03_smart.ipynb").read_text()


def test_sentences_of_the_generated_corpus_stay(study):
    place, _ = study(new_output("stream", text=SENTENCE), tags=["texts"], sentences=True)
    assert SENTENCE in (place / "notebooks/03_smart.ipynb").read_text()


def test_a_bundle_of_runs_stays_and_all_else_is_replaced(study):
    place, _ = study(new_output("stream", text="mean 0.5"))
    for name in ("runs.tar.xz", "table_old.csv", "notebooks/99_old.ipynb"):
        (place / name).write_bytes(b"before")
    study(new_output("stream", text="mean 0.5"))
    assert (place / "runs.tar.xz").read_bytes() == b"before"
    assert not (place / "table_old.csv").exists() and not (place / "notebooks/99_old.ipynb").exists()


def test_a_folder_of_this_machine_is_noticed_before_anything_is_replaced(study):
    place, _ = study(new_output("stream", text="mean 0.5"))
    (place / "table_old.csv").write_bytes(b"before")
    with pytest.raises(StorageError, match="a folder of this machine"):
        study(new_output("stream", text=f"see {ROOT / 'x'}"))
    assert (place / "table_old.csv").read_bytes() == b"before"


@pytest.mark.parametrize("folder", ["/home/me/data", "../../x/data", "../data"])
def test_of_the_corpus_folder_only_the_name_stays(study, folder):
    place, _ = study(tags=["injected-parameters"], source=f'preset = "gpu"\ncorpus = "{folder}"\n')
    (cell,) = nbformat.read(place / "notebooks/03_smart.ipynb", as_version=4).cells
    assert cell.source == 'preset = "gpu"\ncorpus = "../data"\n'
    place, _ = study(tags=["injected-parameters"], source='corpus = "sample"')
    assert nbformat.read(place / "notebooks/03_smart.ipynb", as_version=4).cells[0].source == 'corpus = "sample"'


def test_without_executed_notebooks_nothing_is_replaced(tmp_path):
    with pytest.raises(MissingRunError):
        REFERENCE["write_reference"]("smoke-sample", tmp_path, tmp_path, tmp_path / "reference")


@pytest.mark.parametrize(
    "bundle", sorted((ROOT / "results" / "reference").glob("*/runs.tar.xz")), ids=lambda b: b.parent.name
)
def test_the_runs_that_are_kept_have_no_labels_and_say_not_where_they_were_made(bundle):
    with tarfile.open(bundle, "r:xz") as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}
    tables = [data for name, data in files.items() if "/predictions/" in name]
    configs = [json.loads(data) for name, data in files.items() if name.endswith("/config.json")]
    assert tables and configs and all(data.partition(b"\n")[0].startswith(b"id,prediction") for data in tables)
    assert {config["corpus"]["source"] for config in configs} == {""}

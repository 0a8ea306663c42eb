"""A study's results as they are kept beside the code: tables, figures and executed notebooks, without sentences.

python docs/reference.py --preset afternoon --corpus FOLDER
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

import nbformat

from mtlib.errors import MissingRunError, MtlibError, StorageError
from mtlib.presets import label, preset, project_root
from mtlib.study.tables import SENTENCES
from mtlib.training.files import make_folder, storage

INSTEAD = "(sentences of the corpus: execute the notebook to see them)"
KEPT = ("*.csv", "*.md", "*.png")
FOLDER = re.compile(r'^(corpus = ").*/([^/"]+)(")$', re.MULTILINE)


def write_reference(name: str, results: Path, figures: Path, folder: Path, *, sentences: bool = False) -> list[Path]:
    """Replace `folder` by the tables, figures and executed notebooks of the study called `name`; the files' paths.

    name: `<preset>-<corpus>`. No sentence of a corpus goes along, unless `sentences` (the generated corpus has no other
    owner): tables that show some are cut out of the notebooks, and pages that show them on hovering are left. A bundle
    of runs in `folder` stays. Raises MissingRunError without executed notebooks, StorageError where one names this
    machine's folders.
    """
    executed = [path for path in sorted((results / "notebooks" / name).glob("*.ipynb")) if path.name.count(".") == 1]
    if not executed:
        raise MissingRunError(f"{results / 'notebooks' / name}: expected executed notebooks, found none")
    notebooks = {path.name: kept(nbformat.read(path, as_version=4), sentences=sentences) for path in executed}
    for name_of, notebook in notebooks.items():
        if str(project_root()) in nbformat.writes(notebook):
            raise StorageError(f"{name_of}: names {project_root()}, a folder of this machine")
    with storage("write", folder):
        shutil.rmtree(folder / "notebooks", ignore_errors=True)
        make_folder((folder / "notebooks").absolute())
        for pattern in KEPT:
            for path in folder.glob(pattern):
                path.unlink()
        for source in (results / "tables" / name, figures / name):
            for pattern in KEPT:
                for path in sorted(source.glob(pattern)):
                    shutil.copy(path, folder)
        for name_of, notebook in notebooks.items():
            nbformat.write(notebook, folder / "notebooks" / name_of)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def kept(notebook: nbformat.NotebookNode, *, sentences: bool) -> nbformat.NotebookNode:
    """The notebook without what papermill noted; unless `sentences`, a note stands for each output that shows some.

    Where the corpus lay is this machine's: of its folder, the name stays.
    """
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = FOLDER.sub(r"\1../\2\3", cell.source)
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        for output in [] if sentences else cell.get("outputs", []):
            if "texts" in cell.metadata.get("tags", []) and output.output_type == "stream":
                output["text"] = INSTEAD
            elif SENTENCES in "".join(output.get("data", {}).get("text/html", "")):
                output["data"] = {"text/plain": INSTEAD}
    notebook.metadata.pop("papermill", None)
    return notebook


def main() -> int:
    """Keep the study that the command line names in results/reference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tour")
    parser.add_argument("--corpus", default="")
    options = parser.parse_args()
    corpus = options.corpus or preset(options.preset).corpus
    name = label(options.preset, corpus)
    folder = Path("results/reference") / name
    paths = write_reference(name, Path("results"), Path("figures"), folder, sentences=corpus == "sample")
    print(f"{folder}: {len(paths)} files")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MtlibError as error:
        sys.exit(f"reference: {error}")

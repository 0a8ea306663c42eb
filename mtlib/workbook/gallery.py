"""What Snakemake's report shows of each notebook: its figures and tables, and where they come from."""

import html
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import nbformat
import pandas as pd

from mtlib.errors import StorageError
from mtlib.training.files import make_folder, storage, write_atomic
from mtlib.workbook.notebooks import stage_status


def collect(executed: Path, folder: Path) -> list[Path]:
    """Copy what an executed notebook's last cell names into `folder`: PNG and HTML files, CSV tables as HTML.

    Raises StorageError for a file that is not there.
    """
    cells = nbformat.read(executed, as_version=4).cells
    printed = "".join(output.get("text", "") for output in cells[-1].get("outputs", []))
    with storage("create", folder):
        make_folder(folder.absolute())
    copied = []
    for path in map(Path, printed.split("\n")):
        if path.suffix not in (".png", ".html", ".csv"):
            continue
        if not path.is_file():
            raise StorageError(f"{executed}: names {path}, which is not there; execute it again")
        copied.append(folder / path.name if path.suffix != ".csv" else folder / f"{path.stem}.html")
        if path.suffix == ".csv":
            copied[-1].write_text(page(path), encoding="utf-8")
        else:
            shutil.copyfile(path, copied[-1])
    return copied


def page(table: Path) -> str:
    """A CSV table as a page of HTML."""
    body = pd.read_csv(table, keep_default_na=False).to_html(index=False, border=0, float_format="{:.4g}".format)
    style = "body{font:14px sans-serif} td,th{padding:2px 8px;text-align:left} tr:nth-child(even){background:#f3f3f3}"
    return f'<!DOCTYPE html><meta charset="utf-8"><style>{style}</style><h3>{html.escape(table.stem)}</h3>{body}'


HEADLINE = "method_differences"
"""The figure that a report opens on, if it is there; else it is the first one."""

OPENING = """<script>(function open() {
    if (typeof app === "undefined" || !app) return setTimeout(open, 50);
    const paths = Object.keys(results).sort();
    const isImage = path => results[path].mime_type === "image/png";
    const path = paths.find(each => each.includes("HEADLINE") && isImage(each)) || paths.find(isImage) || paths[0];
    if (path) app.setView({content: isImage(path) ? "img" : "html", contentPath: results[path].data_uri});
})();</script>
"""


def open_on_results(report: Path) -> None:
    """Have Snakemake's page show a figure when it is opened, not the graph of its rules."""
    with storage("write", report):
        whole, end = report.read_text(encoding="utf-8"), "</body>"
        page, _, rest = whole.rpartition(end)
        write_atomic(report, (page + OPENING.replace("HEADLINE", HEADLINE) + end + rest).encode())


def provenance(executed: str | Path, markers: Iterable[str | Path], results: str | Path) -> str:
    """Commit, versions, machine and corpus behind an executed notebook, and its runs, as reStructuredText.

    What is not there yet is left out.
    """
    about = stage_status(Path(executed)).get("environment", {})
    names = [json.loads(Path(marker).read_text())["run"] for marker in markers if Path(marker).is_file()]
    runs = [run for name in names if ((run := Path(results) / "runs" / name) / "environment.json").is_file()]
    corpora = [json.loads((run / "config.json").read_text())["corpus"] for run in runs]
    lines = [f"- {key}: {value}" for key, value in about.items()]
    for title, digest in sorted({(each["title"], each["fingerprint"]) for each in corpora}):
        lines.append(f"- corpus: {title}, SHA-256 {digest}")
    for run in runs:
        its = json.loads((run / "environment.json").read_text())
        where = f"{its.get('device')}, {its.get('precision')}, {its.get('threads')} threads, torch {its.get('torch')}"
        lines.append(f"- run {run.name}: commit {str(its.get('commit'))[:12]}, {where}")
    return "\n".join(lines)

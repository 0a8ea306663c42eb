"""The web site: the executed notebooks of one study, the guides, and the reference from the docstrings.

Gathers the book's sources in `<output>/_build/source` and builds `<output>/_build/html` with Jupyter Book. Nothing is
executed, and the site asks nothing of the network: it can be opened from the disk.
"""

import argparse
import ast
import re
import shutil
import sys
import warnings
from pathlib import Path

import pandas as pd
import yaml
from jupyter_book.cli.main import main as jupyter_book

from mtlib import PUBLIC
from mtlib.errors import MissingRunError, MtlibError
from mtlib.presets import label
from mtlib.presets import preset as read_preset
from mtlib.study import tables

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "mtlib"
FRONT = {
    "method_differences": ("90%", "Differences of means and evennesses, 95 % intervals, reporting half of dev."),
    "figure_3": ("90%", "Figure 3: dev scores by epoch, by the weight of SMART's penalty."),
    "figure_1a": ("90%", "Figure 1a: SST dev sentences before and after ranking, by t-SNE."),
    "figure_1b": ("60%", "Figure 1b: what the best method takes for what, SST dev."),
}
"""Figures of the front page: width and caption."""
HEADLINE = ["method", "qqp", "sst", "sts", "mean", "mean paper", "evenness"]
"""Columns of Table 7 that the front page shows."""

PARTS = {
    "Start": ("quickstart", "tutorial", "howto", "own-task", "faq", "glossary"),
    "Methods": (
        *("concept-annealing", "concept-smart", "concept-ranking", "concept-bppo", "concept-ensembles"),
        *("joint", "beyond"),
    ),
}
"""Pages by part, in their order; those that no part names are guides."""

INTRODUCTION = """# mtlib: one encoder, many tasks

One BERT, fine-tuned on sentiment (SST-5), paraphrase (QQP) and similarity (STS-B) at once, evenly well on all three,
and which of the known tricks really help. After the report "Jack of All Trades, Master of Some: Improving BERT for
Multitask Learning". This site shows the study **{name}**; its numbers and figures are those of its notebooks.

New here? The [quickstart](quickstart.md) is the first hour, the [tutorial](tutorial.md) leads to a task of your own,
and the [glossary](glossary.md) says what the words of the tables mean.
"""


def build(preset: str, corpus: str, results: Path, figures: Path, output: Path) -> Path:
    """Build the site of the study of that preset and corpus; returns its front page.

    Raises MissingRunError when none of the study's notebooks was executed.
    """
    corpus = corpus or read_preset(preset).corpus
    name = label(preset, corpus)
    notebooks = executed(results / "notebooks" / name, f"make run PRESET={preset} CORPUS={corpus}")
    source, html = output / "_build" / "source", output / "_build" / "html"
    for folder in (source, html, output / "_build" / ".doctrees"):
        shutil.rmtree(folder, ignore_errors=True)
    (source / "notebooks").mkdir(parents=True)
    for notebook in notebooks:
        shutil.copy(notebook, source / "notebooks")
    shutil.copy(HERE / "_config.yml", source)
    for folder in ("_ext", "_static"):
        shutil.copytree(HERE / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    guides = sorted(HERE.glob("*.md"))
    for guide in guides:
        text = with_pictures(guide.read_text(), source)
        (source / guide.name).write_text(linked(text, [other.name for other in guides]))
    modules = reference(source / "api")
    (source / "index.md").write_text(front(name, results / "tables" / name, figures / name, source))
    (source / "_toc.yml").write_text(yaml.safe_dump(contents(notebooks, guides, modules), sort_keys=False))
    warnings.filterwarnings("ignore", category=FutureWarning, module="sphinx_external_toc")
    options = ["--path-output", str(output), "--warningiserror", "--keep-going", "--quiet"]
    try:
        jupyter_book(["build", str(source), *options], standalone_mode=False)
    except RuntimeError as error:
        raise MtlibError(f"the book was not built: {error}") from None
    return html / "index.html"


def executed(folder: Path, command: str) -> list[Path]:
    """The executed notebooks in `folder`, in order."""
    found = [path for path in sorted(folder.glob("[0-9]*.ipynb")) if path.name.count(".") == 1]
    if not found:
        raise MissingRunError(f"{folder}: expected executed notebooks, found none; `{command}` makes them")
    return found


def front(name: str, folder: Path, figures: Path, source: Path) -> str:
    """The front page: what the study is, Table 7 in short, and some figures."""
    parts = [INTRODUCTION.format(name=name)]
    if (folder / "table_7.csv").is_file():
        found = pd.read_csv(folder / "table_7.csv")
        caption = (folder / "table_7.md").read_text().splitlines()[0]
        shown = tables.pretty(found[[column for column in HEADLINE if column in found]])
        shown = shown.rename(columns={"mean paper": "the report's mean"})
        parts += ["## All methods", caption, shown.to_markdown(index=False, disable_numparse=True)]
    else:
        parts.append(
            "Its Table 7, all methods beside the report's, has not been written: notebook 06 was not executed."
        )
    for figure, (width, caption) in FRONT.items():
        if (figures / f"{figure}.png").is_file():
            shutil.copy(figures / f"{figure}.png", source)
            parts.append(f"```{{figure}} {figure}.png\n:width: {width}\n{caption}\n```")
    return "\n\n".join(parts) + "\n"


def linked(text: str, guides: list[str]) -> str:
    """A guide's Markdown whose links to modules lead to the reference; links to what has no page become text."""

    def link(match: re.Match) -> str:
        title, target = match.groups()
        if module := re.fullmatch(r"\.\./(mtlib/[\w/]+)\.py", target):
            return f"[{title}](api/{module[1].replace('/', '.')}.rst)"
        return match[0] if target.split("#")[0] in ("", *guides) or "://" in target else title

    return re.sub(r"(?<!!)\[([^]]+)\]\(([^)\s]+)\)", link, text)


def with_pictures(text: str, source: Path) -> str:
    """A guide's Markdown whose pictures from elsewhere in the project are copied into `source`, and found there."""

    def picture(match: re.Match) -> str:
        place = source / "pictures" / match[2]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE.parent / match[2], place)
        return f"![{match[1]}](pictures/{match[2]})"

    return re.sub(r"!\[([^]]*)\]\(\.\./([^)\s]+)\)", picture, text)


def reference(folder: Path) -> list[str]:
    """Write a page for each module of mtlib into `folder`, and their list; returns the modules' names."""
    folder.mkdir()
    summaries = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        if path.name == "__main__.py" or not ast.parse(path.read_text()).body[1:]:
            continue
        summaries[module] = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
        members = ["   :members:"] if module != PACKAGE.name else []
        page = [module, "=" * len(module), "", f".. automodule:: {module}", *members, ""]
        if module == PACKAGE.name:
            page += [
                f"- :doc:`{where}`: {', '.join(f'``{name}``' for name in names)}" for where, names in PUBLIC.items()
            ]
        (folder / f"{module}.rst").write_text("\n".join(page))
    rows = [f"| [{module}]({module}.rst) | {summary} |" for module, summary in summaries.items()]
    page = ["# Reference", "", "From the docstrings.", "", "| module | what it is |", "| --- | --- |", *rows, ""]
    (folder / "index.md").write_text("\n".join(page))
    return list(summaries)


def contents(notebooks: list[Path], guides: list[Path], modules: list[str]) -> dict:
    """The book's table of contents: Start, Notebooks, Methods, Guides, Library."""
    there = [guide.stem for guide in guides]
    start, methods = ([page for page in PARTS[part] if page in there] for part in ("Start", "Methods"))
    parts = {
        "Start": start,
        "Notebooks": [f"notebooks/{path.stem}" for path in notebooks],
        "Methods": methods,
        "Guides": [page for page in there if page not in start + methods],
    }
    listed = [
        {"caption": name, "chapters": [{"file": page} for page in pages]} for name, pages in parts.items() if pages
    ]
    library = {"file": "api/index", "sections": [{"file": f"api/{module}"} for module in modules]}
    return {"format": "jb-book", "root": "index", "parts": [*listed, {"caption": "Library", "chapters": [library]}]}


def arguments() -> dict:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tour")
    parser.add_argument("--corpus", default="")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--figures", type=Path, default=Path("figures"))
    parser.add_argument("--output", type=Path, default=HERE)
    return vars(parser.parse_args())


if __name__ == "__main__":
    try:
        print(build(**arguments()))
    except MtlibError as error:
        print(f"site: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

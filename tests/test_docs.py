"""README and guides: their code runs as printed, at the smallest size, and their links lead somewhere."""

import re
import shlex
import subprocess

import pandas as pd
import pytest
import yaml
from conftest import write_corpus
from pages import PAGES, ROOT, anchors, blocks, commands, links, run
from typer.testing import CliRunner

import mtlib
from mtlib import storage
from mtlib.cli import app
from mtlib.data import sample
from mtlib.tasks import TASKS, _by_code
from mtlib.workbook import sweeps

TINY = {"corpus": "sample", "encoder": "tiny", "dial": 0.0001, "learning_rate": 0.001, "experiment": {"max_tokens": 32}}
"""A preset of two steps, which stands in for the tour."""

NOT_HERE = """. python jupyter pip .venv/bin/pip accelerate apt-get docker kubectl aws export
profiles/slurm/start.sh node1$ node2$""".split()
"""Commands that change the machine, ask the network or wait for a person: only bash's grammar is checked."""

ONLY_READ = ("run", "sweep", "pipeline")
"""Commands that start kernels or Snakemake and have tests of their own: here only their options are read."""

SLOW = ("howto.md",)
"""Pages whose code trains many runs."""


def marked(pages):
    """The pages, those that take long marked as slow."""
    return [pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in SLOW else []) for page in pages]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to stand in, with the project's notebooks and presets, small corpora, and the registry as it was."""
    for name in ("notebooks", "presets"):
        (tmp_path / name).symlink_to(ROOT / name)
    write_corpus(tmp_path / "data")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "my_data").mkdir()
    texts = {"text": [f"text {n}" for n in range(40)], "label": [n % 2 for n in range(40)]}
    for split in ("train", "dev"):
        frame = pd.DataFrame({"id": [f"{split}{n}" for n in range(40)], **texts})
        frame.to_csv(tmp_path / "my_data" / f"topic-{split}.csv", sep="\t")
    monkeypatch.setattr(sample, "SIZES", {task: {"train": 60, "dev": 40, "test": 40} for task in sample.SIZES})
    monkeypatch.setattr(storage, "upload", lambda folder, name, private: f"commit of {name}")
    monkeypatch.chdir(tmp_path)
    sample.generate.cache_clear()
    tasks, by_code = dict(TASKS), set(_by_code)
    yield tmp_path
    sample.generate.cache_clear()
    TASKS.clear()
    TASKS.update(tasks)
    _by_code.clear()
    _by_code.update(by_code)


@pytest.mark.parametrize("page", marked(page for page in PAGES if blocks(page)))
def test_the_code_of_a_page_runs_in_its_order(page, place):
    names = {"__name__": "page"}
    for block in blocks(page):
        code = re.sub(r"\btour\b(?!-)", "tiny.yaml", block.code).replace("../data", "data")
        if block.file:
            (place / block.file).write_text(code)
        if block.language == "python":
            run(code, names, str(page))
        elif block.language == "sh":
            execute(code, names)
        elif block.language == "yaml":
            read(place / block.file if block.file else None, code)
        else:
            assert block.language == "text", f"{page.name}: {block.language} is not run"


def execute(code, names):
    """Run what a shell block asks of mtlib, and check that make's targets and presets are there."""
    checked = subprocess.run(["bash", "-n"], input=code, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    for line in commands(code):
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            check_make(words[1:])
        elif words[0] == "mtlib":
            command([str(names["run"].id) if word == "RUN" else word for word in words[1:]])
        else:
            assert words[0] in NOT_HERE, line


def command(arguments):
    """An `mtlib` command, which has to succeed; of those in ONLY_READ, its options are read."""
    read_only = ["--help"] if arguments[0] in ONLY_READ else []
    result = CliRunner().invoke(app, [*arguments, *read_only])
    assert result.exit_code == 0, f"mtlib {' '.join(arguments)}: {result.output}\n{result.exception!r}"


def check_make(words):
    """Targets and variables of a `make` line are the Makefile's, and its preset is there."""
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, is_variable, value = word.partition("=")
        if is_variable:
            assert re.search(rf"^{name} \?=", makefile, re.MULTILINE), f"make has no variable {name}"
            assert name != "PRESET" or value.endswith(".yaml") or value in mtlib.presets.preset_names(), word
        else:
            assert re.search(rf"^{name}:.*##", makefile, re.MULTILINE), f"make has no target {name}"


@pytest.mark.parametrize(
    "wrong", ["make nosuch", "make run PRESET=nosuch", "make run SIZE=1", "mtlib run 03_smart --nosuch", "mtlib rnus"]
)
def test_a_command_that_does_not_exist_is_noticed(wrong):
    with pytest.raises(AssertionError):
        execute(wrong, {})


def read(file, code):
    """A YAML block is a preset, a sweep, or another program's configuration."""
    content = yaml.safe_load(code)
    assert isinstance(content, dict)
    if "dial" in content:
        mtlib.preset(str(file))
    elif "grid" in content:
        assert len(sweeps.read(str(file)).experiments()) > 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        if path.startswith("https://"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_reached_from_the_readme():
    reached, pending = set(), [ROOT / "README.md"]
    while pending:
        page = pending.pop()
        reached.add(page)
        found = {(page.parent / link.split("#")[0]).resolve() for link in links(page) if "://" not in link}
        pending += [target for target in found if target.suffix == ".md" and target in PAGES and target not in reached]
    assert {page.name for page in PAGES} == {page.name for page in reached}


def test_every_term_of_the_glossary_is_alone_and_in_order():
    terms = re.findall(r"^## (.+)$", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert terms == sorted(set(terms), key=str.lower) and len(terms) > 30

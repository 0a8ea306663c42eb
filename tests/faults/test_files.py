"""Run names, links, leftovers and atomic files."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_helpers import JSON, fork, leftovers, on_each_call

from mtlib.errors import CheckpointError, ConfigurationError, StorageError
from mtlib.training import files
from mtlib.training.checkpoints import inside, safe_name, sweep, write_atomic, write_json
from mtlib.training.runs import Run, RunStore

# Processes


def test_a_process_is_gone_when_its_number_is_free_or_another_s():
    here = files.this_process()
    seconds = psutil.Process().create_time()  # what earlier versions wrote
    assert not files.is_gone(here) and not files.is_gone(here | {"started": seconds + 1})
    assert files.is_gone(here | {"pid": 10**12}) and files.is_gone(here | {"started": seconds - 60})
    assert not files.BOOT.exists() or files.is_gone(here | {"pid": 1})
    assert not files.is_gone({**here, "pid": 10**12, "host": "another"})
    numbered = {"pid": here["pid"], "host": here["host"]}  # what still earlier ones wrote
    assert not files.is_gone(numbered) and files.is_gone(numbered | {"pid": 10**12})


@pytest.mark.skipif(not files.BOOT.exists(), reason="Linux counts ticks")
def test_a_clock_that_is_set_ends_no_run(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.write_json("config.json", {})
    run.set_status("running", step=3)
    now = psutil.Process().create_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: now + 3600)
    assert run.status == "running"


@given(st.dictionaries(st.sampled_from(["pid", "started"]), JSON | st.integers(-(10**400), 10**400)))
def test_any_status_is_read(about):
    assert files.is_gone(about | {"host": files.this_process()["host"]}) in (False, True)
    assert not files.is_gone(about)


def test_a_run_is_interrupted_when_another_process_has_the_number(tmp_path):
    run = Run(tmp_path)
    run.set_status("running", step=3)
    assert run.status == "new", "without a configuration the folder is no run"
    run.write_json("config.json", {})
    assert run.status == "running"
    run.write_json("status.json", run.read("status.json") | {"pid": 1})
    assert run.status == "interrupted"


# Names and links


UNSAFE = (
    [
        "../x",
        "..",
        ".",
        "",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "a\0b",
        "x" * 300,
        "x" * 101,
        ".hidden",
        "-flag",
        "_x",
        "trailing.",
    ]
    + [
        "CON",
        "con",
        "nul.txt",
        "LPT1",
        "Com9.tar.gz",
        "new\nline",
        "end\n",
        " a",
        "a b",
        "\u00e9",
        "\u0661",
        "\ud800",
        "~",
    ]
    + [7, None]
)


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_run_name(name):
    with pytest.raises(ConfigurationError, match="run name") as error:
        safe_name(name)
    assert len(str(error.value)) < 500 and error.value.exit_code == 64


def test_message_of_an_unsafe_run_name():
    with pytest.raises(ConfigurationError) as error:
        safe_name("../x")
    assert str(error.value) == (
        "run name '../x': expected 1 to 100 letters, digits, '.', '_' or '-', beginning with a letter or digit, "
        "not ending with '.', and no device name such as CON"
    )
    with pytest.raises(ConfigurationError, match=f"^run name '{'x' * 120}': expected"):
        safe_name("x" * 121)


@pytest.mark.parametrize("name", ["a", "Z", "7", "tour-smart_15.0", "x" * 100, "console", "con-1", "null", "a..b"])
def test_safe_run_name(name):
    assert safe_name(name) == name


def test_an_id_may_be_longer_than_a_name():
    longest = f"{'x' * files.LONGEST_NAME}-0123abcd"
    assert safe_name(longest, files.LONGEST_ID) == longest
    with pytest.raises(ConfigurationError, match="expected 1 to 109 letters"):
        safe_name(f"x{longest}", files.LONGEST_ID)


@given(st.text() | st.text("./\\~-_ \0\nCONPRAUXcon01") | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]*", fullmatch=True))
def test_accepted_run_name_stays_in_its_folder(name):
    root = Path("/results/runs")
    try:
        place = Path(os.path.normpath(root / safe_name(name)))
    except ConfigurationError:
        assert len(name) != 1 or not (name.isascii() and name.isalnum())
    else:
        assert place.parent == root and place.name == name and name.isascii() and name.isprintable()
        assert len(os.fsencode(name)) <= 100


def test_links_out_of_the_root_are_refused(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "root-outside"
    (root / "real").mkdir(parents=True)
    outside.mkdir()
    (root / "away").symlink_to(outside)
    (root / "near").symlink_to(root / "real")
    (root / "loop").symlink_to(root / "loop")
    assert inside(root, root / "near" / "x") == (root / "real" / "x").resolve()
    assert inside(root, root / "real") == (root / "real").resolve() and inside(root, root) == root.resolve()
    for path in (root / "away", root / "away" / "x", root / "..", outside, root / "near" / ".." / ".." / "x", "/"):
        with pytest.raises(CheckpointError, match="inside"):
            inside(root, path)


# Files


def test_a_folder_that_another_process_makes_first_is_no_fault(tmp_path, monkeypatch):
    answers = iter([False, True, True])
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(Path, "is_dir", lambda path: next(answers))
    files.make_folder(tmp_path / "a")
    assert next(answers, "none left") == "none left"


def test_everything_below_a_folder_is_synced(tmp_path, monkeypatch):
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda f: (synced.append(os.readlink(f"/proc/self/fd/{f}")), fsync(f)))
    files.sync_tree(tmp_path)
    assert sorted(synced) == sorted(map(str, [tmp_path, *tmp_path.rglob("*")])) and synced[-1] == str(tmp_path)


def test_sweep_removes_what_dead_processes_left(tmp_path, request):
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    alive = subprocess.Popen(["sleep", "600"])
    request.addfinalizer(alive.kill)
    gone = [f".tmp-{dead}-5", f".tmp-{dead}-scores.json", f".tmp-{os.getpid()}-7", ".tmp-999999999-1"]
    kept = [
        f".tmp-{alive.pid}-5",
        ".tmp-x-5",
        f".tmp-{10**30}-1",
        "step-00000001",
        "quarantine-step-00000002",
        f"tmp-{dead}-5",
    ]
    for name in gone + kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x")
    (tmp_path / f".tmp-{dead}-link").symlink_to(tmp_path / "step-00000001")
    (tmp_path / f".tmp-{dead}-file").write_bytes(b"x")
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(kept) and (tmp_path / "step-00000001" / "file").exists()
    nowhere = tmp_path / "nowhere"
    with pytest.raises(StorageError, match=f"^{nowhere}: cannot sweep: No such file or directory ENOENT$"):
        sweep(nowhere)


def test_living_processes_of_other_users_are_left_alone(tmp_path, monkeypatch):
    (tmp_path / ".tmp-1-5").mkdir()

    def forbid(*_):
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "kill", forbid)
    sweep(tmp_path)
    assert leftovers(tmp_path) == [".tmp-1-5"]


def test_refused_atomic_write_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    path.write_bytes(b"old")
    missing = tmp_path / "missing" / "status.json"
    with pytest.raises(StorageError, match=f"^{missing}: cannot write: No such file or directory ENOENT$"):
        write_atomic(missing, b"new")

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for call in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(StorageError, match=f"^{path}: cannot write: Input/output error EIO$"):
                write_atomic(path, b"new")
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["status.json"]


def test_killed_at_every_point_of_an_atomic_write(tmp_path):
    path, point, outcomes = tmp_path / "status.json", 0, []
    while True:
        path.write_bytes(b"old")

        def write(point=point):
            with pytest.MonkeyPatch.context() as patch:
                on_each_call(patch, lambda number, _: number == point and os.kill(os.getpid(), signal.SIGKILL))
                write_atomic(path, b"new content")

        code = fork(write)
        outcomes.append(path.read_bytes())
        sweep(tmp_path)
        assert os.listdir(tmp_path) == ["status.json"]
        if code == 0:
            break
        point += 1
    assert set(outcomes) == {b"old", b"new content"} and point == 4


@given(JSON)
def test_json_is_deterministic_and_exact(value):
    data = files.encode_json(value)
    assert data == files.encode_json(json.loads(data)) and data.isascii() and data.endswith(b"\n")


def test_json_keeps_order_and_names_non_finite_numbers(tmp_path):
    write_json(tmp_path / "a.json", {"b": [float("nan"), float("inf"), -0.0], "a": "\u00e9"})
    assert (tmp_path / "a.json").read_bytes() == (
        b'{\n  "b": [\n    NaN,\n    Infinity,\n    -0.0\n  ],\n  "a": "\\u00e9"\n}\n'
    )
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert os.listdir(tmp_path) == ["a.json"]


HEAVY = {"transformers", "accelerate", "sklearn", "scipy", "matplotlib", "datasets", "snakemake", "nbformat", "IPython"}


@pytest.mark.parametrize(
    ("imported", "unwanted"),
    [
        ("mtlib", HEAVY | {"torch", "numpy", "pandas", "pydantic"}),
        ("mtlib.training.checkpoints", HEAVY | {"pandas"}),
        ("mtlib.training.runs", HEAVY),
        ("mtlib.cli.app", HEAVY | {"torch", "pandas"}),
    ],
)
def test_import_is_light(imported, unwanted):
    """What a start does without: scores are read without the libraries that models, figures and pipelines need."""
    code = f"import sys, {imported}; print(*{unwanted} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize("pid", [10**12, 2**31, 0, -1, 2**22 + 1])
def test_a_run_of_a_process_that_cannot_be_is_interrupted(tmp_path, pid):
    run = RunStore(tmp_path).open("x", "0" * 64)
    run.path.mkdir(parents=True)
    run.write_json("config.json", {})
    run.set_status("running", step=0)
    assert run.status == "running"
    status = run.path / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"pid": pid}))
    assert run.status == "interrupted"

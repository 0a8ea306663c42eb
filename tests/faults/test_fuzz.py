"""Anything at all in presets, options, sweeps, stored files and permissions: it works, or is one message and a code.

MTLIB_FUZZ_CASES says how many cases are tried: 100 unless given, 2,000 in `make test-all`.
"""

import contextlib
import copy
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import yaml
from conftest import write_corpus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_helpers import after_step, encoder
from store_helpers import JSON, fork, snapshot
from typer.testing import CliRunner

import mtlib
from mtlib.cli import app
from mtlib.tasks import TASKS
from mtlib.workbook import pipeline

CASES = int(os.environ.get("MTLIB_FUZZ_CASES", 100))
CODES = {0, 64, 65, 66, 70, 74, 75}
REFUSED = {2}  # typer's own, for what is no option or no number
NOBODY = 65534


def cases(share: float):
    """The settings of a test that tries this share of all cases."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    checks += [HealthCheck.function_scoped_fixture]  # all cases of a test share it
    return settings(max_examples=max(5, round(CASES * share)), deadline=None, suppress_health_check=checks)


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and output of the `mtlib` command, which has to end well or with one message."""
    known = dict(TASKS)
    try:
        done = CliRunner().invoke(app, list(arguments))
    finally:
        TASKS.clear()
        TASKS.update(known)
    told = f"mtlib {' '.join(arguments)[:500]!r}\n{done.output[-3000:]}"
    if done.exception and not isinstance(done.exception, SystemExit):
        raise AssertionError(f"{told}\nraised {type(done.exception).__name__}") from done.exception
    assert done.exit_code in CODES | REFUSED and "Traceback" not in done.output, f"{done.exit_code}: {told}"
    if done.exit_code in CODES - {0}:
        message = [line for line in done.stderr.splitlines() if line.startswith("mtlib: ")]
        assert len(message) == 1 and len(done.output) < 20_000, f"{done.exit_code}: {told}"
    return done.exit_code, done.output


# What a user writes

FIELDS = sorted({*mtlib.Experiment.model_fields, *mtlib.Pretraining.model_fields, "learing_rate", "dial", "corpus"})
ODD = st.sampled_from(
    [None, True, -1, 0, 1e-5, "1e-5", 10**12, 10**400, float("nan"), float("inf"), "", "\0", "x" * 300, "../..", [], {}]
    + [
        ["sst", "sst"],
        ["sst"],
        [None],
        [[]],
        {"kind": "smart"},
        [{"kind": "smart", "weight": 1.0}],
        {"from": 1, "to": 2},
    ]
)
VALUES = (ODD | JSON).map(copy.deepcopy)  # what a case changes inside would be another value for the next
WRITTEN = st.sampled_from(
    ["2020-13-45", "9" * 5000, "[[[", "{? [1]: 2}", "&a [*a]", "!!int ''", "1e999", "~", "{}", ""]
)
PRESET = {
    "corpus": "sample",
    "dial": 0.001,
    "learning_rate": 1e-3,
    "encoder": "tiny",
    "seeds": [0],
    "experiment": {"max_tokens": 32},
    "notebooks": {"03_smart": {"weights": [1.0]}},
}
SWEEP = {"preset": "smoke", "seeds": [0], "experiment": {"penalties": [{"kind": "smart", "weight": 1.0}]}}
SWEEP |= {"grid": {"smart.weight": [0.1, 0.2], "learning_rate": {"from": 0.1, "to": 1.0, "points": 2}}}


def places(tree, path=()):
    """Every place of a JSON value, as the keys that lead there."""
    yield path
    if isinstance(tree, dict | list):
        for key, inner in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(inner, (*path, key))


def edited(data, tree):
    """The JSON value with one to three of its places changed, removed or added to."""
    tree = copy.deepcopy(tree)
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from([path for path in places(tree)][:400])) or [None]
        if last is None:
            tree = data.draw(VALUES) if data.draw(st.integers(0, 9)) == 0 else tree
            continue
        inner = tree
        for key in parents:
            inner = inner[key]
        action = data.draw(st.sampled_from(["set", "set", "remove", "add", "rename"]))
        if action == "set":
            inner[last] = data.draw(VALUES)
        elif isinstance(inner, list):
            inner.append(data.draw(VALUES)) if action == "add" else inner.pop(last)
        elif action == "add":
            inner[data.draw(st.sampled_from(FIELDS) | st.text(max_size=8))] = data.draw(VALUES)
        else:
            value = inner.pop(last)
            if action == "rename":
                inner[str(last) + data.draw(st.text(min_size=1, max_size=2))] = value
        if not isinstance(tree, dict | list) or not tree:
            break
    return tree


@pytest.mark.timeout(7200)
@cases(0.35)
@given(st.data())
def test_any_preset_option_or_sweep_works_or_is_one_message(untrained, data):
    folder = untrained
    file, results = folder / "mine.yaml", ["--results", str(folder / "results")]
    kind = data.draw(st.sampled_from(["preset", "set", "sweep", "file", "run", "plan"]))
    if kind in ("preset", "plan", "sweep"):
        file.write_text(yaml.safe_dump(edited(data, SWEEP if kind == "sweep" else PRESET)))
    if kind == "preset":
        run("train", "--preset", str(file), *results)
    elif kind == "plan":
        run("pipeline", "plan", "--preset", str(file), *results)
    elif kind == "sweep":
        run("sweep", str(file), *results, "--figures", str(folder / "figures"))
    elif kind == "set":
        keys = st.sampled_from(FIELDS) | st.text(max_size=8)
        text = WRITTEN | VALUES.map(lambda value: json.dumps(value)) | st.text(max_size=30)
        given_ = data.draw(st.lists(st.tuples(keys, text), min_size=1, max_size=3))
        run("train", "--preset=smoke", *[f"--set={key}={value}" for key, value in given_], *results)
    elif kind == "file":
        path = folder / "experiment.json"
        path.write_text(json.dumps(edited(data, mtlib.experiment("smoke").model_dump(mode="json"))))
        run("train", str(path), *results)
    else:
        names = st.sampled_from(["weights", "seed", "preset", "corpus", "train", "radii"]) | st.text(max_size=8)
        stage = data.draw(st.sampled_from(["03_smart", "03_smrt", "../x", "", "x" * 300]))
        values = [f"-p{data.draw(names)}={data.draw(WRITTEN | st.text(max_size=20))}" for _ in range(2)]
        run("run", stage, *values, "-pnever=1", *results)


@pytest.fixture
def untrained(tmp_path_factory):
    """What would train, or start Snakemake, does nothing; the folder that cases write to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtlib.training.fit.fit", _trains_nothing)
        patch.setattr(pipeline, "snakemake", lambda *_, **__: 0)
        patch.chdir(Path(__file__).parents[2])
        yield tmp_path_factory.mktemp("written")


def _trains_nothing(*_, **__):
    raise SystemExit(0)


# What is stored


@pytest.fixture(scope="module")
def stored():
    """A folder that anybody may enter: a corpus, an encoder, and the runs "done", "sound" and "halted" on it."""
    with tempfile.TemporaryDirectory(prefix="mtlib-fuzz-") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        folder.chmod(0o755)
        corpus, results = write_corpus(folder / "corpus"), folder / "results"
        shutil.copytree(encoder(), folder / "encoder")
        size = {
            "encoder": str(folder / "encoder"),
            "max_tokens": 16,
            "batch_size": 4,
            "epochs": 1,
            "steps_per_epoch": 2,
        }
        made, source = mtlib.experiment("smoke", **size), mtlib.load_corpus(str(corpus))
        for number, called in enumerate(["done", "sound"]):
            mtlib.fit(made.but(name=called, seed=number), source, results, progress="none")
        halted = made.but(name="halted", epochs=4, seed=2)

        def work():
            after_step(5)(patch)
            mtlib.fit(halted, source, results, progress="none", minutes=0)

        assert fork(work) == -9
        for arguments in READING:  # what they import, every forked child has then
            run(*arguments, f"--results={results}")
        yield folder


READING = [
    ["runs"],
    ["runs", "--sort=sst"],
    ["runs", "--where=seed=0"],
    ["evaluate", "done"],
    ["replay", "done", "--step=1"],
]
WRITING = [["predict", "done"], ["card", "done"], ["rm", "done"], ["rm", "halted"], ["train", "--resume", "halted"]]
WRITING += [["train", "--resume", "done"], ["rm", "sound", "--force"]]


def command(data, results: Path) -> tuple[list[str], bool]:
    """A command on the stored runs, and whether it only reads."""
    chosen = data.draw(st.sampled_from(READING + WRITING))
    more = [f"--output={results.parent / 'predictions'}"] if chosen[0] == "predict" else []
    return [*chosen, *more, f"--results={results}"], chosen in READING


def damage(data, path: Path) -> None:
    """Change one file in any way."""
    content = path.read_bytes()
    ways = ["cut", "flip", "bytes", "gone", "folder", "link", "empty"]
    with contextlib.suppress(ValueError):
        tree = json.loads(content)
        ways += ["edit"] * 9 + ["whole"] * 2
    way = data.draw(st.sampled_from(ways))
    path.unlink()
    if way == "edit":
        path.write_text(json.dumps(edited(data, tree)))
    elif way == "whole":
        path.write_text(json.dumps(data.draw(VALUES)))
    elif way == "cut":
        path.write_bytes(content[: data.draw(st.integers(0, max(0, len(content) - 1)))])
    elif way == "flip" and content:
        place = data.draw(st.integers(0, len(content) - 1))
        path.write_bytes(
            content[:place] + bytes([content[place] ^ data.draw(st.integers(1, 255))]) + content[place + 1 :]
        )
    elif way == "bytes":
        path.write_bytes(data.draw(st.binary(max_size=200)))
    elif way == "folder":
        path.mkdir()
    elif way == "link":
        path.symlink_to(data.draw(st.sampled_from(["/dev/null", "/nowhere", "/etc/passwd", "..", path.name])))
    elif way == "empty":
        path.touch()


@pytest.mark.timeout(7200)
@cases(0.45)
@given(st.data())
def test_any_damage_to_a_run_is_one_message_and_hides_no_other(stored, data):
    with tempfile.TemporaryDirectory(prefix="mtlib-case-") as name:
        results = Path(shutil.copytree(stored / "results", Path(name) / "results"))
        files = sorted(path for path in results.rglob("*") if path.is_file() and "sound-" not in str(path))
        texts = [path for path in files if path.suffix == ".json"]
        damage(data, data.draw(st.sampled_from(texts) | st.sampled_from(files)))
        arguments, reads = command(data, results)
        before = snapshot(results) if reads else {}
        run(*arguments)
        assert not reads or snapshot(results) == before
        if arguments[:2] != ["rm", "sound"]:
            code, listed = run("runs", f"--results={results}")
            assert code == 0 and "sound" in listed and "complete" in listed, listed
            assert run("evaluate", "sound", f"--results={results}")[0] == 0


# What may not be touched


def import_all_of(arguments, folder, stored):
    """Import what the command imports late, and a usage error: nobody may not read a package in a folder of root's."""
    with tempfile.TemporaryDirectory() as other:
        shutil.copytree(stored, other, dirs_exist_ok=True)
        for given_arguments in ([each.replace(str(folder), other) for each in arguments], ["runs", "--nosuch"]):
            CliRunner().invoke(app, given_arguments)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
@pytest.mark.timeout(7200)
@cases(0.2)
@given(st.data())
def test_any_permission_denied_is_one_message(stored, data):
    with tempfile.TemporaryDirectory(prefix="mtlib-case-") as name:
        folder = Path(name)
        shutil.copytree(stored, folder, dirs_exist_ok=True)
        _give_away(folder)
        known = [folder / "corpus", folder / "encoder", folder / "results", folder / "results" / "runs", folder]
        victim = data.draw(st.sampled_from(known) | st.sampled_from(sorted(folder.rglob("*"))))
        mode = data.draw(st.sampled_from([0, 0o400, 0o444, 0o500, 0o555, 0o111, 0o600]))
        owner = data.draw(st.sampled_from([0, NOBODY]))
        arguments, _ = command(data, folder / "results")
        if data.draw(st.booleans()):
            arguments = data.draw(
                st.sampled_from([["data", "check", str(folder / "corpus"), "--encoder=tiny"], arguments])
            )
        os.chown(victim, owner, owner)
        victim.chmod(mode)
        here = data.draw(st.sampled_from([folder, victim, Path("/"), Path("/root")]))

        def work():
            import_all_of(arguments, folder, stored)
            with contextlib.suppress(OSError):
                os.chdir(here)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            run(*arguments)

        try:
            assert fork(work) == 0, (victim, oct(mode), owner, arguments, here)
        finally:
            if victim.exists():  # some commands remove it
                victim.chmod(0o700)


def _give_away(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o755 if path.is_dir() else 0o644)

"""The pipeline on a real Slurm of one node, and a killed scheduler that leaves its cluster job running."""

import importlib.util
import json
import os
import shutil
import subprocess

import pytest
from pipelines import ROOT, pipeline, project, tables, write_preset
from test_pipeline_faults import FIRST, by_hand, killed, started, until

START = ROOT / "profiles" / "slurm" / "start.sh"
MISSING = [name for name in ("munged", "slurmctld", "slurmd") if not shutil.which(name)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(MISSING) or os.getuid() != 0, reason=f"needs root and Slurm's {', '.join(MISSING)}"),
    pytest.mark.skipif(
        importlib.util.find_spec("snakemake_executor_plugin_slurm") is None, reason="needs the extra `slurm`"
    ),
]


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory):
    """A Slurm that is started for these tests and stopped after them."""
    folder = tmp_path_factory.mktemp("slurm")
    said = subprocess.run([START, folder], capture_output=True, text=True, check=True).stdout
    os.environ["SLURM_CONF"] = said.rpartition("SLURM_CONF=")[2].strip()
    yield
    subprocess.run([START, folder, "stop"], check=True)
    del os.environ["SLURM_CONF"]


def test_jobs_run_on_slurm_and_give_the_tables_of_this_machine(tmp_path):
    folder, alone = project(tmp_path / "p"), project(tmp_path / "alone")
    done = pipeline(folder, "run", FIRST, profile="slurm")
    log = (folder / ".snakemake" / "log" / "mine-sample.log").read_text()
    assert log.count("has been submitted with SLURM jobid") == 2 and done.stderr == ""
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[:2]] == ["job 1 of 2", "job 2 of 2"]
    assert tables(folder) == by_hand(alone) != {}


def test_a_restart_never_lets_a_second_writer_into_a_run_that_a_cluster_job_still_trains(tmp_path):
    folder, alone = project(tmp_path / "p"), project(tmp_path / "alone")
    for each in (folder, alone):
        write_preset(each, dial=0.029, experiment__max_tokens=128)
    process = started(folder, FIRST, profile="slurm")
    holder = list(folder.glob("results/runs/*/lock.holder"))
    until(lambda: holder or holder.extend(folder.glob("results/runs/*/lock.holder")), "a job that trains")
    first = holder[0].read_text()
    killed(process)
    second = pipeline(folder, "resume", FIRST, profile="slurm", code=None)
    logs = "".join(log.read_text() for log in folder.glob(".snakemake/slurm_logs/rule_train_*/**/*.log"))
    if holder[0].exists():
        assert holder[0].read_text() == first, "a second process has taken the run"
    assert second.returncode == 0 or "held by process" in logs
    until(lambda: not list(folder.glob("results/runs/*/lock.holder")), "the first job to end")
    assert json.loads((holder[0].parent / "status.json").read_text())["pid"] == json.loads(first)["pid"]
    pipeline(folder, "resume", FIRST, profile="slurm")
    assert tables(folder) == by_hand(alone) != {}

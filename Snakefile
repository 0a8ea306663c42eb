"""The pipeline: the jobs of a plan, which train runs, then one a notebook.

`make run` reads the plan from the notebooks, writes it, and starts this file with its path; see profiles/ for where
and how wide it runs.
"""

import json
import os
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from mtlib.errors import MtlibError
from mtlib.workbook import gallery, pipeline, watch

if "plan" not in config:
    raise WorkflowError("expected --config plan=FILE: start the pipeline with `make run` or `mtlib pipeline run`")
(written,) = config["plan"]  # a list, so that Snakemake takes the path for what it is, whatever characters it has
PLAN = json.loads(Path(written).read_text())
JOBS, STAGES = PLAN["jobs"], PLAN["stages"]
RESULTS, NAME = PLAN["results"], PLAN["name"]
EXECUTED = f"{RESULTS}/notebooks/{NAME}/{{}}.ipynb"
THREADS = int(config.get("threads", 2))
JOB = "export MTLIB_SCHEDULER=$PPID MTLIB_PROGRESS=lines; exec python -m mtlib "
WHERE = " --results {params.results:q}"

if watch.EVENTS in os.environ and workflow.is_main_process:
    logger.addHandler(watch.Events(os.environ[watch.EVENTS]))


rule all:
    input:
        [EXECUTED.format(stage) for stage in STAGES],
    default_target: True


for job, wanted in JOBS.items():

    rule:
        name:
            f"train_{job}"
        input:
            wanted["after"],
        output:
            wanted["done"],
        params:
            experiments=wanted["experiments"],
            corpus=PLAN["corpus"],
            results=RESULTS,
        threads: THREADS
        shell:
            JOB + "train {params.experiments:q} --corpus={params.corpus:q} --done" + WHERE


for stage, shown in STAGES.items():

    rule:
        name:
            f"notebook_{stage}"
        input:
            notebook=shown["notebook"],
            runs=shown["after"],
        output:
            EXECUTED.format(stage),
        params:
            path=shown["notebook"],
            given=lambda _, values=shown["parameters"]: [f"--parameter={each}" for each in values],  # no braces filled in
            results=RESULTS,
            figures=PLAN["figures"],
            content=PLAN["content"],
            code=PLAN["code"],
            basis=PLAN["basis"],
        threads: THREADS
        shell:
            JOB + "run --path={params.path:q} {params.given:q} --figures={params.figures:q}" + WHERE


rule collect:
    input:
        executed=EXECUTED.format("{stage}"),
        runs=lambda w: STAGES[w.stage]["after"],
    output:
        report(
            directory(f"{RESULTS}/report/{NAME}/{{stage}}"),
            patterns=["{name}.png", "{name}.html"],
            caption="profiles/provenance.rst",
            category="{stage}",
            labels={"name": "{name}"},
        ),
    params:
        about=lambda w: gallery.provenance(EXECUTED.format(w.stage), STAGES[w.stage]["after"], RESULTS),
    threads: 1
    shell:
        JOB + "collect {input.executed:q} {output:q}"


rule gallery:
    input:
        [f"{RESULTS}/report/{NAME}/{stage}" for stage in STAGES],


onstart:
    global held
    held = pipeline.lock()
    try:
        held.__enter__()
    except MtlibError as error:
        raise WorkflowError(str(error)) from None

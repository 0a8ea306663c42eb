"""The pipeline: one job a training run, then one a notebook, which gathers the runs it shows.

Started by `make run`, which sets preset, corpus and threads; see profiles/ for where and how wide it runs.
"""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from mtlib import gallery, pipeline
from mtlib.config import label
from mtlib.errors import MtlibError
from mtlib.study.plan import Plan

PRESET = config.get("preset", "tour")
CORPUS = config.get("corpus", "sample")
RESULTS = config.get("results", "results")
NAME = label(PRESET, CORPUS)
EXECUTED = f"{RESULTS}/notebooks/{NAME}/{{}}.ipynb"
MARKER = f"{RESULTS}/points/{NAME}/{{}}.json"
SWEEP = f"{RESULTS}/tables/{NAME}/sweep.csv"
FIGURES = f"{config.get('figures', 'figures')}/{NAME}"
THREADS = int(config.get("threads", 2))
CODE, DATA_CODE = pipeline.fingerprint(), pipeline.fingerprint("data")
CORPUS_FILES = sorted(map(str, Path(CORPUS).glob("*.csv")))
JOB = "export MTLIB_SCHEDULER=$PPID MTLIB_PROGRESS=lines; exec python -m mtlib "

try:
    PLAN = Plan(PRESET)
except MtlibError as error:
    raise WorkflowError(str(error)) from None


def markers(names):
    """The files that say that the points of these names are trained."""
    return [MARKER.format(name) for name in names]


rule all:
    input:
        [SWEEP] if PLAN.sweep else [EXECUTED.format(stage) for stage in PLAN.stages],
    default_target: True


rule point:
    input:
        corpus=CORPUS_FILES,
        after=lambda w: markers(PLAN.points[w.point].after),
    output:
        MARKER.format("{point}"),
    wildcard_constraints:
        point="|".join(map(re.escape, PLAN.points)),
    params:
        run=lambda w: PLAN.points[w.point].text,
        preset=PRESET,
        corpus=CORPUS,
        results=RESULTS,
        reader=DATA_CODE,
    threads: THREADS
    shell:
        JOB + "point {wildcards.point:q} --preset {params.preset:q} --corpus {params.corpus:q} --results {params.results:q}"


if PLAN.sweep:

    rule sweep:
        input:
            points=markers(PLAN.points),
        output:
            SWEEP,
        params:
            file=PRESET,
            corpus=CORPUS,
            results=RESULTS,
            figures=config.get("figures", "figures"),
            reads=PLAN.sweep.model_dump_json(),
            code=CODE,
        threads: THREADS
        shell:
            JOB + "sweep {params.file:q} --gather --corpus {params.corpus:q}"
            " --results {params.results:q} --figures {params.figures:q}"


for stage, shown in PLAN.stages.items():

    rule:
        name:
            stage
        input:
            notebook=f"notebooks/{stage}.ipynb",
            corpus=CORPUS_FILES,
            points=markers(shown),
        output:
            EXECUTED.format(stage),
        params:
            stage=stage,
            preset=PRESET,
            corpus=CORPUS,
            results=RESULTS,
            figures=FIGURES,
            reads=PLAN.reads(stage),
            code=CODE,
        threads: THREADS
        shell:
            JOB + "run {params.stage} --results {params.results:q}"
            " -p preset={params.preset:q} -p corpus={params.corpus:q} -p figures={params.figures:q}"


rule collect:
    input:
        executed=EXECUTED.format("{stage}"),
        points=lambda w: markers(PLAN.stages[w.stage]),
    output:
        report(
            directory(f"{RESULTS}/report/{NAME}/{{stage}}"),
            patterns=["{name}.png", "{name}.html"],
            caption="profiles/provenance.rst",
            category="{stage}",
            labels={"name": "{name}"},
        ),
    params:
        about=lambda w: gallery.provenance(
            EXECUTED.format(w.stage), markers(PLAN.stages[w.stage] or list(PLAN.points)[:1]), RESULTS
        ),
    threads: 1
    shell:
        JOB + "collect {input.executed:q} {output:q}"


rule gallery:
    input:
        [f"{RESULTS}/report/{NAME}/{stage}" for stage in PLAN.stages],


onstart:
    global held
    held = pipeline.lock()
    try:
        held.__enter__()
    except MtlibError as error:
        raise WorkflowError(str(error)) from None


onsuccess:
    told = Path(SWEEP).parent if PLAN.sweep else Path(EXECUTED).parent
    print(f"done: see {told}; figures in {FIGURES}, runs in {RESULTS}/runs", flush=True)


onerror:
    failed = sorted(Path(EXECUTED).parent.glob("*.failed.ipynb"))
    print("failed: " + (", ".join(map(str, failed)) or f"see {log}"), flush=True)
    again = f"mtlib sweep {PRESET} --resume" if PLAN.sweep else "make resume"
    print(f"`{again}` goes on from here, redoing only what is missing.", flush=True)

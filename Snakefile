"""The pipeline: one rule a notebook, in the order in which they read each other's results.

Started by `make run`, which sets preset, corpus and threads; see profiles/ for where and how wide it runs.
"""

import sys
from pathlib import Path

from mtlib.notebooks import label

# Each stage and the stages whose results it reads. A notebook becomes part of the pipeline by a line here.
STAGES = {
    "00_data": [],
    "01_baseline": ["00_data"],
    "02_annealing": ["01_baseline"],
    "03_smart": ["01_baseline", "02_annealing"],
    "04_mnrl": ["03_smart"],
    "05_bppo": ["04_mnrl"],
    "06_ensemble": ["02_annealing", "03_smart", "05_bppo"],
    "07_tsne": ["04_mnrl"],
    "08_confusion": ["06_ensemble"],
}

PRESET = config.get("preset", "tour")
CORPUS = config.get("corpus", "sample")
RESULTS = config.get("results", "results")
NAME = label(PRESET, CORPUS)
EXECUTED = f"{RESULTS}/notebooks/{NAME}/{{}}.ipynb"
FIGURES = f"{config.get('figures', 'figures')}/{NAME}"

print(f"pipeline: preset {PRESET}, corpus {CORPUS}, notebooks in {Path(EXECUTED).parent}", file=sys.stderr)


rule all:
    input:
        [EXECUTED.format(stage) for stage in STAGES],
    default_target: True


for stage, before in STAGES.items():

    rule:
        name:
            stage
        input:
            notebook=f"notebooks/{stage}.ipynb",
            preset=PRESET if PRESET.endswith((".yaml", ".yml")) else f"presets/{PRESET}.yaml",
            corpus=sorted(map(str, Path(CORPUS).glob("*.csv"))),
            before=[EXECUTED.format(other) for other in before],
        output:
            EXECUTED.format(stage),
        params:
            stage=stage,
            preset=PRESET,
            corpus=CORPUS,
            results=RESULTS,
            figures=FIGURES,
        threads: int(config.get("threads", 2))
        shell:
            "exec python -m mtlib run {params.stage} --results {params.results:q}"
            " -p preset={params.preset:q} -p corpus={params.corpus:q} -p figures={params.figures:q}"


onsuccess:
    print(f"done: notebooks in {Path(EXECUTED).parent}, figures in {FIGURES}, runs in {RESULTS}/runs", flush=True)


onerror:
    failed = sorted(Path(EXECUTED).parent.glob("*.failed.ipynb"))
    print("failed: " + (", ".join(map(str, failed)) or f"see {log}"), flush=True)
    print("`make resume` goes on from here, redoing only what is missing.", flush=True)

"""Wall-clock minutes on two CPU cores to a dev mean of .74 with MiniLM: an attempt at the leaderboard's second table.

Each seed is a process of its own, alone on the machine. Its clock runs from the process's start to its end, so
everything is in it: imports, reading and tokenizing the corpus, training, and scoring all of dev, once. Test sentences
are left out. An attempt is kept only if three seeds or more were tried and all of them reach the score; its time is
that of the slowest.

    python benchmarks/speedrun.py --corpus FOLDER [--seeds 0 1 2] [--threads 2]

To try another recipe, change RECIPE. It may be chosen on dev, but at other seeds than those of the record: what is
measured here is speed, and a score that dev has chosen is no estimate.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import pandas as pd

TARGET, SEEDS = 0.74, 3
ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "results" / "reference" / "speedrun-data" / "table_speedrun.csv"
RECIPE = {
    "epochs": 1,
    "steps_per_epoch": 2200,
    "learning_rate": 1.5e-4,
    "warmup": 0.05,
    "schedule": "linear",
    "sampler": "round_robin",
    "phrases": 0.4,
    "penalties": [{"kind": "smart", "weight": 0.0}],  # costs nothing, and leaves dropout out
    "dev_limit": None,
}
"""What differs from preset `laptop`."""
SCORES = ("mean", "sst", "qqp", "sts")


def trained(corpus: str, seed: int, threads: int) -> dict[str, float]:
    """Scores on all of dev of one run at `seed`, in a folder that is new."""
    import torch

    import mtlib

    torch.set_num_threads(threads)
    whole = mtlib.load_corpus(corpus)
    data = replace(whole, splits={name: replace(splits, test=None) for name, splits in whole.items()})
    with tempfile.TemporaryDirectory() as folder:
        run = mtlib.fit(mtlib.experiment("laptop", seed=seed, **RECIPE), data, folder, progress="none")
        return {name: run.last_scores[name] for name in SCORES}


def attempt(corpus: str, seeds: list[int], threads: int) -> pd.DataFrame:
    """One row a seed: minutes of its process, and its scores."""
    rows = []
    for seed in seeds:
        command = [sys.executable, __file__, "--corpus", corpus, "--threads", str(threads), "--one", str(seed)]
        begun = time.monotonic()
        answer = subprocess.run(
            command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=subprocess.PIPE, check=True, text=True
        )
        minutes = (time.monotonic() - begun) / 60
        rows.append({"seed": seed, "minutes": minutes} | json.loads(answer.stdout.splitlines()[-1]))
        print(pd.DataFrame(rows[-1:]).round(4).to_string(index=False, header=len(rows) == 1), flush=True)
    return pd.DataFrame(rows)


def record(found: pd.DataFrame, threads: int) -> dict:
    """The attempt as a row of the table."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(command, capture_output=True, text=True)
    means = {name: found[name].mean() for name in SCORES}
    return {
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "processor": processor(),
        "threads": threads,
        "seeds": len(found),
        "steps": RECIPE["epochs"] * RECIPE["steps_per_epoch"],
        "minutes": found["minutes"].max(),
        "fastest seed": found["minutes"].min(),
        "lowest mean": found["mean"].min(),
        **means,
    }


def processor() -> str:
    """What the processor calls itself."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> int:
    """Run the seeds one after the other; keep the attempt if three or more all reach the score, else exit with 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(trained(options.corpus, options.one, options.threads)))
        return 0
    found = attempt(options.corpus, options.seeds, options.threads)
    if len(found) < SEEDS or found["mean"].min() < TARGET:
        print(f"not kept: {len(found)} seeds, lowest mean {found['mean'].min():.4f}; expected {SEEDS}, {TARGET}")
        return 1
    kept = [pd.read_csv(RECORDS, dtype={"commit": str})] if RECORDS.is_file() else []
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    pd.concat([*kept, pd.DataFrame([record(found, options.threads)])]).to_csv(RECORDS, index=False)
    print(f"{RECORDS}: {found['minutes'].max():.1f} minutes, the slowest of {len(found)} seeds")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Kill tiny runs at random, again and again; however they died, they must come to the uninterrupted run's SHA-256.

    python tests/faults/soak.py --kills 1000 --seed 0

Half of the kills come before a random file-system call, half at a random moment of computing time. A run is killed one
to seven times, then completed and compared. Ends with exit code 1 at the first difference and says how to repeat it.
"""

import argparse
import random
import resource
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from run_helpers import PRETRAINING, SMART_AND_TEACHER, SMART_BALL, at_call, calls, tiny

LARGEST = 7
"""Kills in one run at most."""


def at_moment(seconds: float):
    """Die after `seconds` of computing time, by a signal that nothing handles."""

    def prepare(patch):
        signal.setitimer(signal.ITIMER_PROF, seconds)

    return prepare


class Victim:
    """One experiment, its outcome when nothing happens, and how long that takes."""

    def __init__(self, name: str, folder: Path):
        self.name, self.experiment = name, tiny(name)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.calls = len(calls(self.experiment, folder))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.outcome = self.experiment.outcome(folder)

    def killed(self, folder: Path, draw: random.Random) -> str | None:
        """Train in `folder` until a random kill; how it died, or None if it finished first."""
        if draw.random() < 0.5:
            point = draw.randrange(self.calls)
            how, prepare = f"before file-system call {point}", at_call(point)
        else:
            seconds = draw.uniform(0, self.seconds)
            how, prepare = f"after {seconds:.4f} s", at_moment(seconds)
        minutes = draw.choice([0.0, 0.0, 0.0, 1e9])
        code = self.experiment.child(folder, prepare, minutes=minutes)
        if code > 0:
            raise AssertionError(f"exit code {code} instead of a kill {how}")
        return f"{how}, minutes={minutes:g}" if code else None


def soak(kills: int, seed: int, report=print) -> tuple[int, int]:
    """Kill until there were `kills` kills: their number and the number of runs. Raises AssertionError."""
    draw, done, runs = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory(prefix="soak-") as root:
        names = (SMART_AND_TEACHER, SMART_BALL, PRETRAINING)
        victims = [Victim(name, Path(root) / name.replace(" ", "-")) for name in names]
        while done < kills:
            victim, history = draw.choice(victims), []
            with tempfile.TemporaryDirectory(dir=root) as place:
                folder = Path(place)
                for _ in range(min(draw.randint(1, LARGEST), kills - done)):
                    history.append(victim.killed(folder, draw))
                    if history[-1] is None:
                        break
                code = victim.experiment.child(folder)
                deaths = [how for how in history if how]
                same = (
                    code == 0 and ((folder / "state").is_file() and victim.experiment.outcome(folder)) == victim.outcome
                )
                if not same:
                    raise AssertionError(
                        f"seed {seed}, run {runs}, {victim.name}, exit code {code}: {'; '.join(deaths)}"
                    )
            done, runs = done + len(deaths), runs + 1
            if runs % 10 == 0:
                report(f"{done} kills in {runs} runs, every one the same", flush=True)
    return done, runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        done, runs = soak(options.kills, options.seed)
    except AssertionError as error:
        sys.exit(f"not the same: {error}")
    print(f"{done} kills in {runs} runs: every run came to the bits of the uninterrupted one")

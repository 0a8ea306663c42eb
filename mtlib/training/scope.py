"""The scope of exact resume: where a run that continues has the bits of an uninterrupted one."""

from mtlib.errors import CheckpointError
from mtlib.training.runs import Run

SCOPE = ("torch", "transformers", "tokenizers", "numpy", "device", "precision", "fast", "threads", "world_size")
"""Entries of environment.json that have to be the same."""


def continued(run: Run, here: dict[str, object], inexact: bool) -> dict[str, object]:
    """What environment.json records of a run that continues in the environment `here`.

    Raises CheckpointError with the differences where its bits cannot be promised, unless `inexact`.
    """
    before = run.read("environment.json")
    changed = {key: [before.get(key), here[key]] for key in SCOPE if before.get(key) != here[key]}
    if changed and not inexact:
        listed = "; ".join(f"{key} was {old}, is {new}" for key, (old, new) in changed.items())
        raise CheckpointError(
            f"{run.path}: continuing would not give the bits of an uninterrupted run: {listed}. "
            "Restore these, or continue with allow_inexact (--allow-inexact)"
        )
    return {**here, "inexact": [*before.get("inexact", []), *([changed] if changed else [])]}

"""What a result may depend on besides its configuration, as environment.json holds it."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from mtlib import fast

PACKAGES = ("mtlib", "torch", "transformers", "tokenizers", "accelerate", "numpy", "pandas", "scikit-learn")


def environment(device: torch.device, precision: str, world_size: int = 1) -> dict[str, object]:
    """What a result may depend on besides its configuration: versions, device, threads, processes, commit."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "precision": precision,
        "fast": fast.enabled(device),
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "system": platform.platform(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of mtlib's own checkout; None where it is installed, be it in another one, or there is no git."""
    root = Path(__file__).resolve().parents[2]
    asked = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    except OSError:
        return None
    top, _, commit = answer.stdout.strip().rpartition("\n")
    return commit if answer.returncode == 0 and Path(top).resolve() == root else None

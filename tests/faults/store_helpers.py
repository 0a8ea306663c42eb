"""What the tests of the atomic store share: tiny checkpoints, forked children, forgeries."""

import os
import traceback
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

from mtlib.errors import MtlibError
from mtlib.training import checkpoints, files
from mtlib.training.checkpoints import Checkpoint, CheckpointStore

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

NAMES = ["manifest.json", "state.json", "tensors.safetensors"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def content(step: int) -> tuple[dict, dict]:
    tensors = {"weight": torch.tensor([step + 0.5, float("nan"), -0.0]), "count": torch.tensor(step)}
    return tensors, {"epoch": step, "best": float("-inf"), "history": [0.1 + 0.2, step]}


def same(checkpoint: Checkpoint | None, step: int) -> bool:
    tensors, state = content(step)
    return (
        checkpoint is not None
        and checkpoint.step == step
        and checkpoint.state == state
        and checkpoint.tensors.keys() == tensors.keys()
        and all(bits(checkpoint.tensors[name]) == bits(tensor) for name, tensor in tensors.items())
    )


def bits(tensor: torch.Tensor) -> tuple:
    return tensor.dtype, tensor.shape, bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())


def store_of(folder: Path, *steps: int, keep: int = 2) -> CheckpointStore:
    store = CheckpointStore(folder, keep=keep)
    for step in steps:
        store.save(step, *content(step))
    return store


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".tmp-")]


def quiet_latest(store: CheckpointStore) -> Checkpoint | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return store.latest()


def falls_back(store: CheckpointStore, step: int, match: str = "") -> None:
    """Assert that the newest checkpoint is set aside with one warning and that of `step` is used."""
    newest = max(path.name for path in store.folder.glob("step-*"))
    with pytest.warns(UserWarning, match=match):
        assert same(store.latest(), step)
    assert not (store.folder / newest).exists() and os.path.lexists(store.folder / f"quarantine-{newest}")


def reseal(folder: Path, **changed: bytes) -> None:
    """Replace files of a checkpoint and write the manifest that a forger with the source code would write."""
    data = {name: (folder / name).read_bytes() for name in ("tensors.safetensors", "state.json")}
    data |= {{"tensors": "tensors.safetensors", "state": "state.json"}[key]: value for key, value in changed.items()}
    for name, value in data.items():
        (folder / name).write_bytes(value)
    step = int(folder.name.split("-")[1])
    (folder / "manifest.json").write_bytes(checkpoints._encode_manifest(step, data))


def fork(work) -> int:
    """Run `work` in a forked child: its exit code, or minus the signal that ended it."""
    if (process := os.fork()) == 0:
        code = 99
        try:
            torch.set_num_threads(1)
            work()
            code = 0
        except MtlibError as error:
            code = error.exit_code
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def on_each_call(patch, act, note=lambda name, target: None) -> None:
    """Call `act(number, descriptor or None)` before every system call that a save makes, numbered from 0.

    `note(name, first argument)` is told which call it is.
    """
    count = iter(range(10**6))

    def hook(module, name, function):
        def replacement(*arguments, **options):
            descriptor = arguments[0] if name == "fsync" else None
            note(name, arguments[0] if arguments else None)
            act(next(count), descriptor)
            return function(*arguments, **options)

        patch.setattr(module, name, replacement, raising=False)

    for name in ("mkdir", "fsync", "rename", "unlink", "rmdir"):
        hook(os, name, getattr(os, name))
    hook(files, "open", open)

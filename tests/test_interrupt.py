"""A cell that trains is interrupted in a real kernel: what it says, and that running it again continues."""

import queue
import time

import pytest
from pipelines import ROOT, environment

SETUP = """
import time

import mtlib
from mtlib.training.loop import Training

step = Training._step
def slow(self, number):
    time.sleep(0.05)
    step(self, number)
Training._step = slow
"""

CELL = """
corpus = mtlib.load_corpus("sample")
experiment = mtlib.experiment("smoke", epochs=2, steps_per_epoch=STEPS, dev_limit=20)
run = mtlib.fit(experiment, corpus, RESULTS)
print(run.status)
"""


@pytest.fixture
def kernel():
    """A started kernel's client."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(cwd=str(ROOT), env=environment())
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def executed(kernel, source: str, interrupt_when=None) -> tuple[list[dict], str]:
    """Outputs of a cell and its status; the kernel is interrupted as soon as `interrupt_when()` holds."""
    manager, client = kernel
    asked = client.execute(source)
    outputs, deadline = [], time.monotonic() + 400
    while time.monotonic() < deadline:
        if interrupt_when and interrupt_when(outputs):
            manager.interrupt_kernel()
            interrupt_when = None
        try:
            message = client.get_iopub_msg(timeout=0.1)
        except queue.Empty:
            continue
        if message["parent_header"].get("msg_id") != asked:
            continue
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            break
        outputs.append({"type": message["msg_type"], **message["content"]})
    while (reply := client.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != asked:
        pass
    return outputs, reply["content"]["status"]


@pytest.mark.timeout(900)
def test_an_interrupted_cell_says_at_which_step_and_continues_when_it_is_run_again(kernel, tmp_path):
    cell = CELL.replace("STEPS", "18").replace("RESULTS", repr(str(tmp_path)))
    executed(kernel, SETUP)
    outputs, status = executed(kernel, cell, lambda _: list(tmp_path.glob("runs/*/history.csv")))
    (error,) = [output for output in outputs if output["type"] == "error"]
    (shown,) = error["traceback"]
    first, _, second = shown.partition(", saved")
    words = first.split()
    assert status == "error" and second == ". Run the cell again to continue."
    assert words[:3] == ["Stopped", "at", "step"] and words[4:] == ["of", "36"] and 18 <= int(words[3]) < 36
    outputs, status = executed(kernel, cell)
    said = "".join(output.get("text", "") for output in outputs)
    assert status == "ok" and f"continues from step {words[3]} of 36" in said and said.endswith("complete\n")

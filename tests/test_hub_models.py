"""Models to and from the Hub: huggingface_hub's own client against a small Hub on this machine."""

import os
import re
import subprocess
import sys

import numpy as np
from hub_server import TOKEN, Hub
from test_model import TASKS, make

from mtlib.model import MultitaskModel
from mtlib.study.model_card import card_text

ALL_WELL = """
from pathlib import Path
from mtlib.model import MultitaskModel

card = Path("card.md").read_text()
first = MultitaskModel.from_pretrained("model").push_to_hub("me/my-model", card=card)
second = MultitaskModel.from_pretrained("other").push_to_hub("me/my-model", card=card)
MultitaskModel.from_pretrained("me/my-model").save_pretrained("back-other")
MultitaskModel.from_pretrained("me/my-model", revision=first.rpartition("/")[2]).save_pretrained("back")
print(first, second)
"""
REFUSED = """
import os
from mtlib.errors import MtlibError
from mtlib.model import MultitaskModel

model = MultitaskModel.from_pretrained("model")
for ask in (
    lambda: model.push_to_hub("me/other-model"),
    lambda: model.push_to_hub("no-user"),
    lambda: MultitaskModel.from_pretrained("me/nothing"),
    lambda: MultitaskModel.from_pretrained("me/my-model"),
):
    try:
        ask()
    except MtlibError as error:
        print(f"{type(error).__name__} {error.exit_code}: {error}")
"""


def python(hub, folder, code, token=TOKEN):
    """What a program prints in `folder` that knows the Hub by its environment alone."""
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HOME": f"{folder}/cache-{token}"}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    line = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_models_that_are_pushed_come_back_and_what_cannot_be_is_one_line(run, tmp_path):
    first, second = make(), make(seed=3)
    first.temperatures = {"sst": 2.0}
    first.save_pretrained(tmp_path / "model")
    second.save_pretrained(tmp_path / "other")
    (tmp_path / "card.md").write_text(card_text(run, "me/my-model"))
    with Hub() as hub:
        addresses = python(hub, tmp_path, ALL_WELL).split()
        repository = hub.repositories["me/my-model"]
        _, (one, files), (two, _) = repository["commits"]
        assert addresses == [f"{hub.url}/me/my-model/commit/{identity}" for identity in (one, two)]
        assert repository["visibility"] == "private", "unless told"
        hub.damaged = {"heads.safetensors"}
        refused = python(hub, tmp_path, REFUSED, token="of_a_stranger").splitlines()
    assert files["README.md"].decode() == (tmp_path / "card.md").read_text()
    assert 'from_pretrained("me/my-model")' in files["README.md"].decode()
    assert {"config.json", "model.safetensors", "heads.safetensors", "multitask.json", "modules.json"} <= files.keys()
    assert not any(path.endswith((".bin", ".pt", ".pkl")) for path in files)
    for model, name in ((first, "back"), (second, "back-other")):
        back = MultitaskModel.from_pretrained(tmp_path / name)
        np.testing.assert_array_equal(back.embed(["red cat"]), model.embed(["red cat"]))
        assert back.predict("sst", "red cat").equals(model.predict("sst", "red cat"))
        assert (back.tasks, back.tasks[0].names, back.temperatures) == (TASKS, TASKS[0].names, model.temperatures)
    expected = ["StorageError 74: .*401", "ConfigurationError 64: .*'no-user'", "StorageError 74: .*'me/nothing'"]
    expected.append("CheckpointError 66: .*heads.safetensors: changed since it was written")
    assert len(refused) == 4
    for line, pattern in zip(refused, expected, strict=True):
        assert re.match(pattern, line), line

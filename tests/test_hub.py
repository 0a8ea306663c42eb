"""The Hub source with a stand-in for `datasets`: pinned revisions, unlabelled tests, retries, damaged caches."""

import sys
from types import SimpleNamespace

import pytest

from mtlib.data import hub
from mtlib.data.corpus import load_corpus
from mtlib.errors import ConfigurationError, DataError, StorageError
from mtlib.tasks import QQP, SST, STS, Task

ROWS = {"train": 6, "validation": 3, "test": 3}
LABELS = {"sst": lambda i: i % 5, "qqp": lambda i: i % 2, "sts": lambda i: i * 0.8}


class FakeSplit(dict):
    """Columns of a split, with the cache files that `datasets` reports."""

    cache_files = ()

    def __len__(self):
        return len(self["label"])


class FakeDatasets(SimpleNamespace):
    """`datasets.load_dataset` over a few rows; `failures` are raised, or spoil what is returned, first."""

    def __init__(self):
        super().__init__(calls=[], failures=[])

    def load_dataset(self, dataset, config, **options):
        self.calls.append((dataset, config, options))
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, Exception):
            raise failure
        task, source = next((name, s) for name, s in hub.SOURCES.items() if (s.dataset, s.config) == (dataset, config))
        stored = {split: self.split(task, source, split, rows) for split, rows in ROWS.items()}
        if failure:
            failure(stored)
        return stored

    def split(self, task, source, split, rows):
        hidden = split == "test" and task != "sst"
        columns = {column: [f"{split} {column} {i}" for i in range(rows)] for column in source.columns}
        made = FakeSplit(columns, label=[-1 if hidden else LABELS[task](i) for i in range(rows)])
        made.cache_files = [{"filename": f"/cache/{dataset_folder(source)}/0.0.0/{source.revision}/{split}.arrow"}]
        return made


def dataset_folder(source):
    return source.dataset.replace("/", "___")


@pytest.fixture
def datasets(monkeypatch):
    fake = FakeDatasets()
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr(hub.time, "sleep", lambda seconds: fake.calls.append(seconds))
    small = {name: hub.Source(s.dataset, s.config, s.revision, s.columns, ROWS) for name, s in hub.SOURCES.items()}
    monkeypatch.setattr(hub, "SOURCES", small)
    return fake


def test_the_three_tasks_come_from_pinned_revisions(datasets):
    corpus = load_corpus("hub", allow_rare=True)
    assert [call[:2] for call in datasets.calls] == [
        ("SetFit/sst5", None),
        ("nyu-mll/glue", "qqp"),
        ("nyu-mll/glue", "stsb"),
    ]
    assert all(len(options["revision"]) == 40 for _, _, options in datasets.calls)
    assert corpus.name == "hub" and list(corpus) == ["sst", "qqp", "sts"]
    assert list(corpus["qqp"].dev) == ["id", "text_a", "text_b", "label"]
    assert corpus["qqp"].dev["text_b"].tolist() == [f"validation question2 {i}" for i in range(3)]
    assert corpus["sts"].train["label"].dtype == "float64"


def test_a_test_labelled_minus_one_is_unlabelled(datasets):
    corpus = load_corpus("hub", allow_rare=True)
    assert "label" in corpus["sst"].test
    assert "label" not in corpus["qqp"].test and "label" not in corpus["sts"].test


def test_a_label_out_of_range_names_the_row(datasets):
    datasets.failures = [lambda stored: stored["train"]["label"].__setitem__(4, 9)]
    with pytest.raises(DataError, match=r"SetFit/sst5 train, row 4, .*integer from 0 to 4, found 9"):
        hub.load(SST)


def test_rows_without_text_are_dropped_with_a_warning(datasets):
    datasets.failures = [None, lambda stored: stored["train"]["question2"].__setitem__(1, "")]
    with pytest.warns(UserWarning, match=r"nyu-mll/glue qqp train: dropped 1 row\(s\) with an empty text"):
        corpus = load_corpus("hub", allow_rare=True)
    assert corpus["qqp"].train["id"].tolist() == [f"train-{i}" for i in (0, 2, 3, 4, 5)]


def test_a_hub_out_of_reach_is_tried_a_bounded_number_of_times_then_is_a_storage_error(datasets):
    datasets.failures = [ConnectionError("no route\nto host")] * 99
    said = "nyu-mll/glue@bcdcba79: the Hub is out of reach: no route; .* CORPUS=FOLDER"
    with pytest.raises(StorageError, match=said) as caught:
        hub.load(STS)
    assert caught.value.exit_code == 74
    waits = [call for call in datasets.calls if isinstance(call, float)]
    assert len(datasets.calls) - len(waits) == hub.ATTEMPTS and waits == [2.0, 4.0]


def test_a_hub_that_comes_back_is_used(datasets):
    datasets.failures = [ConnectionError("busy")]
    assert len(hub.load(STS)[0]["train"]) == 6


def test_an_older_cached_revision_is_refused(datasets):
    def older(stored):
        stored["dev" if "dev" in stored else "validation"].cache_files = [{"filename": "/cache/glue/0.0.0/abc/d.arrow"}]

    datasets.failures = [older] * 9
    with pytest.raises(StorageError, match="expected the cached revision bcdcba79"):
        hub.load(STS)


@pytest.mark.parametrize(
    "damage", [lambda stored: stored["train"].update(label=[1.0]), ValueError("Not an Arrow file")]
)
def test_a_damaged_cache_is_fetched_afresh_once(datasets, damage):
    datasets.failures = [damage]
    assert len(hub.load(STS)[0]["train"]) == 6
    assert datasets.calls[-1][2]["download_mode"] == "force_redownload"
    datasets.calls.clear()
    datasets.failures = [damage] * 9
    with pytest.raises(StorageError, match="nyu-mll/glue"):
        hub.load(STS)
    assert len([call for call in datasets.calls if not isinstance(call, float)]) == 2


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(StorageError, match=r"pip install 'mtlib\[hub\]'"):
        hub.load(QQP)


def test_a_task_the_hub_does_not_have_is_refused():
    with pytest.raises(ConfigurationError, match="has the tasks sst, qqp, sts, not nli"):
        load_corpus("hub", [Task("nli", "classification", ("a", "b"), "label", classes=3)])

"""What is timed against each other: mtlib, Hugging Face's Trainer and sentence-transformers on the same pairs.

Every contestant is one function: it gets ready, and returns a function that does one round and returns how many
examples it worked through in how many seconds. Everybody starts from MiniLM, trains batches of 16 with dropout on
and AdamW, and does not store anything. Run as a script, this is one contestant in a process of its own, which does
a round for every line it reads:

    python benchmarks/contestants.py NAME --corpus sample
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack

import torch
import transformers

import mtlib
from mtlib.data.corpus import Corpus, Splits, load_corpus
from mtlib.device import gains_by_bfloat16
from mtlib.packaged import minilm_folder
from mtlib.tasks import QQP
from mtlib.training.distributed import Ranks
from mtlib.training.loop import Training
from mtlib.training.runs import RunStore
from mtlib.training.start import Start

Round = Callable[[], tuple[int, float]]

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds that passed, or processor seconds: with one thread those of an idle machine, whatever else runs beside."""

clock = time.perf_counter

TRAINED, PREDICTED = 4000, 512
"""Pairs to draw training batches from, and pairs predicted in a round."""

WARM, TIMED, BATCH = 3, 12, 16
"""Steps of a round before the clock starts, steps under it, and examples a step."""

FIRST = 60
"""Steps before the first round: every shape of a batch has kernels that are built when it is first met. Peers repeat
the same steps in every round, so the round that is not counted does it for them."""

BFLOAT16 = gains_by_bfloat16(torch.device("cpu"))
"""Whether bfloat16 is a peer's best setting here: elsewhere its products are slower than float32's."""


def pairs_of(name: str) -> Corpus:
    """The first pairs of a corpus's paraphrase task (question pairs), as a corpus."""
    splits = load_corpus(name, ["qqp"])["qqp"]
    train, dev = splits.train.iloc[:TRAINED].reset_index(drop=True), splits.dev.iloc[:PREDICTED].reset_index(drop=True)
    return Corpus("pairs", (QQP,), {"qqp": Splits(train=train, dev=dev, test=None)})


def mtlib_training(corpus: Corpus, held: ExitStack, **changes) -> Training:
    """A training ready for its first step; its run is locked and thrown away in the end."""
    results = held.enter_context(tempfile.TemporaryDirectory())
    settings = {
        "tasks": ("qqp",),
        "penalties": (),
        "epochs": 1,
        "steps_per_epoch": 10_000,
        "batch_size": BATCH,
        **changes,
    }
    experiment, store = mtlib.experiment("tour", **settings), RunStore(results)
    start = Start(experiment, corpus, store)
    run = start.run()
    held.enter_context(run.lock())
    training = Training(start, run, progress="none", minutes=60.0, inexact=False, ranks=Ranks())
    training.prepare()
    return training


def _steps(training: Training, first: int = FIRST) -> Round:
    for _ in range(first):
        training._step(training.done)
        training.done += 1

    def once() -> tuple[int, float]:
        for _ in range(WARM):
            training._step(training.done)
            training.done += 1
        begun = clock()
        for _ in range(TIMED):
            training._step(training.done)
            training.done += 1
        return TIMED * BATCH, clock() - begun

    return once


def mtlib_train(corpus: Corpus, held: ExitStack) -> Round:
    """mtlib's own loop."""
    return _steps(mtlib_training(corpus, held))


def mtlib_train_base(corpus: Corpus, held: ExitStack) -> Round:
    """mtlib's loop on 12 layers of width 768 (BERT-base's configuration, random weights)."""
    folder = held.enter_context(tempfile.TemporaryDirectory())
    transformers.AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).save_pretrained(folder)
    return _steps(mtlib_training(corpus, held, encoder=folder), first=10)


def mtlib_predict(corpus: Corpus, held: ExitStack) -> Round:
    """`MultitaskModel.predict` from texts, tokenization included."""
    model, dev = mtlib_training(corpus, held).model.eval(), corpus["qqp"].dev
    pairs = list(zip(dev["text_a"], dev["text_b"], strict=True))
    return _timed(lambda: model.predict("qqp", pairs), len(pairs))


def _timed(predict: Callable, examples: int) -> Round:
    def once() -> tuple[int, float]:
        begun = clock()
        predict()
        return examples, clock() - begun

    once()
    return once


class StepClock(transformers.TrainerCallback):
    """Seconds from the end of the last warm-up step to the end of the last step, loading of batches included."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == WARM:
            self.begun = clock()
        self.seconds = clock() - getattr(self, "begun", clock())


QUIET = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "use_cpu": True}


def _trainer(corpus: Corpus, held: ExitStack, **arguments) -> transformers.Trainer:
    """A Trainer on pairs that were tokenized before."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_folder())

    def tokenized(frame) -> list[dict]:
        columns = tokenizer(frame["text_a"].tolist(), frame["text_b"].tolist(), truncation=True, max_length=128)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [{**row, "labels": int(label)} for row, label in zip(rows, frame["label"], strict=True)]

    model = transformers.AutoModelForSequenceClassification.from_pretrained(minilm_folder(), num_labels=2)
    return transformers.Trainer(
        model,
        transformers.TrainingArguments(
            held.enter_context(tempfile.TemporaryDirectory()), max_steps=WARM + TIMED, **QUIET, **arguments
        ),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        train_dataset=tokenized(corpus["qqp"].train),
        eval_dataset=tokenized(corpus["qqp"].dev),
    )


def _trained(trainer: transformers.Trainer) -> Round:
    clock = StepClock()
    trainer.add_callback(clock)

    def once() -> tuple[int, float]:
        trainer.train()
        return TIMED * BATCH, clock.seconds

    return once


def trainer_default(corpus: Corpus, held: ExitStack) -> Round:
    """Hugging Face's Trainer as it is, but for the batch size."""
    return _trained(_trainer(corpus, held, per_device_train_batch_size=BATCH))


def trainer_best(corpus: Corpus, held: ExitStack) -> Round:
    """Hugging Face's Trainer in the faster precision, with batches of similar length."""
    best = {"bf16": BFLOAT16, "train_sampling_strategy": "group_by_length"}
    return _trained(_trainer(corpus, held, per_device_train_batch_size=BATCH, **best))


def trainer_predict_default(corpus: Corpus, held: ExitStack) -> Round:
    """`Trainer.predict` as it is; tokenization not counted."""
    trainer = _trainer(corpus, held)
    return _timed(lambda: trainer.predict(trainer.eval_dataset), len(trainer.eval_dataset))


def trainer_predict_best(corpus: Corpus, held: ExitStack) -> Round:
    """`Trainer.predict` in the faster precision, 64 pairs a batch; tokenization not counted."""
    trainer = _trainer(corpus, held, per_device_eval_batch_size=64, bf16=BFLOAT16)
    return _timed(lambda: trainer.predict(trainer.eval_dataset), len(trainer.eval_dataset))


def _cross_encoder(corpus: Corpus, held: ExitStack, **arguments) -> Round:
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    frame = corpus["qqp"].train
    columns = {"a": frame["text_a"].tolist(), "b": frame["text_b"].tolist(), "label": frame["label"].tolist()}
    model = CrossEncoder(str(minilm_folder()), num_labels=1, max_length=128, device="cpu")
    where = held.enter_context(tempfile.TemporaryDirectory())
    given = CrossEncoderTrainingArguments(where, max_steps=WARM + TIMED, **QUIET, **arguments)
    loss = BinaryCrossEntropyLoss(model)
    return _trained(CrossEncoderTrainer(model=model, args=given, train_dataset=Dataset.from_dict(columns), loss=loss))


def cross_encoder_default(corpus: Corpus, held: ExitStack) -> Round:
    """sentence-transformers' CrossEncoderTrainer as it is, but for the batch size."""
    return _cross_encoder(corpus, held, per_device_train_batch_size=BATCH)


def cross_encoder_best(corpus: Corpus, held: ExitStack) -> Round:
    """CrossEncoderTrainer in the faster precision."""
    return _cross_encoder(corpus, held, per_device_train_batch_size=BATCH, bf16=BFLOAT16)


def cross_encoder_predict(corpus: Corpus, held: ExitStack) -> Round:
    """`CrossEncoder.predict` from texts as it is, tokenization included."""
    from sentence_transformers.cross_encoder import CrossEncoder

    dev = corpus["qqp"].dev
    pairs = list(zip(dev["text_a"], dev["text_b"], strict=True))
    model = CrossEncoder(str(minilm_folder()), num_labels=1, max_length=128, device="cpu")
    return _timed(lambda: model.predict(pairs, show_progress_bar=False), len(pairs))


def peak(corpus: Corpus, held: ExitStack) -> Round:
    """The machine's fastest product: "examples" are 10^9 operations, on matrices of 2,048 x 2,048."""
    a = torch.randn(2048, 2048, dtype=torch.bfloat16 if BFLOAT16 else torch.float32)
    return _timed(lambda: [a @ a for _ in range(20)], round(20 * 2 * 2048**3 / 1e9))


CONTESTANTS = {
    function.__name__: function
    for function in (
        mtlib_train,
        trainer_default,
        trainer_best,
        cross_encoder_default,
        cross_encoder_best,
        mtlib_predict,
        trainer_predict_default,
        trainer_predict_best,
        cross_encoder_predict,
        mtlib_train_base,
        peak,
    )
}


def main() -> None:
    """Get one contestant ready, then answer every line read by the figures of a round, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("--corpus", default="sample")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    global clock
    clock = CLOCKS[options.clock]
    transformers.set_seed(0)
    with ExitStack() as held:
        round_once = CONTESTANTS[options.name](pairs_of(options.corpus), held)
        print(json.dumps("ready"), flush=True)
        for _ in sys.stdin:
            examples, seconds = round_once()
            megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
            print(json.dumps({"examples": examples, "seconds": seconds, "megabytes": megabytes}), flush=True)


if __name__ == "__main__":
    main()

"""The first signal asks, the second acts at once."""

import os
import signal
import sys
import threading

import pytest
from store_helpers import fork

from mtlib.training.signals import Interruption


def handlers():
    return signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)


@pytest.fixture(autouse=True)
def usual_handlers():
    """A process that nobody has configured, so that forked children start like a command does."""
    before = handlers()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])


@pytest.mark.parametrize("number, expected", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_first_signal_lets_the_step_finish(tmp_path, number, expected):
    def work():
        with Interruption() as interruption:
            for step in range(10):
                if step == 3:
                    os.kill(os.getpid(), number)
                (tmp_path / str(step)).touch()
                if interruption:
                    sys.exit(interruption.exit_code)

    assert fork(work) == expected and len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second, expected", [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 42)])
def test_second_signal_acts_at_once(first, second, expected):
    def work():
        with Interruption() as interruption:
            os.kill(os.getpid(), first)
            assert interruption
            try:
                os.kill(os.getpid(), second)
            except KeyboardInterrupt:
                sys.exit(42)
            os._exit(98)

    assert fork(work) == expected


def test_handlers_are_put_back():
    before = handlers()
    with Interruption() as interruption:
        assert not interruption and interruption.exit_code == 0 and interruption.signal is None
        assert all(handler not in before for handler in handlers())
    assert handlers() == before
    with pytest.raises(RuntimeError), Interruption():
        raise RuntimeError
    assert handlers() == before


@pytest.mark.parametrize("number, expected", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_first_signal_puts_the_handlers_back(number, expected):
    before = handlers()
    with Interruption() as interruption:
        os.kill(os.getpid(), number)
        assert interruption and interruption.signal == number and interruption.exit_code == expected
        assert handlers() == before
    assert handlers() == before and interruption.exit_code == expected


def test_a_handler_that_python_cannot_name_becomes_the_default(monkeypatch):
    """`signal.signal` returns None for a handler that was installed from C."""
    install = signal.signal
    with monkeypatch.context() as patch:
        patch.setattr(signal, "signal", lambda *arguments: install(*arguments) and None)
        interruption = Interruption().__enter__()
    interruption.__exit__(None, None, None)
    assert handlers() == (signal.SIG_DFL, signal.SIG_DFL)


def test_other_threads_change_nothing():
    seen = []

    def work():
        with Interruption() as interruption:
            seen.append((bool(interruption), handlers()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, handlers())]

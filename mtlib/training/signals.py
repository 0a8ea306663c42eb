"""SIGTERM and SIGINT as a request to stop between optimizer steps."""

import signal
import threading
from typing import Any, cast

CAUGHT = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A training that its user stopped in a notebook: IPython shows the message, and no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Interruption:
    """Within this context the first SIGTERM or SIGINT only asks the loop to stop; the second acts at once.

        with Interruption() as interruption:
            for step in ...:
                ...                        # one optimizer step, or a save: never cut short by the first signal
                if interruption:
                    save(); raise SystemExit(interruption.exit_code)

    The first signal puts the handlers back that were there before, as leaving the context does; so a second Ctrl-C
    raises KeyboardInterrupt and a second SIGTERM ends the process. Python runs handlers in the main thread alone:
    in any other thread this context changes nothing. Not for nesting.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __bool__(self) -> bool:
        """Whether a signal has asked to stop."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + signal, as a shell reports it: 143 for SIGTERM, 130 for SIGINT; 0 without a signal."""
        return 128 + self.signal if self.signal is not None else 0

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in CAUGHT}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _frame: object) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, cast(Any, handler) if handler is not None else signal.SIG_DFL)

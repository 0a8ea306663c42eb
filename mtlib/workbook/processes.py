"""A process that ends with the one that started it."""

import ctypes
import os
import signal
import sys

SCHEDULER = "MTLIB_SCHEDULER"
"""Environment variable of a job: the process that scheduled it, with which it ends."""

PR_SET_PDEATHSIG = 1


def end_with(parent: int, number: int) -> None:
    """Have this process receive signal `number` once when `parent`, which started it, ends (on Linux).

    Linux sends the signal again for each thread of the parent that dies (prctl(2), PR_SET_PDEATHSIG), and a second
    SIGTERM would cut short what the first asked to finish. So the kernel sends SIGUSR2, whose handler hands on one
    `number`; SIGKILL is sent as it is.
    """
    if sys.platform != "linux":
        return

    once = iter([number])

    def hand_on(*_: object) -> None:
        for signum in once:  # taken from the iterator by the first call, even when the second interrupts that one
            os.kill(os.getpid(), signum)

    if number != signal.SIGKILL:
        signal.signal(signal.SIGUSR2, hand_on)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number if number == signal.SIGKILL else signal.SIGUSR2)
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")

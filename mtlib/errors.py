"""Exception types. Each carries the exit code that the `mtlib` command ends with (BSD sysexits)."""

from collections.abc import Iterable


class MtlibError(Exception):
    """A fault with one clear message: what is wrong, where, what was expected and what was found."""

    exit_code = 1


class ConfigurationError(MtlibError):
    """An experiment, a parameter or a command line that cannot be meant."""

    exit_code = 64


class UnknownKindError(ConfigurationError):
    """A task, sampler or penalty that nothing imported here defines."""


class DataError(MtlibError):
    """A corpus file whose content is not what its task needs. `faults` lists every fault that was found."""

    exit_code = 65

    def __init__(self, message: str, faults: Iterable[object] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class CheckpointError(MtlibError):
    """A stored artefact (model, checkpoint, run) that is damaged or belongs to something else."""

    exit_code = 66


class MissingRunError(CheckpointError):
    """Something stored is asked for that was not trained, or not computed, yet."""


class DivergenceError(MtlibError):
    """Training produced a loss or gradient that is not a finite number."""

    exit_code = 70


class StorageError(MtlibError):
    """The disk, a folder or the network refused to read or to write."""

    exit_code = 74


class LockedError(MtlibError):
    """Another process holds the same run."""

    exit_code = 75


class StageError(MtlibError):
    """A notebook stage raised, died or left without finishing."""

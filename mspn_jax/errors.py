"""Every error that a user can meet and mend. The message is one line: what is wrong, where, and
what to do."""


class Error(Exception):
    """The base of them all; commands print it as one line and end with status 1."""


class UsageError(Error, ValueError):
    """The command cannot be carried out as given."""


class LaunchError(Error, ValueError):
    """The processes of a run cannot find one another."""


class DataError(Error, ValueError):
    """Something is wrong with a data set."""


class SkeletonError(Error, ValueError):
    """A skeleton contradicts itself, or a file holds none."""


class CheckpointError(Error, ValueError):
    """A checkpoint is missing, damaged, or of another model."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not what was once written."""


class TorchFileError(Error, ValueError):
    """A file cannot be read as a PyTorch checkpoint."""


class ConversionError(Error, ValueError):
    """A state dict is not an MSPN's, or not wholly."""


class ExportError(Error, ValueError):
    """A file cannot be made, or does not compute what the network does."""


class StorageError(Error):
    """A bucket does not exist, refuses or does not answer."""


class HeldError(Error):
    """Another run has the folder; the message names it."""


class MissingCompilerError(Error):
    """The package that brings the compiler for a device is not installed."""

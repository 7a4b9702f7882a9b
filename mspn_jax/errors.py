"""Errors that a user can mend. The message is one line: what is wrong, where, and what mends it."""


class Error(Exception):
    """Base class. Commands print it as one line and exit with status 1."""


class UsageError(Error, ValueError):
    """The arguments or the config are wrong."""


class LaunchError(Error, ValueError):
    """The processes of a run cannot find one another."""


class DataError(Error, ValueError):
    """A data set is missing, damaged or contradictory."""


class SkeletonError(Error, ValueError):
    """A skeleton contradicts itself, or a file does not hold a skeleton."""


class CheckpointError(Error, ValueError):
    """A checkpoint is missing, damaged, or of another model."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint differs from what was written."""


class TorchFileError(Error, ValueError):
    """A file cannot be read as a PyTorch checkpoint."""


class ConversionError(Error, ValueError):
    """A state dict does not hold exactly the tensors of an MSPN."""


class ExportError(Error, ValueError):
    """An exported file cannot be made, or computes something else than the network."""


class StorageError(Error):
    """A bucket does not exist, refuses access or does not answer."""


class DownloadError(Error):
    """A file cannot be downloaded, or is not the file that was expected."""


class HeldError(Error):
    """Another run uses the folder. The message names that run."""


class MissingCompilerError(Error):
    """The package with a device's compiler is not installed."""


class RequestError(Error):
    """An HTTP request is refused.

    Attributes:
      status: of the response, 400 to 599.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status

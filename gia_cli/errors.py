"""Every error a user can meet: one class, one exit code, and what to do next.

Nothing in the package prints or exits except `cli`: everything else raises one of these.
``tests/test_errors.py`` asserts that no two of them share an exit code.
"""

from __future__ import annotations


class GiaError(Exception):
    """Base of all errors with a message for the user.

    Parameters
    ----------
    message : str
        What is wrong, in one sentence, naming the file or option.
    hint : str, optional
        What to do next. By default the class's own ``hint``.
    """

    exit_code = 1
    hint = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class UsageError(GiaError):
    """Options that contradict each other or make no sense (the shell's usual code 2)."""

    exit_code = 2
    hint = "See the command's --help."


class BatchError(GiaError):
    """Some files of a batch failed; the others were written."""

    exit_code = 3
    hint = "The files that failed are named above; all others are written."


class Interrupted(GiaError):
    """The user pressed Ctrl-C (the shell's usual code 130)."""

    exit_code = 130
    hint = "Finished files are kept, unfinished ones are not written."


class Terminated(Interrupted):
    """SIGTERM: from ``timeout``, a container or a scheduler (the shell's usual code 143)."""

    exit_code = 143


# ---------------------------------------------------------------- the file itself


class RawError(GiaError):
    """A file that cannot be read as a RAW photo, for a reason that has no other code."""

    exit_code = 10


class FileMissingError(RawError):
    """There is no such file."""

    exit_code = 11
    hint = "Check the spelling and the folder."


class NotAFileError(RawError):
    """A folder was given where one photo is needed."""

    exit_code = 12
    hint = "Name a RAW file."


class EmptyFileError(RawError):
    """The file holds no bytes at all."""

    exit_code = 13
    hint = "Copy it from the card again."


class DamagedFileError(RawError):
    """The file is a RAW photo, but cut short or corrupted."""

    exit_code = 14
    hint = "Copy it from the card again; if the card's copy fails too, the photo is lost."


class NotRawError(RawError):
    """The file is something else: a JPEG, a PNG, a text."""

    exit_code = 15
    hint = "gia needs the camera's RAW file (ARW, RAF, CR2, NEF, DNG, ...)."


class MonochromeError(RawError):
    """A sensor without colour filters."""

    exit_code = 16
    hint = "gia's networks need a Bayer or X-Trans colour filter array."


class FoveonError(RawError):
    """A Sigma X3F file: three layers per pixel instead of a colour filter array."""

    exit_code = 17
    hint = "gia's networks need a Bayer or X-Trans colour filter array."


class LinearRawError(RawError):
    """Already demosaiced: a linear DNG, sRAW or mRAW."""

    exit_code = 18
    hint = "Use the original full-size RAW file, before any conversion."


class UnsupportedCompressionError(RawError):
    """A RAW file in a compression that LibRaw cannot decode."""

    exit_code = 19
    hint = "Convert it to a losslessly compressed DNG (Adobe DNG Converter) and try that."


class UnsupportedCfaError(RawError):
    """A colour filter array that is neither Bayer nor X-Trans (Super CCD, CMYG, RGBE, quad)."""

    exit_code = 20
    hint = "gia's networks need a Bayer or X-Trans colour filter array."


class UnreadableFileError(RawError):
    """The file exists but may not be read."""

    exit_code = 21
    hint = "Check its permissions."


# ---------------------------------------------------------------- exposure


class ExposureError(GiaError):
    """The amplification ratio cannot be computed."""

    exit_code = 30
    hint = "Set the amplification with --ratio N."


# ---------------------------------------------------------------- white balance


class WhiteBalanceError(GiaError):
    """The requested white balance cannot be computed for this camera."""

    exit_code = 31
    hint = "Give the gains with --white-balance R,G,B, or use as-shot."


# ---------------------------------------------------------------- sidecars


class SidecarError(GiaError):
    """An XMP sidecar whose settings are to be used, but cannot be read."""

    exit_code = 32
    hint = "Let the program that wrote it write it again, or leave out --use-sidecar."


# ---------------------------------------------------------------- weights


class WeightsError(GiaError):
    """Weights that cannot be used, for a reason that has no other code."""

    exit_code = 40
    hint = "'gia weights list' shows what is there."


class WeightsNotFoundError(WeightsError):
    """No weights of that name or path."""

    exit_code = 41


class WeightsCorruptError(WeightsError):
    """The file's SHA-256 is not the manifest's."""

    exit_code = 42
    hint = "Install gia again; do not use this file."


class WeightsMismatchError(WeightsError):
    """The tensors do not fit the network that the configuration describes."""

    exit_code = 43


class NoWeightsForCfaError(WeightsError):
    """No weights exist for this photo's colour filter array."""

    exit_code = 44


# ---------------------------------------------------------------- running


class DeviceError(GiaError):
    """The requested device or precision is not available."""

    exit_code = 50
    hint = "Use --device cpu, or leave it at auto."


class OutOfMemoryError(GiaError):
    """Even the smallest tile does not fit."""

    exit_code = 51
    hint = "Close other programs, or raise what limits it (--max-memory, ulimit -v, a container)."


class WorkerError(GiaError):
    """A photo whose process died of it, on a cluster, each time."""

    exit_code = 52
    hint = "Try it alone, without --ray; if gia ends there too, please report it."


class ClusterError(GiaError):
    """A cluster that does not answer, or has no worker left."""

    exit_code = 53
    hint = "Check the address, and that the cluster is up (ray status)."


# ---------------------------------------------------------------- training


class DataError(GiaError):
    """Photographs or training pairs that are missing, broken or too few."""

    exit_code = 70
    hint = "Repair or remove the files that are named, then run the command again."


class RunError(GiaError):
    """A run folder that does not fit the command."""

    exit_code = 71
    hint = "Use another --run folder, or the options that the run was started with."


class DivergedError(GiaError):
    """The loss or a weight is no longer a finite number."""

    exit_code = 72
    hint = (
        "The last checkpoint is still good: export it, and start a new --run from those weights "
        "with --init-from and a lower --lr."
    )


class ProcessLostError(GiaError):
    """One of several processes that train together has ended, or does not answer."""

    exit_code = 73
    hint = "Run the same command to resume; torchrun does it by itself with --max-restarts."


# ---------------------------------------------------------------- writing


class OutputError(GiaError):
    """The output cannot be written: no folder, no space, no permission."""

    exit_code = 60


class OutputExistsError(OutputError):
    """The output is already there."""

    exit_code = 61
    hint = "Use --on-exists overwrite or skip, or another name with -o."


class StorageError(GiaError):
    """An object store that cannot be used: no such bucket, no credentials, no network."""

    exit_code = 62
    hint = "Check the bucket's name, the credentials and the address (AWS_ENDPOINT_URL for S3)."

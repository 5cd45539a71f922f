"""The one base error, the errors that stop a run, and the errors that send one sample to quarantine."""

MAX_REASON = 250


class CurateError(Exception):
    """What a user can cause and mend. The message says what was wrong, where, and what to do.

    A message may quote hostile data, such as a column's name, so it is made one printable line here.
    """

    def __init__(self, message: str) -> None:
        super().__init__(
            "".join(
                character if character.isprintable() else " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"
                for character in message
            )
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or, of one without a message, its class."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


class ConfigurationError(CurateError):
    """An option, a file or a combination of them that cannot work; raised before any work is done."""


class DataError(CurateError):
    """A data set or run folder that cannot be read as a whole."""


class RunStopped(CurateError):
    """A run that stopped before its end and kept what it had."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is."""


class SampleError(CurateError):
    """One sample that cannot be scored: it goes to quarantine under the name of its class.

    Attributes:
        stage: where it failed: `read`, `decode`, `inputs` or `score`.
        sample_id: the sample's id, where its content could still be hashed.
    """

    stage = "decode"

    def __init__(self, reason: str, sample_id: str | None = None) -> None:
        super().__init__(reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}…")
        self.sample_id = sample_id


class BadRow(SampleError):
    """The row itself cannot be read, such as a line that is not JSON."""

    stage = "read"


class MissingField(SampleError):
    """A field is absent or null."""


class WrongType(SampleError):
    """A field holds a value of another type than its column should."""


class NotUtf8(SampleError):
    """A text field whose bytes are not UTF-8, or that holds lone surrogates."""


class EmptyText(SampleError):
    """A question or response without a visible character."""


class BadPreference(SampleError):
    """`overall_response` names neither response."""


class BadImagePath(SampleError):
    """An image path that is a URL, is absolute, or leads out of the data folder."""


class MissingImage(SampleError):
    """No image bytes, or a path at which there is no file."""


class CorruptImage(SampleError):
    """Bytes that no allowed image decoder can read to the end."""


class ImageBomb(SampleError):
    """An image whose header declares more pixels than allowed."""


class ImageShape(SampleError):
    """An image so narrow that the model would see no patch of it."""

    stage = "inputs"


class ReservedToken(SampleError):
    """A text that spells out one of the tokenizer's special tokens, such as the image placeholder."""

    stage = "inputs"


class TooLong(SampleError):
    """More tokens than the model's context holds."""

    stage = "inputs"


class WorkerLost(SampleError):
    """A sample whose workers crashed or hung, each time with it in hand."""


class OutOfMemory(SampleError):
    """A sample for which the device's memory does not suffice even alone."""

    stage = "score"


class NonFinite(SampleError):
    """Hidden states or activations that are NaN or infinite."""

    stage = "score"

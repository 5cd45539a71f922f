"""One line of what a doctor finds."""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from curate.errors import CurateError, first_line

TRIAL_SECONDS = 60.0  # here, where the command line has it without Ray


@dataclass(frozen=True)
class Finding:
    """One line of a doctor. Where the state is not `ok`, the text says what to do.

    Attributes:
        numbers: what was measured, for machines: seconds, bytes, samples.
    """

    check: str
    state: Literal["ok", "warn", "fail"]
    text: str
    numbers: Mapping[str, float] | None = None


T = TypeVar("T")


def tried(check: str, do: Callable[[], T], say: Callable[[T], str]) -> Generator[Finding, None, T | None]:
    """What `do` returns and a line about it; or None, and a line with the error, which says what to do."""
    try:
        value = do()
    # A store's client, a damaged file: each has errors of its own, and none may end the looking.
    except Exception as error:
        yield failed(check, error)
        return None
    yield Finding(check, "ok", say(value))
    return value


def looked(check: str, look: Iterator[Finding]) -> Iterator[Finding]:
    """What a look finds, and a line with the error that ends it, if one does."""
    try:
        yield from look
    except Exception as error:
        yield failed(check, error)


def failed(check: str, error: Exception) -> Finding:
    """A line about an error: its message if it is one of ours, else its class too."""
    return Finding(
        check, "fail", str(error) if isinstance(error, CurateError) else f"{type(error).__name__}: {first_line(error)}"
    )


def counted(number: float, what: str) -> str:
    """A number and its noun: `1 sample`, `2,000 samples`."""
    return f"{number:,.12g} {what}{'' if number == 1 else 's'}"

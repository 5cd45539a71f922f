"""A judge: any endpoint that speaks OpenAI's chat completions. Its key comes from the environment alone."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from curate.errors import ConfigurationError, RunStopped, first_line
from curate.evaluation.reviews import Order
from curate.evaluation.rules import SYSTEM
from curate.storage import Location

KEYS = ("CURATE_JUDGE_KEY", "OPENAI_API_KEY")
# Nothing shorter is a secret; local servers take any word.
_SHORTEST_SECRET = 8
_REFUSALS = {401: "refuses the key", 403: "refuses the key", 404: "knows no such model or address"}


class JudgeSpec(BaseModel):
    """Who judges, and how. The published judge is gpt-4-0314, asked once, the reference shown first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Location | None = Field(
        default=None, description="an OpenAI-compatible endpoint; without, the demo bench is judged by rules"
    )
    model: str | None = Field(default=None, description="as the endpoint names it")
    order: Literal["reference-first", "candidate-first", "both"] = Field(
        default="reference-first", description="which answer is shown first; both asks twice and takes the mean"
    )
    temperature: float | None = Field(
        default=0.2, ge=0, description="null leaves it to the endpoint, as some models ask"
    )
    max_tokens: int | None = Field(default=1024, ge=1, description="of a reply; null leaves it to the endpoint")
    concurrency: int = Field(default=8, ge=1, le=256, description="requests at a time")
    retries: int = Field(default=5, ge=0, le=100, description="of a request that fails, with back-off")
    timeout: float = Field(
        default=120, gt=0, allow_inf_nan=False, description="seconds for which a request may be silent"
    )

    @field_validator("url")
    @classmethod
    def _is_plain(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("the judge's endpoint is http://HOST/… or https://HOST/…")
            if "@" in parts.netloc:
                raise ValueError(f"credentials do not belong in a URL, which is recorded; set {KEYS[0]}")
        return url

    @model_validator(mode="after")
    def _has_a_model(self) -> "JudgeSpec":
        if (self.url is None) != (self.model is None):
            raise ValueError("--judge-url and --judge-model go together")
        return self

    @property
    def orders(self) -> tuple[Order, ...]:
        """Those in which each question is asked."""
        return ("reference-first", "candidate-first") if self.order == "both" else (self.order,)


class Reply(NamedTuple):
    """What a judge said, or why there is nothing."""

    content: str
    error: str | None = None


def check_judge() -> None:
    """That an endpoint can be asked.

    Raises:
        ConfigurationError: no client is installed, or no key is set.
    """
    try:
        import openai  # noqa: F401 - an optional dependency
    except ImportError as error:
        raise ConfigurationError("--judge-url: the judge's client is missing; pip install 'curate[judge]'") from error
    _key()


def _key() -> str:
    for name in KEYS:
        if value := os.environ.get(name, "").strip():  # files of secrets end with a line feed
            if not (value.isascii() and value.isprintable()):
                raise ConfigurationError(f"{name} holds what no HTTP header can: line feeds, or letters beyond ASCII")
            return value
    raise ConfigurationError(
        f"--judge-url: set the judge's key in the environment, as {' or '.join(KEYS)}; a server that asks for none "
        "takes any word"
    )


@contextmanager
def asking(spec: JudgeSpec) -> Iterator[Callable[[str], Reply]]:
    """A function that asks the judge, for many threads at once.

    A request is tried again after 429, 500 and above, a time-out or a lost connection, at most `retries` times, with
    the client's back-off or as `Retry-After` says. What fails for good is a reply with its error. The key is taken out
    of all that comes back. Redirects are not followed, since the key would go along.

    Raises, from that function:
        RunStopped: the endpoint refuses the key, or knows no such model.
    """
    import openai

    key = _key()

    def cleaned(text: str) -> str:
        return text.replace(key, "…") if len(key) >= _SHORTEST_SECRET else text

    settings: Any = {name: getattr(spec, name) for name in ("temperature", "max_tokens")}
    settings = {name: value for name, value in settings.items() if value is not None}

    def ask(prompt: str) -> Reply:
        try:
            completion = client.chat.completions.create(
                model=str(spec.model),
                messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}],
                **settings,
            )
            return Reply(cleaned(_content(completion)))
        except openai.APIStatusError as error:
            status, said = error.status_code, cleaned(first_line(error))
            # Without the client's error, whose text may hold the key.
            refusal = _REFUSALS.get(status, "leads elsewhere" if 300 <= status < 400 else None)
        except openai.APITimeoutError:
            return Reply("", f"no reply within {spec.timeout:g} s")
        # The client's own errors, and those of a body that is no chat completion or nested beyond all bounds.
        except (openai.OpenAIError, AttributeError, TypeError, LookupError, ValueError, RecursionError) as error:
            return Reply("", cleaned(f"{type(error).__name__}: {first_line(error)}"))
        if refusal is not None:
            raise RunStopped(f"the judge at {spec.url} {refusal} (--judge-model {spec.model}): {said}")
        return Reply("", said)

    http = openai.DefaultHttpxClient(follow_redirects=False)
    with openai.OpenAI(
        api_key=key, base_url=spec.url, timeout=spec.timeout, max_retries=spec.retries, http_client=http
    ) as client:
        yield ask


def _content(completion: Any) -> str:
    content = completion.choices[0].message.content
    if not isinstance(content, str):
        raise ValueError("the reply holds no text")
    # Half a surrogate pair is no text, and would make the file of reviews unreadable.
    return content.encode("utf-8", "replace").decode()

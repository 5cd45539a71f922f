"""HTML from templates: of data, nothing is markup."""

from typing import TYPE_CHECKING, Any

from curate.errors import ConfigurationError

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(folder: str) -> "Environment":
    """The templates of a folder in this room, and those in `templates/` that several share.

    Every value is escaped, and made text that UTF-8 can hold.

    Raises:
        ConfigurationError: curate was installed without what reports take.
    """
    try:
        from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined
    except ImportError as error:
        raise needs_report(error) from error
    loader = PrefixLoader(
        {"page": PackageLoader("curate.report", folder), "shared": PackageLoader("curate.report", "templates")}
    )
    return Environment(
        autoescape=True, loader=loader, undefined=StrictUndefined, finalize=_utf8, trim_blocks=True, lstrip_blocks=True
    )


def needs_report(error: ImportError) -> ConfigurationError:
    """The error of a verb whose libraries are not installed."""
    return ConfigurationError(f"{error.name} is not installed: pip install 'curate[report]'")


def _utf8(value: Any) -> Any:
    """JSON, of which labels of features come, can spell out half a surrogate pair; a folder's name may be any bytes."""
    return value if hasattr(value, "__html__") else str(value).encode(errors="replace").decode()

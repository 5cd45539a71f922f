"""Rewrites the tensors of a pickle as safetensors, in a process of its own: `python -m curate.sae.unpickle FROM TO`.

The one place that reads pickles, and only with `weights_only=True`, which builds tensors and plain containers and calls
nothing else. The process is there for what that does not promise: it may crash, hang or take all memory without harm.
"""

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

REFUSED = 3  # exit code; the reason is the last line of standard error
# A file may hold tensors that share memory, such as tied matrices. Much more than its size is an attack.
TIMES_ITS_SIZE = 4
SPARE_BYTES = 1 << 30


class Refused(Exception):
    """The pickle is not what it should be; the message says why, in one line."""


def tensors_in(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled flat dict, each contiguous and with memory of its own.

    Raises:
        Refused: it holds something else, or tensors that are not plain, not finite, or larger than the file.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    # Damage and hostility show in as many ways as the format has parts.
    except Exception as error:
        if _is_out_of_memory(error):
            raise
        raise Refused(_reason(error)) from error
    if not isinstance(found, Mapping) or not found:
        raise Refused(f"it holds a {type(found).__name__}, not a dict of tensors")
    total = 0
    for key, tensor in found.items():
        total += _checked_size(key, tensor)
    if total > TIMES_ITS_SIZE * path.stat().st_size + 4096:
        raise Refused(f"its tensors claim {total:,} bytes, and the file has {path.stat().st_size:,}")
    for key, tensor in found.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise Refused(f"{key} holds NaN or infinity")
    return {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in found.items()}


def _checked_size(key: object, tensor: object) -> int:
    if not isinstance(key, str) or not key.isprintable():
        raise Refused(f"it has an entry named {key!r:.80}, not a tensor's name")
    if not isinstance(tensor, Tensor):
        raise Refused(f"{key} is a {type(tensor).__name__}, not a tensor")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        raise Refused(f"{key} is not a plain tensor of numbers")
    return tensor.numel() * tensor.element_size()


def _reason(error: Exception) -> str:
    if hostile := re.search(r"(?:GLOBAL|[Cc]lass|function) [`']?([\w.]+\.[\w.]+)", str(error)):
        return f"it holds more than tensors: it asks for {hostile[1]}, which was not run"
    return f"it cannot be read as tensors alone ({type(error).__name__})"


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "allocate memory" in str(error)  # which torch raises a RuntimeError for


def limit_memory(file_bytes: int) -> None:
    """Let this process take no more memory than a file of this size can need, where the system has such limits."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = taken + 3 * TIMES_ITS_SIZE * file_bytes + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except Refused as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        print("it takes more memory than a file of its size may need", file=sys.stderr)
        sys.exit(REFUSED)


def main(source: str, target: str) -> None:
    """Rewrite one file."""
    limit_memory(Path(source).stat().st_size)
    with _one_line():
        save_file(tensors_in(Path(source)), target)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""How SAEs are published: one file for each format, all of which give the same description and the same tensors."""

from collections.abc import Collection

from curate.errors import ConfigurationError
from curate.sae.dictionary import DictionaryInfo
from curate.sae.formats import (
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    qwen_scope,
    sae_lens,
    sparsify,
)
from curate.sae.formats.format import Format, Source, TensorReader

FORMATS = {
    module.FORMAT.name: module.FORMAT
    for module in (sae_lens, sparsify, gemma_scope_2, gemma_scope, llama_scope, dictionary_learning, qwen_scope)
}


def files(folder: str, formats: Collection[Format] = tuple(FORMATS.values())) -> list[str]:
    """The files that an SAE of any of the formats may have in a folder of a repository.

    Formats with many SAEs in one folder are skipped; there each SAE is named by its file.
    """
    below = f"{folder}/" if folder else ""
    above = f"{folder.rpartition('/')[0]}/" if "/" in folder else ""
    found = [file for each in formats if "*" not in each.weights for file in (each.weights, *each.files)]
    places = (f"{above}{file.removeprefix('../')}" if file.startswith("../") else f"{below}{file}" for file in found)
    return list(dict.fromkeys(places))


def describe(source: Source) -> DictionaryInfo:
    """What the SAE in a folder is, whatever its format.

    Raises:
        ConfigurationError: it is in none, in one that no run reads, or damaged.
    """
    found = format_of(source)
    if found.pickled:
        raise ConfigurationError(
            f"--sae {source.name}: its weights are a pickle ({found.weights}), which no run reads; write a copy that "
            f"runs read, once: curate sae import {source.name} --output DIR"
        )
    return found.describe(source)


def format_of(source: Source) -> Format:
    """The format that an SAE's folder is in, by the name of its weights.

    Raises:
        ConfigurationError: it is in none.
    """
    there = [each for each in FORMATS.values() if any(file.is_file() for file in source.path.glob(each.weights))]
    if len(there) > 1:
        names = " and ".join(each.weights for each in there)
        raise ConfigurationError(
            f"--sae {source.name}: {source.path} holds {names}, of different formats; put one in a folder of its own"
        )
    if there:
        return there[0]
    if (source.path / sae_lens.CONFIG).is_file():
        raise ConfigurationError(
            f"--sae {source.name}: {source.path} has {sae_lens.CONFIG} and no weights beside it "
            f"({sae_lens.WEIGHTS}, or {sparsify.WEIGHTS})"
        )
    looked_for = ", ".join(each.weights for each in FORMATS.values())
    raise ConfigurationError(f"--sae {source.name}: no SAE found in {source.path} (looked for {looked_for})")


def open_weights(info: DictionaryInfo) -> TensorReader:
    """A reader of the SAE's tensors, by sae_lens's names and in its order of axes.

    Raises:
        ConfigurationError: the weights are damaged.
    """
    return FORMATS[info.format].open(info)

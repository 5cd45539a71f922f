"""Text models: those that the vision-language models are built on, and Pythia. They leave images out."""

from collections.abc import Mapping

import transformers  # whose attributes are imported when they are used: to look at a config takes no model's code

from curate.errors import ConfigurationError, first_line
from curate.models.building import Builder, builder, chat_turns
from curate.models.family import ModelInfo
from curate.models.loading import family

MODEL_TYPES = ("mistral", "llama", "gemma", "gemma2", "qwen2", "gpt_neox")


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The whole config, with transformers' defaults filled in."""
    return transformers.AutoConfig.for_model(**config).to_dict()  # type: ignore[arg-type]


def load_builder(info: ModelInfo) -> Builder:
    """The tokenizer; where it has no chat template, a conversation is the question, a line break and the response.

    Raises:
        ConfigurationError: the folder has no whole tokenizer.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(info.path, local_files_only=True)
    # A file may be missing, damaged, or need a library that is not there.
    except Exception as error:
        raise ConfigurationError(f"{info.path} has no whole tokenizer: {first_line(error)}") from error
    turns = chat_turns(info, tokenizer, None) if tokenizer.chat_template else _lines
    return builder(info, tokenizer, turns, None)


def _lines(question: str, response: str | None, answer_next: bool = False) -> str:
    return f"{question}\n{response or ''}"


FAMILIES = tuple(family(model_type, text_config, load_builder, takes_images=False) for model_type in MODEL_TYPES)

"""Vision-language and text models. Naming one imports no torch; `families` looks at it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from curate.storage import absolute_if_there

DEMO = "demo"
DEFAULT_MODEL = "llava-hf/llava-v1.6-mistral-7b-hf"
FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")


class ModelSpec(BaseModel):
    """Which model, and how it is run."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    name: str = Field(description="a hub id or a folder")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes a GPU if there is one")

    def absolute(self) -> "ModelSpec":
        """The same with a local folder made absolute."""
        return self if self.name == DEMO else self.model_copy(update={"name": absolute_if_there(self.name)})

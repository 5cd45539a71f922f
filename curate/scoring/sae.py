"""The SAE that a model is scored with, by name."""

from curate import demo
from curate.sae.known import default_sae


def sae_for(model_name: str, sae_name: str | None) -> str:
    """The SAE that is asked for, or else the default one of the model.

    Raises:
        ValueError: none is asked for, and the model has no default one.
    """
    if sae_name is not None:
        return sae_name
    if model_name == demo.NAME:
        return demo.NAME
    if (entry := default_sae(model_name)) is not None:
        return entry.name
    raise ValueError(
        f"no SAE is named for {model_name}, and it has no default one: name it with --sae (`curate saes --model "
        f"{model_name}` lists those that fit), in a job file with sae, or train one with `curate sae train`"
    )

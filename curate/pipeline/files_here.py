"""Model and SAE on the node that a worker runs on, which may not be the one where the run was planned."""

from dataclasses import replace
from socket import gethostname

from curate import demo
from curate.datasets import DEMO
from curate.errors import ConfigurationError
from curate.hub import fetch
from curate.models import FILES
from curate.models.family import ModelInfo
from curate.pipeline.plan import Plan
from curate.sae.dictionary import DictionaryInfo
from curate.sae.load import inspect_dictionary


def model_here(model: ModelInfo, name: str) -> ModelInfo:
    """A plan's model with a path on this machine: a hub's model is fetched, at the commit that the plan found.

    Args:
        name: by which the job names it.

    Raises:
        ConfigurationError: it is a folder that this machine does not see.
        DataError: the hub cannot be reached.
    """
    if model.path.is_dir():
        return model
    if name == DEMO:
        return replace(model, path=demo.MODEL)
    if model.path.name and name.count("/") == 1 and not name.startswith(("/", ".")):
        instead = "name a folder that every node sees with --model"
        return replace(model, path=fetch(name, "model", FILES, instead, revision=model.path.name))
    raise _not_here("model", str(model.path))


def dictionary_here(plan: Plan) -> DictionaryInfo:
    """The plan's SAE with a path on this machine.

    Raises:
        ConfigurationError: it is a folder that this machine does not see, or another SAE here.
        DataError: the hub cannot be reached.
    """
    if plan.sae.path.is_dir():
        return plan.sae
    if plan.job.sae.startswith("/"):
        raise _not_here("SAE", str(plan.sae.path))
    found = inspect_dictionary(demo.resolve(plan.job.sae, demo.SAE))
    if found.sha256 != plan.sae.sha256:
        raise ConfigurationError(f"--sae {plan.job.sae}: on {gethostname()} it is another one than where the run began")
    return replace(found, scale=plan.sae.scale)


def _not_here(what: str, path: str) -> ConfigurationError:
    return ConfigurationError(
        f"the {what} {path} is not on {gethostname()}: put it on storage that every node has at the same path"
    )

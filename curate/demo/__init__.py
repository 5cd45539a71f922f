"""The embedded default: a small real LLaVA-NeXT, its dictionary, and the recipe that makes both."""

from pathlib import Path

NAME = "demo"
MODEL = Path(__file__).parent / "model"
SAE = Path(__file__).parent / "sae"
TRAINING_REPORT = Path(__file__).parent / "training.json"
HOOK_LAYER = 2


def resolve(name: str, what: Path) -> str:
    """`demo` stands for the embedded model or dictionary."""
    return str(what) if name == NAME else name

"""The embedded default: a small real LLaVA-NeXT, its dictionary, and the recipe that makes both."""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
SAE = Path(__file__).parent / "sae"
TRAINING_REPORT = Path(__file__).parent / "training.json"
HOOK_LAYER = 2

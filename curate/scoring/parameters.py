"""What decides a run's scores, beside data, model and dictionary."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from curate.metrics import DEFAULT_METRICS, METRICS
from curate.metrics.metric import Likely
from curate.metrics.parameters import MetricParameters

Text = Literal["prompt+chosen", "prompt", "prompt+rejected", "both"]
# The response in each scored text. `both` scores two texts; the one with the chosen response comes first.
SCORED: dict[Text, Likely | None] = {
    "prompt+chosen": "chosen",
    "prompt": None,
    "prompt+rejected": "rejected",
    "both": "chosen",
}
DEFAULT_TOP_FEATURES = 10
BATCH_SIZE = {"cpu": 3072, "cuda": 8192}
REJECTED = "_rejected"  # ends the name of a metric of the rejected response, where both are scored


class ScoringParameters(MetricParameters):
    """Parameters of one run; together with the inputs' hashes they determine every score."""

    metrics: tuple[str, ...] = Field(
        default=DEFAULT_METRICS, description="metrics to compute, the one to rank by first"
    )
    text: Text = Field(
        default="prompt+chosen",
        description="tokens scored; the published code takes the prompt alone. `both` is prompt+chosen, and of "
        "prompt+rejected a second column for each metric that reads activations: cosine_rejected and so on",
    )
    hook_layer: int | None = Field(
        default=None, ge=0, description="features are read after this decoder block; by default as the SAE's file says"
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        description="tokens per forward pass; by default 8,192 on a GPU, and 3,072 on a CPU, where more are no faster",
    )
    weight_samples: int = Field(default=1000, ge=1, description="samples that feature weights are computed from")
    top_features: int = Field(default=DEFAULT_TOP_FEATURES, ge=0, description="features listed with each sample")

    @field_validator("metrics")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in names if name not in METRICS]:
            raise ValueError(f"no metric {', '.join(unknown)}; there are: {', '.join(METRICS)}")
        if not names or len(set(names)) < len(names):
            raise ValueError("name each metric once, and at least one")
        return names

    @model_validator(mode="after")
    def _both_says_something(self) -> "ScoringParameters":
        if self.text == "both" and not self.of_rejected:
            raise ValueError(
                f"text both: none of {', '.join(self.metrics)} reads activations, so it would say nothing of the "
                "rejected response; take prompt+chosen"
            )
        return self

    @property
    def reads_activations(self) -> bool:
        """Whether any metric needs the SAE."""
        return any(METRICS[name].reads_activations for name in self.metrics)

    @property
    def needs_weights(self) -> bool:
        return any(METRICS[name].needs == "weights" for name in self.metrics)

    def tokens_per_pass(self, device: str) -> int:
        """Tokens of a forward pass on a device."""
        return BATCH_SIZE[device] if self.batch_size is None else self.batch_size

    @property
    def scored(self) -> tuple[Likely | None, ...]:
        """The texts that are scored, by their responses; the first gives the scores that are ranked by default."""
        return (SCORED[self.text], "rejected") if self.text == "both" else (SCORED[self.text],)

    @property
    def of_rejected(self) -> dict[str, str]:
        """Where both responses are scored: the rejected one's columns, and the metric of each."""
        if self.text != "both":
            return {}
        return {f"{name}{REJECTED}": name for name in self.metrics if METRICS[name].reads_activations}

    @property
    def columns(self) -> tuple[str, ...]:
        """The scores of a sample, by name."""
        return (*self.metrics, *self.of_rejected)

    @property
    def weights_text(self) -> Text:
        """The text whose tokens feature weights are computed from."""
        return "prompt+chosen" if self.text == "both" else self.text

    @property
    def likelihood_of(self) -> tuple[Likely, ...]:
        """The texts whose likelihood the metrics need: if any, the whole model runs."""
        return tuple(dict.fromkeys(text for name in self.metrics for text in METRICS[name].likelihood_of))

    @property
    def prepared_alike(self) -> bool:
        """Whether feature weights and scores are computed from the same inputs."""
        return self.text == self.weights_text and not self.likelihood_of

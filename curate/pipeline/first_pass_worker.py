"""What runs inside the workers of the first pass: the model, an SAE read in one way, and a share of the samples."""

from collections.abc import Generator

from jaxtyping import Float
from torch import Tensor

from curate.datasets import Dataset, spread
from curate.errors import RunStopped, SampleError
from curate.manifest.rows import QuarantineRow
from curate.metrics.weights import FeatureWeights, Places, TopTokens
from curate.models.family import CutModel
from curate.pipeline.files_here import dictionary_here, model_here
from curate.pipeline.meter import Export, Meter, Work, nowhere
from curate.pipeline.plan import Plan
from curate.pipeline.transport import batch_from_bytes
from curate.pipeline.watch import Suspects, deadline
from curate.pipeline.workers import BATCH, Columns, Failure, attempt, check, from_bytes, load_cut
from curate.sae.load import load_dictionary
from curate.sae.quality import Quality
from curate.sae.reading import Reading
from curate.scoring.fit import FIT_SAMPLES, READING_SAMPLES, FitPass, reading_of
from curate.scoring.hidden import hidden_alone
from curate.scoring.memory import is_out_of_memory
from curate.scoring.prepare import Prepared, prepare
from curate.scoring.weights_pass import WeightsPass


class FirstPassWorker:
    """Holds the model; takes its share of the first pass's samples, then gives or merges what it kept.

    Args:
        dataset: the rows of the first pass; the SAE's fit is measured on some of them.
        weigh: whether feature weights are computed.
        index: which of the workers this is.
        suspects: told of every sample; with None, deaths are not traced to samples.
        cut: the cut model, if this process has it already.
    """

    def __init__(
        self,
        plan: Plan,
        dataset: Dataset,
        weigh: bool,
        index: int = 0,
        suspects: Suspects | None = None,
        export: Export = nowhere,
        cut: CutModel | None = None,
    ) -> None:
        self.plan, self.dataset, self.weigh, self.index, self.suspects = plan, dataset, weigh, index, suspects
        self.fit_rows = frozenset(spread(dataset.rows, FIT_SAMPLES))
        self.rows_taken: dict[int, None] = {}
        self.unfit = 0
        self.done = Work()
        self.share: WeightsPass | None = None
        self.fit: FitPass | None = None
        self.export = export
        self.model = attempt(lambda: load_cut(plan)) if cut is None else cut

    def _model(self) -> CutModel:
        if isinstance(self.model, Failure):
            raise RunStopped(self.model.message)
        return self.model

    def read_sae(self) -> Generator[int, None, Reading]:
        """Try both readings of the SAE, whose config leaves its activation scale open, on some of the samples.

        Yields:
            how many samples are ready for it.
        """
        job, texts, lost = self.plan.job, [], []
        builder = self.plan.model.family.load_builder(model_here(self.plan.model, job.model.name))
        every = range(len(self.dataset))
        # Others stand in for bad ones: first those of the fit, so that a pass over these alone finds the same scale.
        for position in dict.fromkeys([*spread(every, READING_SAMPLES), *spread(every, FIT_SAMPLES), *every]):
            if len(texts) == READING_SAMPLES:
                break
            yield len(texts)
            self._hold(self.dataset.rows[position])
            with deadline(job.sample_timeout):
                for sample in prepare(self.dataset.samples([position]), builder, job.parameters.weights_text):
                    if isinstance(sample, QuarantineRow):
                        lost.append(sample.reason)
                        continue
                    try:
                        texts.append((self._hidden(sample), sample.inputs.is_image))
                    except SampleError as error:
                        lost.append(str(error))
        self._put_down()
        return reading_of(dictionary_here(self.plan), texts, self.plan.device, lost)

    def _hidden(self, sample: Prepared) -> Float[Tensor, "tokens d_model"]:
        return hidden_alone(self._model().hidden_states, sample.inputs)

    def open_sae(self, scale: float) -> None:
        """Read the SAE with an activation scale; what is taken from here on is encoded with it."""
        sae = dictionary_here(self.plan.read_with(scale))
        dictionary = load_dictionary(sae, self.plan.device)
        self.fit, self.meter = FitPass(sae, dictionary), Meter("weights", self.export)
        if self.weigh:
            parameters, rows, context = self.plan.job.parameters, self.dataset.rows, self.plan.model.context
            self.share = WeightsPass(self._model(), dictionary, parameters, rows, context)

    def take(self, block: Columns) -> None:
        """Run the batches among some prepared rows."""
        for kind, payload, made in zip(block["kind"], block["payload"], block["made"], strict=True):
            check(kind, payload)
            if kind == BATCH:
                batch = batch_from_bytes(payload)
                with self.meter.batch(batch, made, together=False) as done:
                    self._take(batch)
                self.done += done[0]
            else:
                before = len(self.rows_taken)
                self.rows_taken |= dict.fromkeys(from_bytes(payload)["source_row"].to_pylist())
                self.unfit += len(self.rows_taken) - before

    def _take(self, batch: list[Prepared]) -> None:
        # A range whose preparing worker died comes again from its beginning.
        for sample in (sample for sample in batch if sample.source_row not in self.rows_taken):
            self._hold(sample.source_row)
            with deadline(self.plan.job.sample_timeout):
                self._add(sample)
            self.rows_taken[sample.source_row] = None
        self._put_down()

    def _hold(self, row: int) -> None:
        if self.suspects is not None:
            self.suspects.hold(self.index, row)

    def _put_down(self) -> None:
        if self.suspects is not None:
            self.suspects.put_down(self.index)

    def _add(self, sample: Prepared) -> None:
        try:
            hidden = self._hidden(sample)
        except SampleError:  # scoring will quarantine it
            return
        try:
            if self.share is not None:
                self.share.take(sample, hidden)
            if self.fit is not None and sample.source_row in self.fit_rows:
                self.fit.take(hidden, sample.inputs.is_image)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise

    def progress(self) -> int:
        """Samples done so far, bad ones included."""
        return len(self.rows_taken)

    def taken(self) -> tuple[list[int], int, Work]:
        """The source rows of all samples that came, how many of them ran through the model, and the work on them."""
        return list(self.rows_taken), len(self.rows_taken) - self.unfit, self.done

    def fitted(self) -> tuple[Quality, int, int]:
        """What reconstruction came to, on the CPU; of how many samples, and how many overflowed."""
        assert self.fit is not None, "a worker that opened no SAE"
        return self.fit.quality.cpu(), self.fit.samples, self.fit.overflowed

    def kept(self) -> tuple[TopTokens | None, TopTokens | None, int]:
        """What this worker kept, for another to merge; through the CPU, which holds more than a device."""
        share = self._share()
        for top in (share.text, share.image):
            if top is not None:
                top.to("cpu")
        return share.text, share.image, share.n_samples

    def merge(self, kept: tuple[TopTokens | None, TopTokens | None, int]) -> None:
        """Take in what another worker kept."""
        text, image, n_samples = kept
        if text is not None and image is not None:
            self._share().merge(text, image, n_samples)

    def weights(self) -> tuple[FeatureWeights, dict[str, Places], int]:
        """The feature weights, on the CPU, the tokens and the number of samples behind them."""
        share = self._share()
        weights = share.weights()
        return FeatureWeights(weights.weight.cpu(), weights.has_weight.cpu()), share.places(), share.n_samples

    def _share(self) -> WeightsPass:
        assert self.share is not None, "a worker that weighs nothing"
        return self.share

"""A training on several workers, by Ray Train; the only part of this room that needs Ray."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from curate.errors import ConfigurationError, RunStopped, first_line
from curate.pipeline.connection import connected
from curate.pipeline.files_here import model_here
from curate.pipeline.resources import cluster_address
from curate.training.fit import Report, Step, fit
from curate.training.folder import CHECKPOINTS, CURVE
from curate.training.plan import TrainPlan, n_steps
from curate.training.samples import TRAIN, samples_of

_SECONDS_BETWEEN_LOOKS = 1.0


def fit_on_workers(the_plan: TrainPlan, output: Path, report: Report) -> None:
    """What `fit` does, by as many processes as the job names; they and this one share the output folder.

    Raises:
        ConfigurationError: the cluster has no room for them.
        RunStopped: a worker failed; the message is its own.
    """
    job = the_plan.job
    on_gpu = the_plan.device == "cuda"
    # A study's trainings run on a cluster already.
    with nullcontext() if ray.is_initialized() else connected(cluster_address(job.address), job.workers + 1):
        kind = "GPU" if on_gpu else "CPU"
        there = ray.cluster_resources().get(kind, 0)
        if there < job.workers:
            raise ConfigurationError(f"--workers {job.workers}: each takes a {kind}, and there are {there:g}")
        trainer = TorchTrainer(
            _on_a_worker,
            train_loop_config={"plan": the_plan, "output": str(output)},
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=job.workers, use_gpu=on_gpu),
            run_config=RunConfig(name="ray", storage_path=str(output / CHECKPOINTS)),
        )
        with _followed(output / CURVE, _n_steps(the_plan, output), report):
            try:
                trainer.fit()
            except Exception as error:
                raise RunStopped(
                    f"a worker failed ({first_line(error)}); the same command goes on from the last checkpoint"
                ) from error


def _n_steps(the_plan: TrainPlan, output: Path) -> int:
    return n_steps(the_plan.job.parameters, the_plan.job.workers, samples_of(output, TRAIN).num_rows)


def _on_a_worker(config: dict) -> None:
    the_plan: TrainPlan = config["plan"]
    here = replace(the_plan, model=model_here(the_plan.model, the_plan.model.name))
    fit(here, Path(config["output"]), lambda step: None)


@contextmanager
def _followed(curve: Path, total: int, report: Report) -> Iterator[None]:
    """Report the steps that another process writes."""
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            # The last line may be half written.
            lines = curve.read_bytes().splitlines(keepends=True) if curve.exists() else []
            if whole := [line for line in lines if line.endswith(b"\n")]:
                report(Step(int(json.loads(whole[-1])["step"]), total))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

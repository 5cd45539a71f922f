"""Where a training's curve goes beside its file."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from curate.fingerprint import text_sha256
from curate.harvest.job import SAETrainJob

Log = Callable[[int, Mapping[str, float]], None]


@contextmanager
def logging_to(job: SAETrainJob, output: Path) -> Iterator[Log]:
    """A function of (step, figures) that writes to the loggers the job names.

    A W&B run goes on with the training it belongs to; its key comes from the environment (WANDB_API_KEY).
    """
    with ExitStack() as stack:
        logs: list[Log] = []
        if "tensorboard" in job.log_to:
            from tensorboardX import SummaryWriter

            writer = stack.enter_context(SummaryWriter(str(output / "tensorboard"), write_to_disk=True))

            def to_tensorboard(step: int, figures: Mapping[str, float]) -> None:
                for name, value in figures.items():
                    writer.add_scalar(name, value, step)
                writer.flush()

            logs.append(to_tensorboard)
        if "wandb" in job.log_to:
            import wandb

            run = wandb.init(
                project="curate",
                dir=output,
                id=text_sha256(str(output))[:12],
                resume="allow",
                config=job.model_dump(mode="json", exclude_none=True),
            )
            stack.callback(run.finish)
            logs.append(lambda step, figures: run.log(dict(figures), step=step))

        def log(step: int, figures: Mapping[str, float]) -> None:
            for each in logs:
                each(step, figures)

        yield log

"""Where a training's curve goes beside its file."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from curate.harvest.job import SAETrainJob

Log = Callable[[int, Mapping[str, float]], None]


@contextmanager
def logging_to(job: SAETrainJob, output: Path, steps: int) -> Iterator[Log]:
    """A function of (step, figures) that writes to the loggers the job names.

    A W&B run goes on with the training it belongs to; its key comes from the environment (WANDB_API_KEY).

    Args:
        steps: those that are done; what TensorBoard has of later ones is taken back.
    """
    with ExitStack() as stack:
        logs: list[Log] = []
        if "tensorboard" in job.log_to:
            from tensorboardX import SummaryWriter

            writer = stack.enter_context(SummaryWriter(str(output / "tensorboard"), purge_step=steps + 1))

            def to_tensorboard(step: int, figures: Mapping[str, float]) -> None:
                for name, value in figures.items():
                    writer.add_scalar(name, value, step)
                writer.flush()

            logs.append(to_tensorboard)
        if "wandb" in job.log_to:
            import wandb

            name = output / "wandb" / "run-id"  # which goes with what --overwrite removes
            if not name.exists():
                name.parent.mkdir(exist_ok=True)
                name.write_text(uuid.uuid4().hex)
            run = wandb.init(
                project="curate",
                dir=output,
                id=name.read_text(),
                resume="allow",
                config=job.model_dump(mode="json", exclude_none=True),
            )
            stack.callback(run.finish)
            logs.append(lambda step, figures: run.log(dict(figures), step=step))

        def log(step: int, figures: Mapping[str, float]) -> None:
            for each in logs:
                each(step, figures)

        yield log

"""`curate sae`: the dictionaries, trained and judged."""

import typer

from curate.cli import sae_evaluate, sae_fold, sae_info, sae_train

app = typer.Typer(no_args_is_help=True, help="Train, judge and look at sparse autoencoders.")
app.command("train")(sae_train.train)
app.command("evaluate", cls=sae_evaluate.ManyModels)(sae_evaluate.evaluate)
app.command("info")(sae_info.info)
app.command("fold")(sae_fold.fold)

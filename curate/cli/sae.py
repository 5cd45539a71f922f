"""`curate sae`: SAEs trained, evaluated, looked at and copied."""

import typer

from curate.cli import sae_evaluate, sae_fold, sae_import, sae_info, sae_train

app = typer.Typer(no_args_is_help=True, help="Train, evaluate, import and look at sparse autoencoders.")
app.command("train")(sae_train.train)
app.command("evaluate", cls=sae_evaluate.ManyModels)(sae_evaluate.evaluate)
app.command("info")(sae_info.info)
app.command("import")(sae_import.import_)
app.command("fold")(sae_fold.fold)

"""The features of classes, drawn with the images that they are strongest in."""

from pathlib import Path

from curate.interpret.features import PICTURE, FeaturesPlan, FeaturesRecord
from curate.interpret.heat import heat
from curate.interpret.lens import open_lens
from curate.report.features import draw_classes
from curate.scoring.parameters import ScoringParameters

MOST_ROWS = 24
_FEATURES = 2


def draw_class_features(the_plan: FeaturesPlan, record: FeaturesRecord) -> None:
    """Write `features-N.png` for each SAE: of up to 24 classes and features, by the first pooling."""
    job, images, subject = the_plan
    places = {name: place for place, name in enumerate(images.ids)}
    for number, (sae, pair) in enumerate(subject.pairs.items()):
        pooled = next(each for each in record.pooled if each.sae == sae)
        parameters = ScoringParameters(hook_layer=pair.hook_layer, metrics=("cooccurrence",))
        lens = open_lens(job.model, sae, parameters, None, job.allow_model_mismatch)
        rows = []
        for of_class in pooled.classes:
            for each in of_class.features[:_FEATURES]:
                if len(rows) == MOST_ROWS:
                    break
                heats = []
                for name in each.images:
                    image = images.decode(places[name])
                    inputs = lens.builder.build(image, images.question(places[name]), None)
                    heats.append(heat(lens, image, inputs, [each.feature]))
                said = (
                    f"{of_class.label}: feature {each.feature}\n{each.mean:.3g}, elsewhere {each.elsewhere:.2g}\n"
                    f"fires on {each.share:.0%}, elsewhere {each.share_elsewhere:.0%}"
                )
                rows.append((said, heats))
        title = f"{images.name}: features by {pooled.pooling}, layer {pair.hook_layer}"
        draw_classes(Path(job.output) / f"{PICTURE}-{number}.png", title, rows)

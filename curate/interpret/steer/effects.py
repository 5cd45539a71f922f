"""What edits do to answers, against random directions of equal norm; and what that says in words."""

from collections.abc import Callable, Sequence

import numpy as np

from curate.interpret.intervals import Interval, mean_interval, paired_difference, wilson
from curate.interpret.steer.concept import kept, named
from curate.interpret.steer.job import EditSpec, SteerJob
from curate.interpret.steer.record import Answer, Compared, Effect, Example, Unedited

N_EXAMPLES = 6
BROKEN = 0.5  # share of the other words that are kept
# Of [images, directions], of which the first are the features' own.
_Figures = np.ndarray


def effects(unedited: Sequence[Unedited], answers: Sequence[Answer], words: Sequence[str]) -> list[Effect]:
    """The effects of each strength, in the order of the answers.

    Args:
        unedited: the images that were asked about, one or more.
        answers: of each of these images, one of every strength and direction.
    """
    strengths = list(dict.fromkeys(answer.strength for answer in answers))
    n_directions = 1 + max(answer.direction for answer in answers)
    found = {(answer.image, answer.strength, answer.direction): answer for answer in answers}

    def of(strength: float) -> Effect:
        rows = [[found[before.image, strength, direction] for direction in range(n_directions)] for before in unedited]

        def figures(figure: Callable[[Unedited, Answer], float]) -> _Figures:
            return np.array(
                [[figure(before, after) for after in row] for before, row in zip(unedited, rows, strict=True)]
            )

        was_named = np.array([bool(named(before.text, words)) for before in unedited])
        names = figures(lambda _, after: bool(named(after.text, words)))
        shifts = [
            figures(lambda before, after, naming=naming: _shift(before, after, naming)) for naming in (True, False)
        ]
        return Effect(
            strength=strength,
            naming=_shares(names),
            changed=_shares(figures(lambda before, after: before.text != after.text)),
            removed=_shares(1 - names[was_named]) if was_named.any() else None,
            brought=_shares(names[~was_named]) if not was_named.all() else None,
            kept=_means(figures(lambda before, after: kept(before.text, after.text, words))),
            concept_tokens=_means(shifts[0]),
            other_tokens=_means(shifts[1]),
            examples=[
                Example(image=before.image, before=before.text, after=row[0].text)
                for before, row in zip(unedited[:N_EXAMPLES], rows, strict=False)
            ],
        )

    return [of(strength) for strength in strengths]


def _shift(before: Unedited, after: Answer, naming: bool) -> float:
    """Mean change of the log-probability of the unedited answer's tokens that name the concept, or of the others.

    NaN where there are none.
    """
    chosen = [place for place in range(len(before.tokens)) if (place in before.naming) == naming]
    if not chosen:
        return float("nan")
    return float(np.mean([after.log_probabilities[place] - before.log_probabilities[place] for place in chosen]))


def _shares(figures: _Figures) -> Compared:
    """Images are what is drawn at random: each stands once in the interval of random directions, with its mean."""
    own, random = figures[:, 0], figures[:, 1:].mean(1)
    shares = (wilson(float(each.sum()), len(each)) for each in (own, random))
    return _compared(figures, *shares, difference=paired_difference(own, random))


def _means(figures: _Figures) -> Compared | None:
    figures = figures[~np.isnan(figures[:, 0])]
    if len(figures) < 2:
        return None
    own, random = figures[:, 0], figures[:, 1:].mean(1)
    means = (mean_interval(each) for each in (own, random))
    return _compared(figures, *means, difference=mean_interval(own - random))


def _compared(figures: _Figures, own: Interval, random: Interval, difference: Interval) -> Compared:
    each = figures[:, 1:].mean(0).tolist()
    return Compared(n=len(figures), own=own, random=random, each=each, difference=difference)


def finding(job: SteerJob, effect: Effect) -> str:
    """What edits of one strength do to the concept, against random directions: one sentence, favourable or not."""
    adds = job.edit.mode != "ablate" and effect.strength > 0
    found, verb, whose = (effect.brought, "brings", "do not name") if adds else (effect.removed, "removes", "name")
    what = " or ".join(f"'{word}'" for word in job.words)
    edit = described(job.edit, effect.strength)
    if found is None:
        return f"{edit}: there is nothing to tell, for of the unedited answers none {whose} {what}."
    own, random, difference = found.own.value, found.random.value, found.difference
    verdict = f"no more often, as far as {found.n:,} images tell"
    if difference.low > 0:
        verdict = "more often" + ("" if own > max(found.each) else ", but not than each of them")
    elif difference.high < 0:
        verdict = "less often" + ("" if own < min(found.each) else ", but not than each of them")
    into = "into" if adds else "from"
    return (
        f"{edit} {verb} {what} {into} {own:.0%} of the {found.n:,} answers that {whose} it, random directions of equal "
        f"norm {into} {random:.0%}: {verdict} (difference {signed(100 * difference.value, 0)} points, 95% interval "
        f"{signed(100 * difference.low, 0)} to {signed(100 * difference.high, 0)}).{_cost(effect)}"
    )


def _cost(effect: Effect) -> str:
    """Whether the edit hits the concept alone: what becomes of the rest of the answers."""
    words, concept, others = effect.kept, effect.concept_tokens, effect.other_tokens
    said = ""
    if words is not None:
        broken = ": the answers are broken" if words.own.value < BROKEN else ""
        said += f" Of their other words {words.own.value:.0%} are left (random: {words.random.value:.0%}){broken}."
    if concept is not None and others is not None:
        own, random = (
            [signed(getattr(each, whose).value) for each in (concept, others)] for whose in ("own", "random")
        )
        said += (
            f" The log-probability of tokens that name it changes by {own[0]} nats, of others by {own[1]} (random: "
            f"{random[0]} and {random[1]})."
        )
    return said


def signed(value: float, digits: int = 2) -> str:
    """A change as it is printed; never -0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def described(spec: EditSpec, strength: float) -> str:
    """An edit in words."""
    features = f"feature{'s' if len(spec.features) > 1 else ''} {', '.join(map(str, spec.features))}"
    where = {"all": "all positions", "image": "image positions", "text": "text positions"}[spec.positions]
    if spec.mode == "ablate":
        return f"ablating {features} at {where}"
    if spec.mode == "clamp":
        return f"clamping {features} to {strength:g} of its mean activation at {where}"
    verb = "subtracting" if strength < 0 else "adding"
    return f"{verb} {features} at strength {abs(strength):g} at {where}"

"""Concepts in answers, intervals and effects against brute force, and a steering of the demo."""

import json
import math
import re
import shutil
from collections import Counter
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file
from scipy.stats import binomtest
from typer.testing import CliRunner

from curate.cli.main import app
from curate.errors import ConfigurationError, DataError, RunStopped
from curate.interpret.intervals import mean_interval, paired_difference, wilson
from curate.interpret.steer import study as module
from curate.interpret.steer.concept import kept, named, naming_tokens
from curate.interpret.steer.effects import effects, finding
from curate.interpret.steer.job import EditSpec, SteerJob
from curate.interpret.steer.plan import plan
from curate.interpret.steer.record import Answer, SteerRecord, Unedited
from curate.interpret.steer.speaker import load_speaker
from curate.interpret.steer.study import steer
from curate.models.packing import pack

FEATURE = 328  # the demo's for red


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For a model as small as this, threads wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Concepts.


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("A red cross, Red too.", ["red"], ["red", "Red"]),
        ("A redder shred of infrared", ["red"], []),
        ("red-brown, red_brown and 'red'", ["red"], ["red", "red"]),
        ("It has light blue, and LIGHT BLUE ends.", ["light blue"], ["light blue", "LIGHT BLUE"]),
        ("A c++ file (a.b)", ["c++", "a.b"], ["c++", "a.b"]),
        ("axb", ["a.b"], []),
        ("Ein roter Kreis, Грин", ["грин", "rot"], ["Грин"]),
        ("", ["red"], []),
    ],
)
def test_a_concept_is_named_by_whole_words_in_any_case(text, words, expected):
    assert [text[start:stop] for start, stop in named(text, words)] == expected


def decode(pieces):
    """As of tokenizers of bytes: what is no whole character is a replacement character; white space is stripped."""
    return lambda ids: b"".join(pieces[int(i)] for i in ids).decode("utf-8", "replace").strip()


@given(st.lists(st.sampled_from(["red", "Red", " ", "a", "é", "🟥", ".", "reds", "ro🟥t"]), max_size=8), st.data())
@settings(max_examples=300)
def test_naming_tokens_are_those_whose_bytes_spell_the_word(parts, data):
    """Cut anywhere, even inside of characters."""
    text = "".join(parts)
    content = text.encode()
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=8)) if content else []
    edges = sorted({0, len(content), *cuts})
    pieces = [content[a:b] for a, b in pairwise(edges)]
    found = naming_tokens(torch.arange(len(pieces)), decode(pieces), ["red", "🟥"])
    spans = [
        (len(text[: m.start()].encode()), len(text[: m.end()].encode()))
        for m in re.finditer(r"(?<!\w)(red|🟥)(?!\w)", text, re.IGNORECASE)
    ]
    touching = [
        place for place, (a, b) in enumerate(pairwise(edges)) if any(a < stop and start < b for start, stop in spans)
    ]
    assert found == touching


def test_naming_tokens_of_the_demo(demo_builder):
    ids = torch.tensor(demo_builder.processor.tokenizer("A red cross, a Red square")["input_ids"])
    texts = demo_builder.token_texts(ids)
    said = [texts[place] for place in naming_tokens(ids, demo_builder.decode, ["red"])]
    assert [piece.strip() for piece in said] == ["red", "R", "ed"]
    assert naming_tokens(ids, demo_builder.decode, ["blue"]) == []
    assert naming_tokens(ids[:0], demo_builder.decode, ["red"]) == []


@given(*[st.lists(st.sampled_from(["red", "Red", "a", "A", "square", "."]), max_size=8)] * 2)
def test_words_that_are_kept_are_counted_as_often_as_they_stand_in_both(before, after):
    own = [word.lower() for word in before if word not in ("red", "Red", ".")]
    others = Counter(word.lower() for word in after if word != ".")
    both = sum(min(count, others[word]) for word, count in Counter(own).items())
    found = kept(" ".join(before), " ".join(after), ["red"])
    assert math.isnan(found) if not own else found == pytest.approx(both / len(own))


# Intervals.


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_of_shares_are_wilsons(drawn):
    successes, n = drawn
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    found = wilson(successes, n)
    assert (found.value, found.low, found.high) == pytest.approx((successes / n, expected.low, expected.high))
    assert 0 <= found.low <= found.value <= found.high <= 1


PAIRS = st.lists(st.tuples(*[st.sampled_from((0.0, 0.25, 0.5, 1.0))] * 2), min_size=1, max_size=40)


@given(PAIRS)
def test_a_paired_difference_turns_with_its_sides_and_stays_in_its_bounds(pairs):
    one, other = np.array(pairs).T
    found, turned = paired_difference(one, other), paired_difference(other, one)
    assert found.value == pytest.approx((one - other).mean())
    assert (found.low, found.high) == pytest.approx((-turned.high, -turned.low))
    assert -1 - 1e-9 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 1 + 1e-9
    assert found.high > found.low


@given(st.tuples(*[st.integers(0, 30)] * 4).filter(any))
def test_a_paired_difference_is_newcombes_by_the_four_cells(cells):
    """As Altman writes it, Statistics with Confidence (2000), page 52: both, the first alone, the other alone, none."""
    both, only, other, none = cells
    n = sum(cells)
    product = (both + only) * (other + none) * (both + other) * (only + none)
    cross = both * none - only * other
    corrected = cross if cross < 0 else max(0, cross - n / 2)
    phi = corrected / math.sqrt(product) if product else 0.0
    (p1, l1, u1), (p2, l2, u2) = (
        (k / n, *binomtest(k, n).proportion_ci(method="wilson")) for k in (both + only, both + other)
    )
    below = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    above = (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2
    found = paired_difference(
        np.repeat([1.0, 1.0, 0.0, 0.0], cells),
        np.repeat([1.0, 0.0, 1.0, 0.0], cells),
    )
    expected = (p1 - p2, p1 - p2 - math.sqrt(below), p1 - p2 + math.sqrt(above))
    assert (found.value, found.low, found.high) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("p_one", "p_other", "alike"), [(0.5, 0.1, 0.5), (0.95, 0.05, 0.0), (0.3, 0.3, 0.9)])
def test_paired_differences_hold_the_truth_nineteen_times_of_twenty(p_one, p_other, alike):
    rng = np.random.default_rng(4)
    held, draws, n = 0, 1500, 60
    for _ in range(draws):
        first, second = rng.random(n), rng.random(n)
        second = np.where(rng.random(n) < alike, first, second)
        found = paired_difference((first < p_one).astype(float), (second < p_other).astype(float))
        held += found.low <= p_one - p_other <= found.high
    assert 0.93 < held / draws < 0.998  # more where pairs are much alike, for which the correction is large


def test_the_interval_of_a_mean():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    found, half = mean_interval(values), 1.959964 * values.std(ddof=1) / 2
    assert (found.value, found.low, found.high) == pytest.approx((4, 4 - half, 4 + half), abs=1e-5)


# Effects.


def random_rows(rng, n, strengths, n_directions):
    texts = ["A red cross.", "A blue cross.", "A red", "A square in the red.", "on on on", ""]
    unedited, answers = [], []
    for image in range(n):
        text = texts[rng.integers(len(texts))]
        length = len(text.split())
        naming = [place for place, word in enumerate(text.split()) if word.strip(".") == "red"]
        unedited.append(
            Unedited(
                image=str(image),
                label="x",
                text=text,
                tokens=list(range(length)),
                naming=naming,
                log_probabilities=rng.normal(size=length).tolist(),
            )
        )
        for strength in strengths:
            for direction in range(n_directions):
                said = texts[rng.integers(len(texts))]
                likely = rng.normal(size=length).tolist()
                row = {"image": str(image), "strength": strength, "direction": direction}
                answers.append(Answer(**row, text=said, cut=False, log_probabilities=likely))
    return unedited, answers


@pytest.mark.parametrize("seed", range(4))
def test_effects_are_those_of_a_plain_count(seed):
    rng = np.random.default_rng(seed)
    unedited, answers = random_rows(rng, 23, (-2.0, 1.0), 4)
    found = effects(unedited, answers, ["red"])
    assert [effect.strength for effect in found] == [-2.0, 1.0]

    def says(text):
        return "red" in text.lower().replace(".", "").split()

    for effect in found:
        own, random = {}, {}
        for before in unedited:
            rows = [a for a in answers if a.image == before.image and a.strength == effect.strength]
            for side, several in ((own, rows[:1]), (random, rows[1:])):
                figures = {
                    "naming": [says(a.text) for a in several],
                    "changed": [a.text != before.text for a in several],
                    "removed": [not says(a.text) for a in several] if says(before.text) else [],
                    "brought": [says(a.text) for a in several] if not says(before.text) else [],
                }
                for name, inside in (("concept_tokens", True), ("other_tokens", False)):
                    places = [p for p in before.tokens if (p in before.naming) == inside]
                    shifts = [
                        np.mean([a.log_probabilities[p] - before.log_probabilities[p] for p in places])
                        for a in several
                        if places
                    ]
                    figures[name] = shifts
                for name, values in figures.items():
                    if values:
                        side.setdefault(name, []).append(np.mean(values))
        for name, values in own.items():
            compared = getattr(effect, name)
            assert compared.n == len(values)
            assert compared.own.value == pytest.approx(np.mean(values))
            assert compared.random.value == pytest.approx(np.mean(random[name]))
            assert np.mean(compared.each) == pytest.approx(np.mean(random[name]))
            assert compared.difference.value == pytest.approx(np.mean(values) - np.mean(random[name]))
            assert compared.difference.low <= compared.difference.value <= compared.difference.high


def job_of(mode="add", **given):
    edit = {"features": [1], "mode": mode, "positions": "image"}
    return SteerJob.model_validate({"output": "out", "edit": edit, "concept": ["red"], **given})


def told(own, random, before="A red cross in the corner.", n=40, strength=-2.0, mode="add"):
    """The sentence where `own` and `random` of 40 answers lose the word."""
    unedited = [Unedited(image=str(i), label="red", text=before) for i in range(n)]
    answers = [
        Answer(
            image=str(i),
            strength=strength,
            direction=direction,
            text=before if i >= lost else "on on on",
            cut=False,
            log_probabilities=[],
        )
        for i in range(n)
        for direction, lost in enumerate((own, *np.atleast_1d(random)))
    ]
    (effect,) = effects(unedited, answers, ["red"])
    return finding(job_of(mode), effect)


def test_findings_say_what_the_figures_say_favourable_or_not():
    assert "removes 'red' from 100% of the 40 answers that name it, random directions of equal norm from 0%: more" in (
        told(40, 0)
    )
    assert "100%: less often" in told(0, 40)
    assert "no more often, as far as 40 images tell" in told(3, 2)
    assert "Of their other words 0% are left (random: 100%): the answers are broken." in told(40, 0)
    assert "are broken" not in told(10, 0)
    assert "from 5%: more often (" in told(20, (2, 2, 2))
    assert "from 15%: more often, but not than each of them (" in told(20, (0, 0, 0, 30, 0))
    assert "from 85%: less often, but not than each of them (" in told(20, (40, 40, 40, 10, 40))
    assert told(1, 1, before="A blue cross").startswith("subtracting feature 1 at strength 2 at image positions: there")
    assert "brings 'red' into 0% of the 40 answers that do not name it" in told(1, 1, "A blue cross", strength=2.0)
    assert told(3, 2, mode="ablate", strength=0.0).startswith("ablating feature 1 at image positions removes")


# The job.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"edit": {"features": []}}, "at least 1 item"),
        ({"edit": {"features": [-1]}}, "greater than or equal to 0"),
        ({"edit": {"features": [1], "strengths": ["nan"]}}, "finite number"),
        ({"edit": {"features": [1], "mode": "ablate", "strengths": [1]}}, "--strength: ablate takes none"),
        ({"edit": {"features": [1], "mode": "ablate", "units": [1]}}, "--unit: ablate takes none"),
        ({"edit": {"features": [1, 2], "units": [1]}}, "1 units of 2 features"),
        ({"edit": {"features": [1], "units": [0]}}, "greater than 0"),
        ({"edit": {"features": [3, 3]}}, "3 is named twice"),
        ({"edit": {"features": [3], "strengths": [-1, 2, -1]}}, "-1.0 is named twice"),
        ({"concept": []}, "--concept: name the words"),
        ({"concept": ["red", " "]}, "an empty word"),
        ({"random_directions": 0}, "greater than or equal to 1"),
        ({"model": {"name": "other"}}, "no SAE is named for other"),
        ({"surprise": 1}, "Extra inputs"),
    ],
)
def test_a_job_that_cannot_work_is_refused(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        job_of(**given)


def test_a_label_is_the_concept_and_to_ablate_is_one_step():
    assert job_of(concept=[], label="red").words == ("red",)
    assert job_of(concept=["crimson"], label="red").words == ("crimson",)
    assert EditSpec(features=(1,), mode="ablate").steps == (0.0,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"edit": {"features": [768]}}, "--feature 768: .* has features 0 to 767"),
        ({"edit": {"features": list(range(97))}}, "97 at once are more than hidden states have dimensions, 96"),
        ({"label": "puce"}, "--label puce: demo-shapes has circle, square"),
        ({"hook_layer": 1}, "hook-layer 1"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_before_any_work(given, message):
    with pytest.raises(ConfigurationError, match=message):
        plan(job_of(**given))


# A steering of the demo.

JOB = {
    "images": {"name": "demo-colours", "sample": 84},
    "label": "red",
    "edit": {"features": [FEATURE], "strengths": [-4, 0], "positions": "image"},
    "random_directions": 2,
    "max_new_tokens": 20,
    "batch_size": 5,
}


def quiet(done, total):
    assert 0 <= done <= total


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def steered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steered") / "out"
    job = SteerJob.model_validate({"output": str(folder), **JOB})
    return folder, job, steer(plan(job), quiet)


def test_strength_zero_gives_the_same_text_and_likelihood_to_the_bit(steered):
    folder, _, record = steered
    before = {row["image"]: row for row in lines(folder, "unedited.jsonl")}
    same = [row for row in lines(folder, "answers.jsonl") if row["strength"] == 0]
    assert len(same) == 14 * 3
    for row in same:
        assert row["text"] == before[row["image"]]["text"]
        assert row["log_probabilities"] == before[row["image"]]["log_probabilities"]
    zero = record.effects[1]
    assert zero.changed.own.value == zero.changed.random.value == 0
    assert zero.concept_tokens.own.value == zero.other_tokens.random.value == 0


def test_subtracting_the_feature_for_red_removes_red_more_often_than_random_directions(steered):
    _, _, record = steered
    strong = record.effects[0]
    assert record.named.value == 1
    assert strong.removed.own.value > 0.9
    assert strong.removed.random.value < 0.2
    assert strong.removed.difference.low > 0.5
    assert strong.kept.own.value > 0.6
    assert strong.concept_tokens.own.value < 10 * strong.other_tokens.own.value < 0
    assert "more often" in record.findings[0]


def test_units_and_answers_are_those_of_each_image_alone(steered, demo_info, demo_builder, demo_cut, demo_dictionary):
    """By hand: activations of every prompt, edits as sums, one image at a time."""
    folder, job, record = steered
    the_plan, z = plan(job), []
    prompts = [demo_builder.build_prompt(the_plan.images.decode(place), job.question) for place in the_plan.places]
    for prompt in prompts:
        found = demo_dictionary.encode(demo_cut.hidden_states(pack([prompt])))[:, FEATURE]
        z.append(found[prompt.input_ids != demo_builder.bos_token_id][:])
    active = torch.cat(z)[torch.cat(z) > 0]
    assert record.units[0].unit == pytest.approx(float(active.mean()), rel=1e-5)
    assert record.units[0].tokens == len(active)
    assert record.units[0].images == sum(bool((each > 0).any()) for each in z)
    row = load_file(the_plan.pair.sae.path / "sae_weights.safetensors")["W_dec"][FEATURE]
    whole = demo_info.family.load_whole(demo_info, torch.float32, "cpu")
    own = [row for row in lines(folder, "answers.jsonl") if (row["strength"], row["direction"]) == (-4, 0)]
    for prompt, answer in list(zip(prompts, own, strict=True))[:4]:

        def by_hand(hidden, is_image):
            return hidden - 4 * record.units[0].unit * is_image[:, None] * row

        (ids,) = whole.generate([prompt], 20, 2, by_hand)
        assert demo_builder.decode(ids) == answer["text"]


def test_random_directions_have_the_norm_of_the_features_own(steered):
    _, job, _ = steered
    speaker = load_speaker(plan(job).subject, job.edit)
    hidden, is_image = torch.randn(5, 96), torch.ones(5, dtype=torch.bool)
    moves = [
        speaker.edit([3.0], -2.0, direction, seed)(hidden, is_image) - hidden
        for direction, seed in ((0, 0), (1, 0), (2, 0), (1, 1), (1, 0))
    ]
    for move in moves:
        torch.testing.assert_close(move.norm(dim=1), moves[0].norm(dim=1), rtol=1e-4, atol=1e-4)
    assert torch.equal(moves[1], moves[4])
    for one, other in ((0, 1), (1, 2), (1, 3)):
        assert abs(float(torch.cosine_similarity(moves[one][0], moves[other][0], dim=0))) < 0.5


def test_what_was_done_is_not_done_again(steered, monkeypatch):
    folder, job, record = steered
    written = {name: (folder / name).read_bytes() for name in ("unedited.jsonl", "answers.jsonl", "steering.json")}
    monkeypatch.setattr(module, "load_speaker", lambda *_: pytest.fail("the model was loaded again"))
    assert steer(plan(job), quiet) == record
    assert written == {name: (folder / name).read_bytes() for name in written}


@pytest.mark.parametrize(
    ("name", "kept_bytes"),
    [("unedited.jsonl", 700), ("answers.jsonl", 0), ("answers.jsonl", 3333), ("answers.jsonl", -5)],
)
def test_a_steering_that_was_killed_ends_as_one_that_was_not(steered, tmp_path, name, kept_bytes):
    folder, job, _ = steered
    copy = tmp_path / "out"
    shutil.copytree(folder, copy)
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:kept_bytes])
    (copy / "steering.json").unlink()
    if name == "unedited.jsonl":
        (copy / "answers.jsonl").unlink()
    steer(plan(job.model_copy(update={"output": str(copy)})), quiet)
    for each in ("unedited.jsonl", "answers.jsonl"):
        assert (copy / each).read_bytes() == (folder / each).read_bytes()
    one, other = (json.loads((at / "steering.json").read_text()) for at in (copy, folder))
    assert {**one, "job": None} == {**other, "job": None}


def test_an_interrupted_steering_says_how_to_go_on(steered, tmp_path):
    folder, job, _ = steered

    def stop(done, total):
        if done > 30:
            raise KeyboardInterrupt

    again = job.model_copy(update={"output": str(tmp_path / "out")})
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        steer(plan(again), stop)
    assert not (tmp_path / "out" / "steering.json").exists()
    steer(plan(again), quiet)
    assert (tmp_path / "out" / "answers.jsonl").read_bytes() == (folder / "answers.jsonl").read_bytes()


def test_a_folder_of_another_steering_is_refused_and_overwritten(steered, tmp_path):
    folder, job, _ = steered
    copy = tmp_path / "out"
    shutil.copytree(folder, copy)
    other = job.model_copy(update={"output": str(copy), "seed": 1})
    with pytest.raises(ConfigurationError, match="another seed of random directions 0 ≠ 1"):
        steer(plan(other), quiet)
    steer(plan(other), quiet, overwrite=True)
    own, new = (lines(at, "answers.jsonl") for at in (folder, copy))
    same = [(a == b) for a, b in zip(own, new, strict=True) if a["direction"] == 0]
    assert all(same)
    assert own != new


def test_several_features_and_clamping_and_given_units(tmp_path):
    edit = {"features": [FEATURE, 347], "mode": "clamp", "strengths": [0, -4], "units": [4.0, 2.0]}
    job = SteerJob.model_validate({**JOB, "output": str(tmp_path / "clamp"), "edit": {**edit, "positions": "image"}})
    record = steer(plan(job), quiet)
    assert [each.unit for each in record.units] == [4.0, 2.0]
    ablate = {"features": [FEATURE, 347], "mode": "ablate", "positions": "image"}
    job = SteerJob.model_validate({**JOB, "output": str(tmp_path / "ablate"), "edit": ablate})
    steer(plan(job), quiet)
    # To ablate is to clamp to 0, whatever the unit.
    clamped = [row for row in lines(tmp_path / "clamp", "answers.jsonl") if row["strength"] == 0]
    assert clamped == lines(tmp_path / "ablate", "answers.jsonl")


def test_a_feature_that_never_fires_is_named(tmp_path, demo_dictionary, demo_cut, demo_builder):
    the_plan = plan(SteerJob.model_validate({**JOB, "output": str(tmp_path / "out")}))
    images, question = the_plan.images, the_plan.job.question
    prompts = [demo_builder.build_prompt(images.decode(place), question) for place in the_plan.places]
    peak = torch.stack([demo_dictionary.encode(demo_cut.hidden_states(pack([each]))).amax(0) for each in prompts])
    spec = {"features": [FEATURE, int(peak.amax(0).argmin())], "positions": "image"}
    given = {**JOB, "output": str(tmp_path / "out"), "edit": spec}
    with pytest.raises(ConfigurationError, match=f"{spec['features'][1]}: it is active on none of 14 prompts"):
        steer(plan(SteerJob.model_validate(given)), quiet)


def test_a_strength_beyond_all_bounds_stops_and_says_so(tmp_path):
    spec = {"features": [FEATURE], "strengths": [1e38], "positions": "image"}
    with pytest.raises(RunStopped, match=r"strength 1e\+38 pushes hidden states so far"):
        steer(plan(SteerJob.model_validate({**JOB, "output": str(tmp_path / "out"), "edit": spec})), quiet)


@pytest.fixture
def folder_of_images(tmp_path, demo_builder):
    """Two classes; one file is no image, and one image is too narrow for the model."""
    job = SteerJob.model_validate({"output": str(tmp_path / "none"), **JOB})
    the_plan = plan(job)
    for label in ("red", "other"):
        (tmp_path / "images" / label).mkdir(parents=True)
    for place in the_plan.places[:4]:
        the_plan.images.decode(place).save(tmp_path / "images" / "red" / f"{place}.png")
    the_plan.images.decode(1).save(tmp_path / "images" / "other" / "1.png")
    (tmp_path / "images" / "red" / "bad.png").write_bytes(b"no image")
    the_plan.images.decode(2).resize((900, 2)).save(tmp_path / "images" / "red" / "narrow.png")
    return tmp_path / "images"


def test_images_that_cannot_be_asked_about_are_left_out_and_listed(folder_of_images, tmp_path):
    given = {**JOB, "images": {"name": str(folder_of_images)}, "model": {"name": "demo"}, "batch_size": 4}
    record = steer(plan(SteerJob.model_validate({**given, "output": str(tmp_path / "out")})), quiet)
    assert record.images == 4
    assert [(each.id, each.error) for each in record.left_out] == [
        ("red/bad.png", "CorruptImage"),
        ("red/narrow.png", "ImageShape"),
    ]
    only_bad = tmp_path / "bad" / "red"
    only_bad.mkdir(parents=True)
    shutil.copy(folder_of_images / "red" / "bad.png", only_bad / "bad.png")
    shutil.copytree(folder_of_images / "other", tmp_path / "bad" / "other")
    bad = plan(
        SteerJob.model_validate({**given, "images": {"name": str(tmp_path / "bad")}, "output": str(tmp_path / "out2")})
    )
    with pytest.raises(DataError, match=r"no image could be asked about; the first, red/bad.png: not an image"):
        steer(bad, quiet)


# The command.


def run(*args):
    return CliRunner().invoke(app, ["steer", *map(str, args)])


OPTIONS = ["--images", "demo-colours", "--sample", 36, "--label", "red", "--max-new-tokens", 20]
SHORT = ["--feature", FEATURE, "--strength", "-4,0", "--positions", "image", "--random-directions", 1]


def test_the_command_prints_what_it_found_and_draws_it(tmp_path):
    result = run(*SHORT, *OPTIONS, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for text in (
        f"feature {FEATURE}: strength 1 is an activation of",
        "6 images; 100%",
        "without edit",
        "removes 'red'",
    ):
        assert text in result.output
    assert (tmp_path / "out" / "steering.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "steering.svg").exists()
    again = run(*SHORT, *OPTIONS, "-o", tmp_path / "out", "--json")
    assert again.exit_code == 0
    printed = again.stdout[again.stdout.index("{") :]
    assert SteerRecord.model_validate_json(printed) == SteerRecord.model_validate_json(
        (tmp_path / "out" / "steering.json").read_text()
    )


def test_a_job_file_does_what_the_command_does(tmp_path):
    printed = run(*SHORT, *OPTIONS, "-o", tmp_path / "out", "--print-job")
    assert printed.exit_code == 0, printed.output
    (tmp_path / "job.yaml").write_text(printed.stdout)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "job.yaml")])
    assert result.exit_code == 0, result.output
    direct = run(*SHORT, *OPTIONS, "-o", tmp_path / "out")  # the same work: nothing is done again
    assert direct.exit_code == 0
    dry = run(*SHORT, *OPTIONS, "-o", tmp_path / "out", "--dry-run")
    assert "would answer about 6 images of demo-colours" in re.sub(r"\s+", " ", dry.output)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--feature", "x", *OPTIONS, "-o", "out"], "--feature: "),
        (["--feature", FEATURE, "--strength", "much", *OPTIONS, "-o", "out"], "--strength: "),
        (["--feature", FEATURE, *OPTIONS], "--output: name the folder"),
        (["--feature", FEATURE, "-o", "out"], "--concept: name the words"),
        (["--feature", 768, *OPTIONS, "-o", "out"], "has features 0 to 767"),
        (["--feature", FEATURE, "--image", "x.png"], "--image: name the --model"),
        (["--feature", FEATURE, "--image", "x.png", "--model", "demo"], "no image file can be read at 'x.png'"),
        (["--feature", FEATURE, "--image", "x.png", "--model", "demo", "--label", "red"], "--label goes with a set"),
    ],
)
def test_wrong_options_are_named(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    result = run(*args)
    assert result.exit_code in (1, 2)
    assert message in re.sub(r"\s+", " ", result.output)


def test_one_image_is_answered_about_side_by_side(folder_of_images, tmp_path):
    file = next(path for path in sorted((folder_of_images / "red").iterdir()) if path.stem.isdigit())
    asked = ["--image", file, "--model", "demo", "--feature", FEATURE, "--positions", "image", "--max-new-tokens", 20]
    result = run(*asked)
    assert result.exit_code == 0, result.output
    assert "without edit" in result.output
    assert "strength -4" in result.output
    found = json.loads(run(*asked, "--strength", "0,-4", "--json", "-o", tmp_path / "one").stdout)
    assert found == json.loads((tmp_path / "one" / "image.json").read_text())
    (zero, same), (four, other) = found["edited"]
    assert (zero, four, same) == (0.0, -4.0, found["unedited"])
    assert "red" in same.lower()
    assert "red" not in other.lower()
    refused = run(*asked, "-o", tmp_path / "one")
    assert refused.exit_code == 2
    assert "--overwrite" in refused.output
    narrow = run(*asked[:1], folder_of_images / "red" / "narrow.png", *asked[2:])
    assert narrow.exit_code == 1
    assert "too narrow" in re.sub(r"\s+", " ", narrow.output)


def test_an_answer_of_no_token_has_no_likelihood(steered):
    _, job, _ = steered
    the_plan = plan(job)
    speaker = load_speaker(the_plan.subject, job.edit)
    prompts = [speaker.prompt(the_plan.images.decode(place), job.question) for place in the_plan.places[:2]]
    assert speaker.likelihoods(prompts, [[], []], None) == [[], []]
    (none, some), edit = speaker.likelihoods(prompts, [[], [5, 9]], None), speaker.edit([4.0], -4.0)
    assert (none, len(some)) == ([], 2)
    assert speaker.likelihoods(prompts, [[], [5, 9]], edit)[1] != some

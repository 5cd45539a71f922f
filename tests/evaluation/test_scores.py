"""The scores in a judge's reply."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.evaluation.scores import score_pair


@pytest.mark.parametrize(
    ("reply", "pair"),
    [
        ("8 9", (8, 9)),
        ("8, 9", (8, 9)),
        ("8,9\nBoth are good.", (8, 9)),
        ("8/10 9/10", (8, 9)),
        ("8.5 / 10, 9 out of 10", (8.5, 9)),
        ("Assistant 1: 8 Assistant 2: 9", (8, 9)),
        ("Assistant 2: 9 Assistant 1: 8", (8, 9)),
        ("**Assistant 1:** 8/10\n**Assistant 2:** 9/10\nGood.", (8, 9)),
        ("**8** and **9**", (8, 9)),
        ("(8, 9)", (8, 9)),
        ("\n\n8\t9\r\nAssistant 1 names 2 dogs and 3 cats.", (8, 9)),
        ("Here you are:\n\n8 9\n\nAssistant 1 is terse.", (8, 9)),
        ("8 9\n7 6", (8, 9)),
        ("", None),
        ("8", None),
        ("8 9 7", None),
        ("0 9", (0, 9)),
        ("1. 8\n2. 9", (8, 9)),
        ("(1) 8\n(2) 9", (8, 9)),
        ("2: 9\n1: 8", (8, 9)),
        ("#1: 8/10\n#2: 9/10", (8, 9)),
        ("Score 1: 8\nScore 2: 9", (8, 9)),
        ("Assistant 1 - 8\nAssistant 2 - 9", (8, 9)),
        ("Assistant 1: 8.0/10.0\nAssistant 2: 9.0/10.0", (8, 9)),
        ("Assistant 2 and 1: 9 8", (8, 9)),
        ("8 and 9 for Assistant 1 and Assistant 2, respectively.", (8, 9)),
        ("Scores (1-10)\n8 9", (8, 9)),
        ("Scores: 1 to 10\n8 9", (8, 9)),
        ("Assistant 1: 4/5\nAssistant 2: 3/5", None),
        ("Assistant 1: 8 7\nAssistant 2: 9 6", None),
        ("Overall: 7/8", None),
        ("8-9", None),
        ("1) 8 2) 9", None),
        ("8\n9", None),
        ("Assistant 1: 8", None),
        ("11 9", None),
        ("-1 -1", None),
        ("8 11\n8 9", None),
        ("In the image there are 2 dogs and 3 cats.", None),
        ("Here you are:\n8 9\nor rather\n7 9", None),
        ("Assistant 1: 8\nAssistant 1: 7\nAssistant 2: 9", None),
        ("I cannot judge these answers.", None),
    ],
)
def test_scores_are_read_as_judges_write_them(reply, pair):
    assert score_pair(reply) == pair


SCORE = st.one_of(st.integers(0, 10), st.integers(0, 19).map(lambda half: half / 2))
FORMS = ("{} {}", "{}, {}", "{}/10 {}/10", "Assistant 1: {} Assistant 2: {}", "**{}** and **{}**", "Scores: {} {}")
PROSE = st.lists(st.sampled_from(["Assistant 1 counts 3 dogs.", "Fine.", "- 2 of 5 are right"]), max_size=3)


@given(SCORE, SCORE, st.sampled_from(FORMS), PROSE, st.booleans())
def test_a_pair_is_found_in_any_form_whatever_prose_is_about(first, second, form, prose, before):
    line = form.format(first, second)
    assert score_pair("\n".join([*(["Sure."] if before else []), line, *prose])) == (first, second)


@given(st.text())
def test_no_text_is_an_error_and_no_score_is_out_of_range(text):
    pair = score_pair(text)
    assert pair is None or all(0 <= score <= 10 for score in pair)

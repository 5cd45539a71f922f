"""Hidden states that cannot be used are told of; the fit skips what overflows, and is measured all over the data."""

import pytest
import torch

from curate import demo
from curate.datasets import spread
from curate.errors import NonFinite, OutOfMemory
from curate.models.packing import pack
from curate.sae.load import inspect_dictionary, load_dictionary
from curate.scoring.fit import FitPass
from curate.scoring.hidden import hidden_alone


@pytest.mark.parametrize(("n", "count"), [(0, 4), (3, 4), (4, 4), (7, 4), (1000, 64)])
def test_what_is_spread_is_from_all_over(n, count):
    found = spread(range(n), count)
    assert len(found) == min(n, count)
    assert found == sorted(set(found))
    if found:
        longest = -(-n // len(found))
        assert found[0] == 0
        assert max(b - a for a, b in zip(found, [*found[1:], n], strict=True)) <= longest


def test_a_sample_whose_reconstruction_overflows_is_skipped_alone(demo_cut, demo_prepared):
    sae = inspect_dictionary(str(demo.SAE))
    fits = [FitPass(sae, load_dictionary(sae)) for _ in range(2)]
    samples = [(demo_cut.hidden_states(pack([each.inputs])), each.inputs.is_image) for each in demo_prepared[:3]]
    (one, *_), huge = samples, samples[0][0] * 1e37
    assert bool(huge.isfinite().all())
    for hidden, is_image in (*samples, (huge, one[1])):
        fits[0].take(hidden, is_image)
    for hidden, is_image in samples:
        fits[1].take(hidden, is_image)
    assert [(fit.samples, fit.overflowed) for fit in fits] == [(3, 1), (3, 0)]
    assert fits[0].quality.result() == fits[1].quality.result()


def test_hidden_states_that_cannot_be_used_are_told_of(demo_cut, demo_prepared):
    inputs = demo_prepared[0].inputs
    assert hidden_alone(demo_cut.hidden_states, inputs).equal(demo_cut.hidden_states(pack([inputs])))
    with pytest.raises(NonFinite, match="NaN or infinite"):
        hidden_alone(lambda packed: torch.full((len(packed), 4), torch.inf), inputs)
    with pytest.raises(OutOfMemory, match=f"{len(inputs.input_ids):,} tokens do not fit"):
        hidden_alone(lambda packed: torch.empty(2**50), inputs)
    with pytest.raises(RuntimeError, match="of another kind"):
        hidden_alone(_broken, inputs)


def _broken(packed):
    raise RuntimeError("of another kind")

"""Computed costs against operations that torch counts in real forward passes."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from curate import demo
from curate.datasets import DatasetSpec
from curate.models.families import inspect_model
from curate.models.packing import pack
from curate.pipeline.cost import DEVICES, UTILISATION, Device, Flops, gpu_hours, sample_flops
from curate.pipeline.job import ScoreJob
from curate.pipeline.plan import plan
from tests.models.small import MODELS, picture


@pytest.fixture
def the_plan(tmp_path):
    return plan(ScoreJob(output=tmp_path / "run", dataset=DatasetSpec(limit=40)))


@pytest.fixture
def counted(monkeypatch):
    """Operations of a forward pass. torch does not count its fused attention on a CPU, so products are left apart."""

    def softmax_of_products(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **options):
        groups = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
        return (query @ key.transpose(-1, -2)).softmax(-1) @ value

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", softmax_of_products)

    def count(model, inputs) -> int:
        with FlopCounterMode(display=False) as counter:
            model.hidden_states(pack([inputs]))
        return counter.get_total_flops()

    return count


def pictures(inputs) -> int:
    return len(inputs.tensors["pixel_values"])


def test_operations_of_the_demo_are_those_that_torch_counts(
    the_plan, demo_cut, demo_dictionary, demo_prepared, counted
):
    for sample in demo_prepared[:5]:
        found = sample_flops(the_plan, the_plan.hook_layer, len(sample), pictures(sample.inputs))
        assert found.model == pytest.approx(counted(demo_cut, sample.inputs), rel=0.03)
        with FlopCounterMode(display=False) as counter:
            demo_dictionary.encode(torch.zeros(len(sample), the_plan.model.d_model))
        assert found.sae == counter.get_total_flops()


@pytest.mark.parametrize("kind", ["llava_next-mistral", "llava-llama", "llava-gemma", "chameleon"])
def test_operations_of_other_families_are_those_that_torch_counts(the_plan, tmp_path, counted, kind):
    info = inspect_model(str(MODELS[kind](tmp_path)))
    inputs = info.family.load_builder(info).build(picture(50, 50), "what colour " * 20, "red")
    model = info.family.load_model(info, 2, torch.float32, "cpu")
    found = sample_flops(replace(the_plan, model=info), 2, len(inputs.input_ids), pictures(inputs))
    # Sizes so small that norms and rounding of sizes count for more than in any real model.
    assert found.model == pytest.approx(counted(model, inputs), rel=0.1)


def test_each_part_computes_at_its_own_peak():
    device = Device("X", bfloat16=100.0, float32=10.0)
    assert Flops(model=200.0, sae=30.0).seconds(device) == pytest.approx((2 + 3) / UTILISATION)


def with_parameters(the_plan, **changes):
    parameters = the_plan.job.parameters.model_copy(update=changes)
    return replace(the_plan, job=the_plan.job.model_copy(update={"parameters": parameters}))


def test_weights_are_of_their_samples_and_cost_a_pass_each(the_plan):
    device = DEVICES[0]
    scores = gpu_hours(with_parameters(the_plan, metrics=("l0",)), 100, 5, 40_000, device)
    weighed = with_parameters(the_plan, weight_samples=1000)
    assert gpu_hours(weighed, 100, 5, 40_000, device) == pytest.approx(scores * 41 / 40)
    assert gpu_hours(weighed, 100, 5, 40_000, device, weighed=True) == pytest.approx(scores)
    # There are no more weight samples than samples.
    assert gpu_hours(weighed, 100, 5, 500, device) == pytest.approx(scores / 40)


def test_a_likelihood_takes_all_blocks(the_plan):
    cut = sample_flops(the_plan, demo.HOOK_LAYER, 100, 0).model
    whole = with_parameters(the_plan, metrics=("loglik",))
    per_sample = 3600 * gpu_hours(whole, 100, 0, 1, DEVICES[0])
    expected = replace(sample_flops(the_plan, 3, 100, 0))
    assert expected.model == pytest.approx(cut * 4 / 3)
    assert per_sample == pytest.approx(expected.seconds(DEVICES[0]))

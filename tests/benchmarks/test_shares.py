"""Where an evaluation's time goes: what is counted as what, and that nothing is lost."""

import pytest
import shares
import torch


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::addmm", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::native_group_norm", "norms"),
        ("aten::silu", "activations"),
        ("aten::add", "sums and products"),
        ("aten::copy_", "copies"),
        ("aten::empty", "the rest"),
    ],
)
def test_operators_are_counted_by_what_they_do(operator, kind):
    assert shares.kind_of(operator) == kind


def test_the_time_of_a_product_is_that_of_products():
    a = torch.rand(600, 600)
    found = shares.shares(lambda: a @ a)
    assert sum(found.values()) == pytest.approx(1)
    assert found["matrix products"] > 0.8

"""Which form of attention is taken: by what was measured, and where nothing but the plain one runs."""

import pytest

from bat_jax.config import AttentionKernels
from bat_jax.engine.attention_choice import choose_attention, fastest, measure_decoder_attention
from tests.tiny_model import tiny_config


def form(run_s, max_error):
    return {"run_s": run_s, "max_error": max_error, "compile_s": 1.0}


@pytest.mark.parametrize(
    ("cudnn", "pallas", "taken"),
    [
        (form(0.2, 0.001), form(0.4, 0.001), "cudnn"),
        (form(0.2, 0.003), form(0.4, 0.002), "pallas"),
        (form(1.1, 0.001), {"failed": "NotImplementedError: no"}, "plain"),
        (form(0.1, float("nan")), form(2.0, 0.001), "plain"),
    ],
    ids=["the fastest", "not one that is wrong", "the plain one", "not one that says nothing"],
)
def test_the_fastest_right_form_is_taken(cudnn, pallas, taken):
    assert fastest({"plain": form(1.0, 0.001), "cudnn": cudnn, "pallas": pallas}) == taken


def test_a_cpu_takes_the_plain_form_and_says_why_others_fail():
    assert choose_attention(tiny_config(), 8) == AttentionKernels()
    found = measure_decoder_attention(tiny_config(), 16)
    assert found["plain"]["max_error"] < 1e-5 and "failed" in found["cudnn"] and "failed" in found["pallas"]
    assert fastest(found) == "plain"


def test_a_named_form_is_taken_for_both_networks_and_an_unknown_one_is_refused():
    assert choose_attention(tiny_config(), 8, "cudnn") == AttentionKernels(tower="cudnn", decoder="cudnn")
    with pytest.raises(ValueError, match="attention='flash': known are auto, plain, cudnn, pallas"):
        choose_attention(tiny_config(), 8, "flash")

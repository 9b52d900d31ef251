"""The expectation against what was measured, and its terms against figures worked out by hand."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.unit.perfmodel.windows import windowed
from tools.fit_expectation import (
    DTYPE,
    Measured,
    expected_prefill_ms,
    fit,
    ratio_table,
    read_measured,
    shape_named,
)
from tools.published_expectation import expected_figure, published_table
from tpsweep.perfmodel.allreduce import all_reduce_us, link_class
from tpsweep.perfmodel.constants import NoExpectationError, constants, document
from tpsweep.perfmodel.gpu_specs import cards
from tpsweep.perfmodel.modules import Experts
from tpsweep.perfmodel.step_time import (
    Batch,
    communication,
    decode,
    kv_reads,
    prefill,
    rank_reads,
    weight_reads,
)

ROOT = Path(__file__).parents[3]
ROWS = read_measured(ROOT / "tests" / "data" / "measured.yaml")
H200 = cards()["NVIDIA H200"]
EIGHT = shape_named("llama-3.1-8b")
RUN = Batch(tp=2, batch=1, input_len=512, output_len=128)


def name(row: Measured) -> str:
    run = row.run
    layout = f"{row.model}-tp{run.tp}-pp{run.pp}" + ("-ep" if run.ep else "")
    held = "fitted" if row.fitted else "held-out"
    mode = ("-eager" if run.eager else "") + f"-{row.precision}"
    return f"{layout}-b{run.batch}-{run.backend}{mode}-{held}{row.note}"


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_decode_is_within_a_fifth_of_what_was_measured(row: Measured) -> None:
    expected = decode(row.shape, DTYPE, row.card, row.run).ms
    assert expected / row.decode_ms == pytest.approx(1, abs=0.2)


def test_what_is_fitted_and_what_is_held_out() -> None:
    fitted = {(r.model, r.run.tp, r.run.batch, r.run.eager) for r in ROWS if r.fitted}
    eight = [("llama-3.1-8b", 1, b, False) for b in (1, 4, 16, 32)]
    eight += [("llama-3.1-8b", 2, b, False) for b in (1, 32)]
    eager = [("llama-3.1-8b", tp, 1, True) for tp in (1, 2)]
    assert fitted == {*eight, *eager}
    cached = [(r.precision, r.run.batch) for r in ROWS if r.cache_fitted]
    assert cached == [("fp8-kv", 128)]
    of_experts = [(r.model, r.run.tp, r.run.batch, r.run.ep) for r in ROWS if r.experts_fitted]
    assert of_experts == [("qwen3-30b-a3b", 2, 1, False)]
    assert not [r for r in ROWS if r.fitted and "70b" in r.model]
    assert not [r for r in ROWS if r.fitted and r.run.backend == "nccl"]


def test_the_constants_are_those_of_the_fit() -> None:
    used = asdict(constants())
    other = replace(constants(), fp8_kv_bandwidth_share=0.5)  # no constant is its own start
    found = asdict(fit(ROWS, other))
    assert found == pytest.approx(used, rel=2e-3)
    assert all(entry["origin"] for entry in document()["constants"].values())


def test_the_fit_does_not_see_the_rows_held_out() -> None:
    used = [row.fitted or row.cache_fitted or row.experts_fitted for row in ROWS]
    spoilt = [
        row if keep else replace(row, decode_ms=1e3) for row, keep in zip(ROWS, used, strict=True)
    ]
    assert fit(spoilt, constants()) == fit(ROWS, constants())


def test_the_page_shows_the_ratios_of_today() -> None:
    assert ratio_table(ROWS) in (ROOT / "docs" / "expectation.md").read_text("utf-8")


def test_terms_of_a_step_by_hand() -> None:
    known = replace(constants(), weight_bandwidth_share=0.5, kv_bandwidth_share=0.25)
    step = decode(EIGHT, DTYPE, H200, RUN, known)
    reads = (8_030_261_248 - 128256 * 4096) * 2  # all but the input embedding
    assert step.body == pytest.approx(1e3 * reads / 2 / 4.8e12 / 0.5)
    assert step.kv == pytest.approx(1e3 * 576 * 65536 / 4.8e12 / 0.25)
    assert step.ms == pytest.approx(
        step.body + step.kv + step.layers + step.step + step.communication
    )


def test_an_fp8_cache_is_read_in_the_time_of_a_bf16_one() -> None:
    one = replace(RUN, tp=1, batch=128)
    plain = decode(EIGHT, DTYPE, H200, one)
    small = decode(EIGHT, DTYPE, H200, replace(one, cache_dtype="fp8"))
    assert kv_reads(EIGHT, DTYPE, replace(one, cache_dtype="fp8")) == 128 * 576 * 65536
    assert small.kv == pytest.approx(plain.kv, rel=0.02)


def test_communication_by_hand() -> None:
    # 65 all-reduces of 8 KiB, and half of the logits of one sequence by NCCL
    by_hand = 65 * (4.4 + 8192 / 269e3) + 7 + 128256 / 333e3
    assert communication(EIGHT, DTYPE, H200, RUN, tokens=1) == pytest.approx(by_hand / 1e3)
    assert communication(EIGHT, DTYPE, H200, replace(RUN, tp=1), tokens=1) == 0


def test_a_step_passes_the_stages_of_a_pipeline_one_after_the_other() -> None:
    alone = decode(EIGHT, DTYPE, H200, replace(RUN, tp=1))
    piped = decode(EIGHT, DTYPE, H200, replace(RUN, tp=1, pp=2))
    for term in ("body", "kv", "layers", "step"):
        assert getattr(piped, term) == pytest.approx(getattr(alone, term)), term
    # Hidden state and residual of a token by NCCL, and what a stage costs the engine.
    send = (7 + 2 * 8192 / 333e3 + constants().stage_us) / 1e3
    assert piped.communication == pytest.approx(send)
    both = replace(RUN, tp=2, pp=2)
    by_hand = communication(EIGHT, DTYPE, H200, RUN, tokens=1)
    sent = (7 + 8192 / 333e3 + constants().stage_us) / 1e3
    assert decode(EIGHT, DTYPE, H200, both).communication == pytest.approx(by_hand + sent)


def test_steps_of_a_prefill_are_in_several_stages_at_a_time() -> None:
    run = replace(RUN, tp=1, batch=64, pp=2)
    one = prefill(EIGHT, DTYPE, H200, replace(run, batch=16)).ms
    four = prefill(EIGHT, DTYPE, H200, replace(run, prompts=(16.0,) * 4)).ms
    # Five halves in place of eight: the second stage has the output head, too.
    assert four == pytest.approx(one * 5 / 2, rel=0.02)
    uneven = prefill(EIGHT, DTYPE, H200, replace(run, prompts=(1.0, 7.0, 24.0, 32.0))).ms
    whole = prefill(EIGHT, DTYPE, H200, run).ms
    assert uneven == pytest.approx(whole * (64 + 32) / 128, rel=0.02)
    # Its sequences then decode in two groups, each in the other stage.
    groups = decode(EIGHT, DTYPE, H200, replace(run, group=33))
    assert groups == decode(EIGHT, DTYPE, H200, replace(run, batch=33))


@pytest.mark.parametrize("row", [r for r in ROWS if r.run.pp > 1 or r.shape.experts], ids=name)
def test_prefill_of_other_layouts_is_within_a_fifth(row: Measured) -> None:
    """One constant is the mean of two of these: experts at batch 8."""
    assert row.launch_fitted == (row.shape.experts > 0 and row.run.batch == 8)
    expected = expected_prefill_ms(row)
    assert expected is not None
    assert expected / row.prefill_ms == pytest.approx(1, abs=0.2)


def test_a_short_prefill_waits_for_the_host() -> None:
    """512 tokens of 8B at TP=2; under CUDA graphs, and without. A decode does not wait."""
    run = Batch(2, 1, 512, 128)
    short, eager = (prefill(EIGHT, DTYPE, H200, replace(run, eager=e)) for e in (False, True))
    assert short.ms == short.host == pytest.approx(32 * 0.339)
    assert short.gpu < short.ms
    assert eager.ms == eager.host == pytest.approx(32 * 0.597)
    assert decode(EIGHT, DTYPE, H200, run).host == 0


def test_one_gpu_needs_no_all_reduce_whatever_the_card() -> None:
    assert all_reduce_us("none", cards()["NVIDIA L40S"], 1, 8192) == 0


def test_from_8_mib_on_nccl_takes_over() -> None:
    below, above = (all_reduce_us("custom", H200, 2, size) for size in (8 * 2**20 - 1, 8 * 2**20))
    assert below == pytest.approx(4.4 + 8 * 2**20 / 269e3, rel=1e-6)
    assert above == all_reduce_us("nccl", H200, 2, 8 * 2**20)


@pytest.mark.parametrize(
    ("backend", "card", "tp", "said"),
    [
        ("flashinfer", "NVIDIA H200", 2, "allreduce_backend: 'flashinfer'; curves are known for"),
        ("custom", "NVIDIA L40S", 2, "no custom all-reduce curve for 2 x NVIDIA L40S"),
        ("nccl", "NVIDIA A100 80GB PCIe", 4, "no nccl all-reduce curve for 4 x NVIDIA A100 80GB"),
        ("custom", "NVIDIA H200", 8, "for 8 x NVIDIA H200"),
        ("custom", "NVIDIA B200", 2, "for 2 x NVIDIA B200"),
    ],
)
def test_where_nothing_is_known_nothing_is_expected(
    backend: str, card: str, tp: int, said: str
) -> None:
    with pytest.raises(NoExpectationError, match=said):
        all_reduce_us(backend, cards()[card], tp, 8192)


def test_link_classes_follow_from_the_datasheets() -> None:
    found = {card.name: link_class(card, 2) for card in cards().values()}
    assert found["NVIDIA H200"] == found["NVIDIA H100 80GB HBM3"] == "NV18"
    assert found["NVIDIA A100-SXM4-80GB"] == found["NVIDIA A100 80GB PCIe"] == "NV12"
    assert found["NVIDIA L40S"] == link_class(cards()["NVIDIA A100 80GB PCIe"], 4) == "none"


def test_the_host_bounds_an_eager_step() -> None:
    eager = decode(EIGHT, DTYPE, H200, replace(RUN, eager=True))
    assert eager.ms == eager.host == pytest.approx(32 * constants().eager_layer_us / 1e3)
    alone = decode(EIGHT, DTYPE, H200, replace(RUN, eager=True, tp=1))
    assert alone.ms == alone.host == pytest.approx(32 * constants().eager_layer_tp1_us / 1e3)
    long = prefill(EIGHT, DTYPE, H200, replace(RUN, eager=True, batch=128))
    assert long.ms > long.host


def test_the_fullest_rank_of_whole_experts_by_hand() -> None:
    """8 of 128 experts on 2 ranks: 4 on average, and 0.5895 (Blom) of a deviation of 1.936 more."""
    moe, run = shape_named("qwen3-30b-a3b"), replace(RUN, ep=True)
    one = 3 * 2048 * 768 * 2 * 48  # bytes of an expert, over all layers
    more = rank_reads(moe, DTYPE, run, 1) - rank_reads(moe, DTYPE, RUN, 1)
    assert more / one == pytest.approx(0.5895 * 1.936, rel=1e-3)
    # All are hit: the ranks are equal.
    assert rank_reads(moe, DTYPE, run, 10_000) == rank_reads(moe, DTYPE, RUN, 10_000)
    assert rank_reads(EIGHT, DTYPE, run, 1) == rank_reads(EIGHT, DTYPE, RUN, 1)


def test_a_large_batch_hits_more_experts() -> None:
    inner = EIGHT.intermediate
    layers = tuple(replace(layer, mlp=Experts(8, 2, inner)) for layer in EIGHT.decoder)
    all_of_them = tuple(replace(layer, mlp=Experts(8, 8, inner)) for layer in EIGHT.decoder)
    mixture = replace(EIGHT, decoder=layers)
    one, many = (weight_reads(mixture, DTYPE, tokens) for tokens in (1, 1000))
    assert one == mixture.bytes_read_per_step(DTYPE)
    assert many == replace(EIGHT, decoder=all_of_them).bytes_read_per_step(DTYPE)


def test_a_sliding_window_bounds_the_reads_of_the_cache() -> None:
    assert kv_reads(windowed(EIGHT, 100), DTYPE, RUN) == 100 * 65536


def test_published_figures_that_are_expected() -> None:
    line = {"model": "llama-3.1-8b", "gpu": "H100", "tp": "2", "batch": "4"}
    latency, rate = (
        expected_figure({**line, "metric": metric}, shape_named)
        for metric in ("batch_latency", "throughput")
    )
    assert latency is not None and rate is not None
    assert rate == pytest.approx(4 * 64 / latency * 1e3)
    assert expected_figure({**line, "metric": "ttft_p50", "batch": ""}, shape_named) is None


def test_published_figures_as_a_table(tmp_path: Path) -> None:
    made_up = tmp_path / "made-up.csv"
    made_up.write_text(
        "table,model,gpu,gpus,tp,batch,metric,value,unit,note\n"
        "t,llama-3.1-8b,H200,1,1,,itl_p50,10,ms,made up\n"
        "t,llama-3.1-8b,H200,1,1,,ttft_p50,10,ms,made up\n",
        "utf-8",
    )
    lines = published_table(made_up, shape_named).splitlines()[2:]
    assert [line.rstrip(" |").rsplit(" ", 1)[1] for line in lines] == ["0.50", "n/a"]


def test_fp8_on_a_card_that_does_not_multiply_it_has_no_expectation() -> None:
    """On an A100 vLLM unpacks FP8 to 16 bits: its prefill is not twice as fast as BF16's."""
    run = replace(RUN, tp=1)
    a100 = cards()["NVIDIA A100-SXM4-80GB"]
    assert prefill(EIGHT.online_fp8, DTYPE, H200, run).body < prefill(EIGHT, DTYPE, H200, run).body
    for step in (prefill, decode):
        assert step(EIGHT, DTYPE, a100, run).ms > 0
        with pytest.raises(NoExpectationError, match="A100-SXM4-80GB: its tensor cores do not"):
            step(EIGHT.online_fp8, DTYPE, a100, run)
        with pytest.raises(NoExpectationError, match="no constants for float32"):
            step(EIGHT, "float32", H200, run)

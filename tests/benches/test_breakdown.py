import pytest

from switch_tf.benches.breakdown import OTHER, PARTS, WAITING, part_of, seconds_by_part
from switch_tf.metrics.trace import Span

MODEL = "tf.StatefulPartitionedCall/model/decoder/layer_1"


@pytest.mark.parametrize(
    "name, part",
    [
        (f"{MODEL}/self_attention/attention/query/Einsum:_MklEinsum", "attention"),
        (f"{MODEL}/feed_forward/ffn/MatMul_1:MatMul", "dense FFN"),
        (f"{MODEL}/feed_forward/switch_ffn/router/logits/MatMul:MatMul", "router"),
        (f"{MODEL}/feed_forward/switch_ffn/combine/GatherV2:GatherV2", "dispatch and combine"),
        (f"{MODEL}/feed_forward/switch_ffn/experts/MatMul:BatchMatMulV2", "experts"),
        (f"{MODEL}/feed_forward/norm/mul:Mul", "norms, residuals, dropout"),
        ("tf.StatefulPartitionedCall/loss/ArgMax:ArgMax", "loss"),
        ("tf.StatefulPartitionedCall/optimizer/Mean_3:Mean", "optimizer"),
        (f"{MODEL}/experts/all_reduce:CollectiveReduceV2", "collectives"),
        ("AddN:AddN", OTHER),
    ],
)
def test_an_operation_belongs_to_the_part_that_its_name_says(name, part):
    assert part_of(name) == (part, "forward")
    assert part_of(f"gradient_tape/{name}") == (part, "backward")
    assert part in PARTS


def test_what_runs_at_the_same_time_shares_it_and_all_add_up_to_the_step():
    experts, router = ("experts/MatMul:MatMul", "/router/Softmax:Softmax")
    spans = [
        Span(f"m/{experts}", 0, 6),
        Span(f"m/{router}", 4, 8),
        Span(f"gradient_tape/m/{experts}", 9, 14),
        # Of another step, or longer than this one.
        Span(f"m/{router}", 30, 40),
        Span(f"m/{router}", 11, 30),
    ]
    found = seconds_by_part(Span("step", 2, 12), spans)
    assert {part: round(1e12 * seconds, 6) for part, seconds in found.items()} == {
        ("experts", "forward"): 2 + 1,
        ("router", "forward"): 1 + 2 + 0.5,
        (WAITING, "forward"): 1,
        ("experts", "backward"): 2 + 0.5,
    }
    assert sum(found.values()) == pytest.approx(10e-12)

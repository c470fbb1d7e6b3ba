import pytest
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from switch_tf.metrics import trace

STEP = "train_step"
MATMUL, REDUCE = "m/ffn/MatMul:MatMul", "m/Sum/DTensorAllReduceOp_1:CollectiveReduceV2"


def plane(space, name, **lines):
    """Adds a plane; each line has (name, start, end) in nanoseconds, on a clock that began at 5."""
    made = space.planes.add(name=name)
    for number, (title, events) in enumerate(lines.items()):
        line = made.lines.add(id=number, name=title.replace("_", " "), timestamp_ns=5)
        for event, start, end in events:
            known = [key for key, metadata in made.event_metadata.items() if metadata.name == event]
            key = known[0] if known else len(made.event_metadata) + 1
            made.event_metadata[key].name = event
            line.events.add(
                metadata_id=key, offset_ps=1000 * (start - 5), duration_ps=1000 * (end - start)
            )


def profile(*planes):
    """A profile of planes with their lines, by name."""
    space = xplane_pb2.XSpace()
    for name, lines in planes:
        plane(space, name, **lines)
    return space.SerializeToString()


def nanoseconds(found):
    return round(1e9 * found.computing, 6), round(1e9 * found.collectives, 6)


PYTHON = [(STEP, 10, 30), (STEP, 50, 60), ("TFE_Py_Execute", 10, 60)]


def test_cpu_devices_compute_or_wait_for_collectives():
    host = {
        "python": PYTHON,
        "tf_Compute": [(MATMUL, 8, 14), (MATMUL, 28, 52), ("f:StatefulPartitionedCall", 10, 60)],
        "more": [(MATMUL, 12, 16)],
        "collective_ops": [(REDUCE, 14, 20), (REDUCE, 13, 18)],
    }
    found = trace.work(profile(("/host:CPU", host)), STEP)
    assert nanoseconds(found) == ((16 - 10) + (30 - 28) + (52 - 50), 20 - 16)


def test_gpus_are_averaged_over_what_their_streams_run():
    kernel, nccl = "gemm_kernel", "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgs)"
    planes = [
        ("/host:CPU", {"python": PYTHON, "tf_Compute": [(MATMUL, 10, 60)]}),
        ("/device:GPU:0", {"Stream_1": [(kernel, 10, 20)], "Stream_2": [(nccl, 15, 30)]}),
        ("/device:GPU:1", {"Stream_1": [(kernel, 50, 60)], "Steps": [("1", 10, 60)]}),
    ]
    assert nanoseconds(trace.work(profile(*planes), STEP)) == (10, 5)


@pytest.mark.parametrize("collective", ["all-reduce.3", "all-to-all", "%all-gather-start.1"])
def test_on_tpu_it_is_the_operations_of_xla(collective):
    lines = {
        "XLA_Ops": [("fusion.12", 12, 20), (collective, 20, 30), ("all_reducer.1", 50, 51)],
        "XLA_Modules": [("jit_step", 10, 60)],
    }
    planes = [("/host:CPU", {"python": PYTHON}), ("/device:TPU:0", lines)]
    assert nanoseconds(trace.work(profile(*planes), STEP)) == (8 + 1, 10)


def test_without_a_step_or_an_operation_nothing_is_known():
    assert trace.work(profile(("/host:CPU", {"python": PYTHON})), STEP) is None
    assert trace.work(profile(("/host:CPU", {"tf_Compute": [(MATMUL, 1, 2)]})), STEP) is None


def test_a_union_is_disjoint_and_an_overlap_is_in_both():
    some = trace.union([(5, 8), (1, 3), (2, 4), (4, 5)])
    assert some == [(1, 8)]
    others = trace.union([(0, 2), (3, 4), (7, 12)])
    assert trace.overlap(some, others) == trace.overlap(others, some) == [(1, 2), (3, 4), (7, 8)]
    assert trace.length(trace.overlap(some, others)) == 3

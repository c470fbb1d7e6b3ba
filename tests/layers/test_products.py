"""Products of bfloat16 sum in float32, whatever the processor; gradients lie as their operands."""

import ast
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import switch_tf.layers
from switch_tf import mesh as mesh_lib
from switch_tf import runtime
from switch_tf.benches.breakdown import part_of
from switch_tf.layers import products
from switch_tf.layers.products import as_on_accelerators, product
from tests.helpers import compiled

FOLDER = Path(switch_tf.layers.__file__).parent


@pytest.fixture(params=[True, False], ids=["no units", "units"])
def lacks_bfloat16(request, monkeypatch):
    if runtime.lacks_bfloat16() and not request.param:
        pytest.skip("this processor has no products of bfloat16 whose sums are float32")
    monkeypatch.setattr(runtime, "lacks_bfloat16", lambda: request.param)
    return request.param


def rounded(x):
    return tf.cast(tf.cast(x, tf.float32), tf.bfloat16)


def test_sums_are_not_rounded_on_the_way(lacks_bfloat16):
    generator = np.random.default_rng(0)
    a, b = (rounded(generator.normal(size=(512, 512)) + 0.5) for _ in range(2))
    exact = tf.matmul(tf.cast(a, tf.float64), tf.cast(b, tf.float64)).numpy()
    found = compiled(lambda a, b: product("lm,mf->lf", a, b))(a, b)
    assert found.dtype == tf.bfloat16
    # A rounding to eight bits is off by at most 2^-9, and by 2^-8 if it cuts bits off.
    errors = np.abs(tf.cast(found, tf.float64).numpy() - exact) / np.abs(exact).mean()
    assert errors.max() < 2**-7


def test_gradients_have_the_dtype_of_their_operands(lacks_bfloat16):
    a, b = rounded(np.ones((4, 300))), rounded(np.full((300, 2), 1.5))
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        loss = tf.reduce_sum(tf.cast(product("lm,mf->lf", a, b), tf.float32))
    gradients = tape.gradient(loss, [a, b])
    assert [g.dtype for g in gradients] == [tf.bfloat16] * 2
    np.testing.assert_array_equal(tf.cast(gradients[0], tf.float32), np.full((4, 300), 3.0))
    np.testing.assert_array_equal(tf.cast(gradients[1], tf.float32), np.full((300, 2), 4.0))


def dtype_of_the_operation():
    a = rounded(np.ones((4, 4)))
    traced = compiled(lambda: product("lm,mf->lf", a, a)).get_concrete_function()
    return {op.type: op.outputs[0].dtype for op in traced.graph.get_operations()}["Einsum"]


def test_what_is_lowered_for_an_accelerator_computes_in_bfloat16(monkeypatch):
    monkeypatch.setattr(runtime, "lacks_bfloat16", lambda: True)
    assert dtype_of_the_operation() == tf.float32
    with as_on_accelerators():
        assert dtype_of_the_operation() == tf.bfloat16
    assert dtype_of_the_operation() == tf.float32


# Equations of the layers, with sizes of their axes.
SIZES = dict(zip("BLMFEGCSHKTV", (2, 4, 6, 10, 4, 2, 3, 5, 4, 7, 5, 9), strict=True))
EQUATIONS = {
    "experts": "EGCM,EMF->EGCF",
    "experts' projections": "EGCM,EMHK->EGCHK",
    "feed-forward": "BLM,MF->BLF",
    "projections": "BLM,MHK->BLHK",
    "output of attention": "BLHK,HKM->BLM",
    "logits": "BLHK,BTHK->BHLT",
    "softmax": "BLM,VM->BLV",
    "dispatch": "GSEC,GSM->GECM",
}


def operands_of(equation):
    generator = np.random.default_rng(0)
    shapes = [[SIZES[axis] for axis in axes] for axes in equation.split("->")[0].split(",")]
    return [generator.normal(size=shape).astype(np.float32) for shape in shapes]


def gradients_by(multiply, equation, *operands):
    with tf.GradientTape() as tape:
        tape.watch(operands)
        y = multiply(equation, *operands)
        loss = tf.reduce_sum(tf.square(y))
    return tape.gradient(loss, operands)


@pytest.mark.parametrize("mesh_name", [None, "batch:4,model:2"])
@pytest.mark.parametrize("equation", EQUATIONS.values(), ids=EQUATIONS)
def test_gradients_of_large_operands_are_those_of_einsum(equation, mesh_name, monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 1)
    a, b = operands_of(equation)
    expected = gradients_by(tf.einsum, equation, tf.constant(a), tf.constant(b))
    if mesh_name is None:
        found = compiled(lambda *given: gradients_by(product, equation, *given))(a, b)
    else:
        rules = "batch:batch,experts:batch,d_ff:model,heads:model,vocab:model"
        names = {"B": "batch", "E": "experts", "F": "d_ff", "H": "heads"}
        sides = equation.split("->")[0].split(",")
        sharded = {"B": 4, "E": 4, "F": 2, "H": 2}
        with mesh_lib.use(mesh_lib.Mesh.create(mesh_name, rules)) as mesh:
            given = [
                mesh.pack(
                    operand,
                    tuple(names[x] if SIZES[x] % sharded.get(x, 99) == 0 else None for x in axes),
                )
                for axes, operand in zip(sides, (a, b), strict=True)
            ]
            gradients = tf.function(lambda *given: gradients_by(product, equation, *given))(*given)
            found = [mesh_lib.to_numpy(gradient) for gradient in gradients]
    for gradient, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, theirs, rtol=1e-5, atol=1e-4)


def test_the_gradient_of_a_large_weight_is_made_as_it_lies(monkeypatch):
    """Its equation has the axes of the weight in the order of the operands that they are from."""

    def equations(equation):
        given = operands_of(equation)
        traced = compiled(lambda *given: gradients_by(product, equation, *given))
        graph = traced.get_concrete_function(*given).graph
        return {
            op.get_attr("equation").decode().replace(" ", "")
            for op in graph.get_operations()
            if op.type == "Einsum"
        }

    experts, softmax = EQUATIONS["experts"], EQUATIONS["softmax"]
    assert "EGCF,EGCM->EMF" in equations(experts)
    as_before = equations(softmax)
    monkeypatch.setattr(products, "_LARGE", 1)
    assert equations(experts) == {experts, "EGCF,EMF->EGCM", "EGCM,EGCF->EMF"}
    # TensorFlow's own is as good here, and is traced in less time.
    assert equations(softmax) == as_before


@pytest.mark.parametrize(
    "equation",
    [
        *EQUATIONS.values(),
        "...M,MF->...F",
        "BLM,MFH->BLF",
        "BLM , MF -> BLF",
        "LM,MF",
        "BLM,MF->BF",
    ],
)
def test_any_equation_has_the_gradients_of_einsum(equation, monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 1)
    given = operands_of(equation.replace(" ", "").replace("...", "BL"))
    operands = [tf.constant(operand) for operand in given]
    for found, expected in zip(
        gradients_by(product, equation, *operands),
        gradients_by(tf.einsum, equation, *operands),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_the_gradient_is_of_the_value_that_a_variable_had(monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 1)
    a, b = operands_of("LM,MF->LF")
    weight, a = tf.Variable(b), tf.constant(a)
    with tf.GradientTape() as tape:
        tape.watch(a)
        loss = tf.reduce_sum(product("LM,MF->LF", a, weight))
    weight.assign_add(tf.ones_like(weight))
    expected = np.broadcast_to(b.sum(-1), a.shape)
    np.testing.assert_allclose(tape.gradient(loss, a), expected, rtol=1e-5)


def test_a_graph_goes_with_its_function_and_a_saved_one_can_be_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 1)
    a, b = operands_of("LM,MF->LF")
    module = tf.Module()
    module.weight = tf.Variable(b)
    module.call = tf.function(lambda a: product("LM,MF->LF", a, module.weight))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(module.call(a))
    expected = tape.gradient(loss, module.weight)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(tmp_path), options=options)
    loaded = tf.saved_model.load(str(tmp_path))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(loaded.call(a))
    np.testing.assert_allclose(tape.gradient(loss, loaded.weight), expected, rtol=1e-6)

    def graph():
        function = tf.function(lambda *given: gradients_by(product, "LM,MF->LF", *given))
        return weakref.ref(function.get_concrete_function(*map(tf.constant, (a, b))).graph)

    found = graph()
    gc.collect()
    assert found() is None


def test_operations_of_the_gradient_keep_the_scope_of_their_layer(monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 1)
    given = operands_of(EQUATIONS["experts"])

    def gradients(*given):
        with tf.name_scope("model/experts"):
            return gradients_by(product, EQUATIONS["experts"], *given)

    graph = compiled(gradients).get_concrete_function(*given).graph
    names = [op.name for op in graph.get_operations() if op.type == "Einsum"]
    assert sorted(map(part_of, names)) == [
        ("experts", "backward"),
        ("experts", "backward"),
        ("experts", "forward"),
    ]


@pytest.mark.parametrize("path", FOLDER.glob("*.py"), ids=lambda path: path.stem)
def test_no_layer_multiplies_matrices_otherwise(path):
    calls = {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    found = calls & {"tf.einsum", "tf.matmul", "tf.linalg.matmul", "tf.tensordot"}
    assert found == ({"tf.einsum"} if path.stem == "products" else set())

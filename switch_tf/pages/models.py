"""The page docs/models.md: the paper's and the released models as gin files, with their sizes.

Sizes are counted from shapes alone and compared with the paper's figures (Tables 1 and 9).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from switch_tf import config
from switch_tf.metrics.tables import markdown
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from switch_tf.planner.counts import Counts

# Span corruption with inputs of 512 tokens: 15% masked, in spans of 3.
LENGTHS = {"inputs": 512, "targets": 114}
# The feed-forward layer of T5 1.0 large.
RELU_LARGE = (
    "TransformerEncoderDecoder.activation='relu'",
    "TransformerEncoderDecoder.d_ff=4096",
)


class PaperModel(NamedTuple):
    """A model of the paper.

    Attributes:
      name: its name in the paper, noting where it differs from the paper's table.
      file: its file in gin/models, without `.gin`.
      bindings: gin settings applied on top of the file.
      parameters, flops: parameters and forward FLOPs per sequence as printed in the paper; "" where
        it gives none.
    """

    name: str
    file: str
    bindings: tuple[str, ...]
    parameters: str
    flops: str


MODELS = (
    PaperModel("T5-Base", "t5_base", (), "223M", "124B"),
    PaperModel("T5-Large", "t5_large", (), "0.7B", ""),
    PaperModel("T5-Large, ReLU, d_ff 4096", "t5_large", RELU_LARGE, "739M", "425B"),
    PaperModel("T5-XXL", "t5_xxl", (), "11B", "6.3T"),
    *(
        PaperModel(f"Switch-Base, {n} experts", "switch_base", (f"NUM_EXPERTS={n}",), text, "")
        for n, text in {2: "", 4: "", 8: "", 16: "1.1B", 32: "2.0B", 64: "3.8B"}.items()
    ),
    PaperModel("Switch-Base, 128 experts", "switch_base", (), "7.4B", "124B"),
    PaperModel("Switch-Base, 256 experts", "switch_base", ("NUM_EXPERTS=256",), "14.7B", ""),
    PaperModel("Switch-Base+", "switch_base_plus", (), "", ""),
    PaperModel("MoE-Base", "moe_base", (), "7.4B", ""),
    PaperModel("Switch-Large", "switch_large", (), "", ""),
    PaperModel("Switch-Large, ReLU, d_ff 4096", "switch_large", RELU_LARGE, "26B", "425B"),
    PaperModel("Switch-XXL, 64 experts", "switch_xxl", (), "", "6.3T"),
    PaperModel("Switch-XXL, 128 experts", "switch_xxl", ("NUM_EXPERTS=128",), "395B", ""),
    PaperModel("Switch-C", "switch_c", (), "1571B", "890B"),
    PaperModel("mT5-Base", "mt5_base", (), "", ""),
    PaperModel("mSwitch-Base", "mswitch_base", (), "", ""),
    PaperModel("Switch-Base, released", "switch_classic_base", (), "7.4B", "124B"),
    PaperModel("Switch-Large, released", "switch_classic_large", (), "26B", "425B"),
    PaperModel("Switch-XXL, released", "switch_classic_xxl", (), "395B", "6.3T"),
    PaperModel("Switch-C, released", "switch_classic_c", (), "1571B", "890B"),
)
# Models in two forms, each with a file: switch_NAME.gin and switch_classic_NAME.gin.
_KINDS = ("switch", "switch_classic")
RELEASED = {"Switch-Base": "base", "Switch-Large": "large", "Switch-XXL": "xxl", "Switch-C": "c"}

_LENGTHS = " + ".join(map(str, LENGTHS.values()))
_TEXT = f"""# The paper's models

Each is a file of `gin/models`; `switch-tf plan` counts any other configuration. The counts are made
from shapes alone by `python -m switch_tf.pages models`, and are shown beside what the paper prints
(Table 9, Table 1 and its text). FLOPs are of the forward pass of one sequence of {_LENGTHS}
tokens, two for a multiply-add: once of all matrix products, and once as the paper seems to count
them.
"""

_RELEASED = """
## Table 9, or what was released

Four models have two files each. `switch_base.gin`, `_large`, `_xxl` and `_c` follow the paper's
Table 9: use them to repeat its experiments. `switch_classic_base.gin` and so on follow the models
that were released, whose weights do not have the shapes of the other files. T5X lists them (in its
docs/models.md) as converted from Mesh-TensorFlow's. Their numbers here are those of Flaxformer's
`switch_classic_*.gin` (`flaxformer/t5x/configs/moe/models`). Where the two differ, as Table 9 /
released:
"""

_NOTES = """
`policy` and `load_balancing_coef` are Flaxformer's, which has no jitter, and takes the mean over
sparse layers where Mesh-TensorFlow takes the sum. The released weights were trained in
Mesh-TensorFlow. Which values were used then is not published; by the paper, those of Table 9's
files. In both files of XXL and C, the least capacity is that of the released models. What else
Flaxformer does differently, and no setting here expresses, is at the head of
`switch_classic_base.gin`, and beside all other defaults in [fidelity.md](fidelity.md).

## Figures

Where the paper's figures do not follow from its shapes:

- **FLOPs.** The paper's figures follow if one counts without the routers, without one of
  attention's two products (queries with keys, weights with values), and with keys and values for
  only as many encoder positions as the decoder has. T5-Base then has 124.6B, which the paper
  truncates to 124B; the others agree to the digits printed, Switch-C's to two. How the authors
  really counted is not known.
- **Switch-Base.** ReLU with d_ff 3072, as it was released, has as many weights and FLOPs as Table
  9's GEGLU with 2048: the figures fit both.
- **T5-Large, Switch-Large.** 26B and 425B are those of ReLU with d_ff 4096, which the released
  Switch-Large has: the paper counted that one. The shape of Table 9, GEGLU with 2816, has 27B and
  433B by the same count, and in T5-Large 750M parameters: "0.7B" is truncated, not rounded. The
  739M of the text are close to the 738M of that ReLU; no shape that we know gives the last million.
- **Switch-Base+.** In the text it grows from 14 heads to 16, but Table 9 gives Switch-Base 12, as
  the released one has. Here it has 16; the text prints neither parameters nor FLOPs that could
  decide it.
- **Switch-XXL.** 395B parameters are those of 128 experts, which the released one has; the 64 of
  Table 9, with 201B, seem to be a slip. Its 6.3T FLOPs fit both.
- **Switch-C.** 1571B parameters fit Table 9's 32 heads and the released 30. Its 890B FLOPs are
  closer to the 894B of the former than to the 869B of the latter.
- **Logits.** Table 9 does not say which models tie them to the embedding, and its figures do not
  decide it. Our files for Table 9 tie them, as T5-Base must for its 223M. Of the released models,
  Base and Large do, XXL and C do not.
- **MoE-Base.** It has the weights of Switch-Base; a token visits two experts, so it has more FLOPs.
"""


def count(model: PaperModel) -> Counts:
    """Counts a model's parameters and FLOPs without allocating it."""
    with config.loaded([f"models/{model.file}.gin", "runs/plan.gin"], model.bindings):
        return Counts.of(TransformerEncoderDecoder)


def reckoned_flops(counts: Counts) -> int:
    """Forward FLOPs of a sequence by the paper's apparent method; see the page's notes."""
    m, inputs, targets = counts.model, LENGTHS["inputs"], LENGTHS["targets"]
    width, layers = m.num_heads * m.d_kv, m.num_layers
    logits = 2 * width * layers * (inputs**2 + targets**2 + inputs * targets)
    keys_values = 2 * 2 * m.d_model * width * layers * (inputs - targets)
    routers = 0
    for weight in counts.weights:
        if "/router/" in weight.path:
            length = inputs if "/encoder/" in weight.path else targets
            routers += 2 * math.prod(weight.shape) * length
    return counts.flops(LENGTHS) - logits - keys_values - routers


def shape(counts: Counts) -> dict[str, str]:
    """A counted Switch model's settings, as built, by gin name."""
    m = counts.model
    layer = m.encoder.switch_layers[0]
    of_model = "activation d_ff num_heads tied_softmax"
    of_router = (
        "num_experts capacity_factor eval_capacity_factor min_capacity policy load_balancing_coef"
    )
    found = {name: getattr(m, name) for name in of_model.split()}
    found |= {name: getattr(layer, name) for name in ("group_size",)}
    found |= {name: getattr(layer.router, name) for name in of_router.split()}
    return {name: str(value) for name, value in found.items()}


def differences() -> Iterator[tuple[str, ...]]:
    """Rows of a table of the settings in which the two forms of a model differ."""
    yield ("setting", *RELEASED)
    pairs = [
        [shape(count(PaperModel("", f"{kind}_{name}", (), "", ""))) for kind in _KINDS]
        for name in RELEASED.values()
    ]
    for setting in pairs[0][0]:
        values = [[form[setting] for form in pair] for pair in pairs]
        cells = ["" if table == released else f"{table} / {released}" for table, released in values]
        if any(cells):
            yield (setting, *cells)


def lines() -> Iterator[str]:
    """The lines of the page."""
    yield from _TEXT.splitlines()
    yield ""
    yield from markdown(_counts())
    yield from _RELEASED.splitlines()
    yield ""
    yield from markdown(differences())
    yield from _NOTES.splitlines()


def write(folder: Path) -> None:
    """Writes models.md into `folder`."""
    (folder / "models.md").write_text("\n".join(lines()) + "\n", encoding="utf-8")


def _counts() -> Iterator[tuple[str, ...]]:
    yield (
        *("model", "gin/models", "parameters", "in experts", "the paper"),
        *("FLOPs, all", "as the paper counts", "the paper"),
    )
    for model in MODELS:
        counts = count(model)
        settings = [binding.rpartition(".")[2] for binding in model.bindings]
        yield (
            model.name,
            ", ".join([f"{model.file}.gin", *settings]),
            _short(counts.parameters),
            _short(counts.expert_parameters) if counts.expert_parameters else "-",
            model.parameters,
            _short(counts.flops(LENGTHS)),
            _short(reckoned_flops(counts)),
            model.flops,
        )


def _short(number: int) -> str:
    """Formats a number in M or B, to four digits or to the unit."""
    amount, letter = (number / 1e9, "B") if number >= 1e9 else (number / 1e6, "M")
    return f"{amount:,.0f}{letter}" if amount >= 1e3 else f"{amount:.4g}{letter}"

"""The page docs/models.md: the paper's models as gin files, counted (Tables 1 and 9).

    python -m switch_tf.planner.models docs

counts them from shapes alone, and sets the counts beside the paper's figures.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import gin

from switch_tf import config, runtime

if TYPE_CHECKING:
    # Imports TensorFlow, which as a command this module starts first.
    from switch_tf.planner.counts import Counts

# Span corruption of 512 tokens: 15% in spans of 3.
LENGTHS = {"inputs": 512, "targets": 114}
# T5 1.0's feed-forward layer of the large size.
RELU_LARGE = (
    "TransformerEncoderDecoder.activation='relu'",
    "TransformerEncoderDecoder.d_ff=4096",
)


class PaperModel(NamedTuple):
    """A model of the paper.

    Attributes:
      name: as the paper has it, with what differs from its table.
      file: in gin/models, without `.gin`.
      bindings: gin settings beside it.
      parameters, flops: as the paper prints them, parameters and forward FLOPs a sequence; "" where
        it prints none.
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
)

_LENGTHS = " + ".join(map(str, LENGTHS.values()))
_TEXT = f"""# The paper's models

Each is a file of `gin/models`; `switch-tf plan` counts any other configuration. Counted from shapes
alone, by `python -m switch_tf.planner.models docs`, beside what the paper prints (Table 9, Table 1
and its text). FLOPs are of the forward pass of one sequence of {_LENGTHS}
tokens, two a multiply-add: of all matrix products, and as the paper seems to reckon.
"""

_NOTES = """
Where the paper's figures do not follow from its shapes:

- **FLOPs.** Its figures follow from a reckoning without the routers, without one of attention's two
  products of queries with keys and of weights with values, and with keys and values of only as many
  encoder positions as the decoder has. By it, T5-Base has 124.6B, which the paper prints as 124B,
  cut; the others agree to the digits printed, Switch-C's to two. How the authors really counted is
  not known.
- **T5-Large, Switch-Large.** 26B and 425B are those of T5 1.0's feed-forward layer, ReLU with d_ff
  4096. The shape of Table 9, GEGLU with 2816, has 27B and 433B by the same reckoning, and 750M
  parameters: its "0.7B" is cut, not rounded. The 739M of the text are near the 738M of that ReLU;
  no shape that we know gives the last million.
- **Switch-Base+.** The text has it grow from 14 heads to 16, but Table 9 gives Switch-Base 12; here
  it has 16, and the text prints neither parameters nor FLOPs to tell by.
- **Switch-XXL.** 395B parameters are those of 128 experts; the 64 of Table 9 have 201B. Its 6.3T
  FLOPs are those of either, so the figures leave open which of the two numbers is the slip.
- **MoE-Base.** The same weights as Switch-Base; a token visits two experts, so its FLOPs are more.
"""


def count(model: PaperModel) -> "Counts":
    """Counts of a model, which is not made."""
    from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
    from switch_tf.planner.counts import Counts

    try:
        config.load([f"models/{model.file}.gin"], model.bindings)
        return Counts.of(TransformerEncoderDecoder)
    finally:
        gin.clear_config()


def reckoned_flops(counts: "Counts") -> int:
    """Forward FLOPs of a sequence as the paper's figures follow from; see the page's notes."""
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


def lines() -> Iterator[str]:
    """Lines of the page."""
    yield from _TEXT.splitlines()
    yield ""
    yield (
        "| model | gin/models | parameters | in experts | the paper | FLOPs, all | as the paper "
        "reckons | the paper |"
    )
    yield "|" + " --- |" * 8
    for model in MODELS:
        counts = count(model)
        settings = [binding.rpartition(".")[2] for binding in model.bindings]
        cells = (
            model.name,
            ", ".join([f"{model.file}.gin", *settings]),
            _short(counts.parameters),
            _short(counts.expert_parameters) if counts.expert_parameters else "-",
            model.parameters,
            _short(counts.flops(LENGTHS)),
            _short(reckoned_flops(counts)),
            model.flops,
        )
        yield "| " + " | ".join(cells) + " |"
    yield from _NOTES.splitlines()


def _short(number: int) -> str:
    """In M or B; four digits, or all before the point."""
    amount, letter = (number / 1e9, "B") if number >= 1e9 else (number / 1e6, "M")
    return f"{amount:,.0f}{letter}" if amount >= 1e3 else f"{amount:.4g}{letter}"


if __name__ == "__main__":
    runtime.start()
    (Path(sys.argv[1]) / "models.md").write_text("\n".join(lines()) + "\n")

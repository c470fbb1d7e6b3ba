"""The figure in docs/switch_layer.md: how a trained router routes the tokens of a text."""

from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from switch_tf import config, rules
from switch_tf.checkpoints import restore
from switch_tf.checkpoints.model_dir import ModelDir, find
from switch_tf.layers.context import inference_scope
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder

_EXAMPLES = 8
_SHOWN_TOKENS = 40


def decide(model_dir: Path) -> tuple[list[str], object]:
    """Routes validation examples through the first Switch layer of a trained model.

    Args:
      model_dir: the MODEL_DIR of a `switch-tf train` run with a sparse model.

    Returns:
      The vocabulary pieces of the first group's tokens, and the layer's `Routing` of all groups.

    Raises:
      UserError: there is no run, or no checkpoint.
    """
    config.load([ModelDir(str(model_dir)).config])
    model = TransformerEncoderDecoder()
    model.build()
    restore.restore_model(find(str(model_dir), "MODEL_DIR"), model)
    name = config.macro("MIXTURE_OR_TASK_NAME", annotation=rules.Name)
    task = seqio.get_mixture_or_task(name)
    lengths = config.macro("TASK_FEATURE_LENGTHS", annotation=rules.Lengths)
    examples = task.get_dataset(lengths, "validation", shuffle=False).take(_EXAMPLES)
    tokens_BL = np.zeros([_EXAMPLES, lengths["inputs"]], np.int32)
    for i, example in enumerate(examples.as_numpy_iterator()):
        tokens_BL[i, : len(example["inputs"])] = example["inputs"]
    with inference_scope(dropless=False) as reports:
        model.encode({"encoder_input_tokens": tf.constant(tokens_BL)})
    routing = reports[0].routing
    group_size = routing.nonpadding_GS.shape[1]
    vocabulary = task.output_features["inputs"].vocabulary
    first = [int(t) for t in tokens_BL.reshape(-1)[:group_size]]
    return [vocabulary.tokenizer.id_to_piece(t) for t in first], routing


def draw(pieces: list[str], routing, path: Path) -> None:
    """Draws tokens against experts: router probabilities, buffer positions and dropped tokens.

    Args:
      pieces: the vocabulary pieces of the first group's tokens.
      routing: the layer's `Routing`.
      path: the PNG file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [i for i in range(len(pieces)) if routing.nonpadding_GS[0, i]][:_SHOWN_TOKENS]
    experts = routing.num_experts
    probabilities_ES = routing.probabilities_GSE.numpy()[0][shown].T
    figure, (top, bottom) = pyplot.subplots(
        2, 1, figsize=(11, 5.5), gridspec_kw={"height_ratios": [3, 1.4]}
    )
    image = top.imshow(probabilities_ES, cmap="Blues", vmin=0, aspect="auto")
    for column, i in enumerate(shown):
        expert = int(routing.expert_index_GKS[0, 0, i])
        kept = bool(routing.kept_GKS[0, 0, i])
        text = str(int(routing.position_GKS[0, 0, i])) if kept else "×"
        color = (
            "crimson" if not kept else "white" if probabilities_ES[expert, column] > 0.35 else "k"
        )
        top.text(column, expert, text, ha="center", va="center", fontsize=8, color=color)
    top.set_xticks(range(len(shown)), [pieces[i] for i in shown], rotation=90, fontsize=7)
    top.set_yticks(range(experts), [f"expert {e}" for e in range(experts)], fontsize=8)
    top.set_title(
        "the router's probabilities; a number is the token's place in the buffer of its expert, "
        "× a dropped token",
        fontsize=9,
    )
    figure.colorbar(image, ax=top, pad=0.01)
    real = routing.nonpadding_GS.numpy()[0] > 0
    chosen = np.bincount(routing.expert_index_GKS.numpy()[0, 0][real], minlength=experts)
    bottom.bar(range(experts), chosen, color="tab:blue", label="tokens that chose it")
    bottom.axhline(routing.capacity, color="crimson", label=f"capacity {routing.capacity}")
    bottom.set_xticks(range(experts))
    bottom.set(xlabel="expert", ylabel="tokens of the group")
    bottom.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write(folder: Path, model_dir: Path) -> None:
    """Writes switch_layer.png into `folder`, from a run's first Switch layer and validation text.

    Args:
      folder: an existing folder.
      model_dir: see `decide`.

    Raises:
      UserError: see `decide`.
    """
    draw(*decide(model_dir), folder / "switch_layer.png")

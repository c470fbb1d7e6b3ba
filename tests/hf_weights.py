"""Hugging Face's names of T5 and Switch weights, by the paths of ours.

Written apart from the package's own importer, so that each can show the other's mistake.
"""

import numpy as np

_ATTENTION = {"query": "q", "key": "k", "value": "v", "output": "o"}


def ours(path, shape, theirs):
    """The array of our variable `path`, in our shape, from Hugging Face's arrays by name.

    Args:
      path: for example `model/encoder/layer_1/feed_forward/switch_ffn/experts/wi`.
      shape: its shape; Hugging Face keeps [out, in] and folds heads and d_kv.
      theirs: name -> array, weights or their gradients.
    """
    stack, *rest = path.removeprefix("model/").split("/")
    if stack == "embedding":
        return theirs["shared.weight"]
    if stack == "softmax":
        # The golden T5 1.1 ties its softmax but does not scale it: our untied one with its table.
        return theirs["shared.weight"].T
    if rest[0] == "norm":
        return theirs[f"{stack}.final_layer_norm.weight"]
    if rest[0] == "relative_position_bias":
        return theirs[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    block = f"{stack}.block.{rest[0].removeprefix('layer_')}.layer"
    feed_forward = 2 if stack == "decoder" else 1
    index = {"self_attention": 0, "cross_attention": 1, "feed_forward": feed_forward}[rest[1]]
    if rest[2] == "norm":
        return theirs[f"{block}.{index}.layer_norm.weight"]
    if rest[2] == "attention":
        kind = "EncDecAttention" if index else "SelfAttention"
        return theirs[f"{block}.{index}.{kind}.{_ATTENTION[rest[3]]}.weight"].T.reshape(shape)
    return _feed_forward(f"{block}.{index}", rest[2:], shape, theirs)


def _feed_forward(layer, rest, shape, theirs):
    if rest[0] == "ffn":
        name = "DenseReluDense" if f"{layer}.DenseReluDense.wo.weight" in theirs else "mlp"
        return theirs[f"{layer}.{name}.{rest[1]}.weight"].T
    if rest[1] == "router":
        return theirs[f"{layer}.mlp.router.classifier.weight"].T
    experts = [f"{layer}.mlp.experts.expert_{i}.{rest[2]}.weight" for i in range(shape[0])]
    return np.stack([theirs[name].T for name in experts])

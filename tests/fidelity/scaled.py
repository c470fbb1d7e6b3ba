"""Models of gin/models scaled down: built, with weights of noise, and beside the reference.

The reference knows a model by what gin binds, not by what the built model says of itself. A binding
that the reference does not know fails the test: a new setting is to be modelled first.
"""

import copy
import dataclasses
import functools

import gin
import keras
import numpy as np

from switch_tf import config, gin_files
from switch_tf import mesh as mesh_lib
from switch_tf.layers.context import collect
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from switch_tf.models.losses import cross_entropy
from tests.fidelity.reference import Z_LOSS_COEF, Reference, Settings
from tests.helpers import compiled, place_features, put

VOCAB = 64
# Four experts and groups of 16: room for 5 tokens in training and 8 in evaluation, as most files
# have the factors.
MACROS = {"VOCAB_SIZE": VOCAB, "NUM_EXPERTS": 4, "GROUP_SIZE": 16, "GROUPS_MULTIPLE": 1}
# No dropout, wherever the macros stand.
MACROS |= {"DROPOUT_RATE": 0.0, "EXPERT_DROPOUT_RATE": None}
SIZES = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 48, "num_layers": 2}
# Of the routers, what would be random.
NOT_RANDOM = {
    "SwitchRouter.policy": "argmax",
    "Top2Router.second_policy": "all",
    "Top2Router.eval_second_policy": "all",
}
_MODEL = "TransformerEncoderDecoder"
# What the reference reads, beside the routers' parameters, and what does not change results.
_KNOWN = {f"{_MODEL}.{name}" for name in "activation tied_softmax expert_frequency".split()}
_KNOWN |= {f"{_MODEL}.{name}" for name in "encoder_sparse_layers decoder_sparse_layers".split()}
_KNOWN |= {"SwitchLayer.group_size", "SwitchLayer.groups_multiple", "SwitchLayer.router"}
_INERT = {f"{_MODEL}.{name}" for name in (*SIZES, "vocab_size", "init_scale", "dtype")}
_INERT |= {f"{_MODEL}.dropout_rate", f"{_MODEL}.expert_dropout_rate"}
# Switch attention is not part of these models; jitter is off by the policy.
_INERT |= {"SwitchFFN.num_experts", "SwitchProjection.num_experts", "SwitchRouter.jitter"}
_ROUTERS = {"SwitchRouter": 1, "Top2Router": 2}
_OF_ROUTER = {
    "capacity_factor": "capacity_factor",
    "eval_capacity_factor": "eval_capacity_factor",
    "min_capacity": "min_capacity",
    "load_balancing_coef": "balance_coef",
    "z_loss_coef": "router_z_coef",
}
_KNOWN |= {f"{router}.{name}" for router in ("Router", *_ROUTERS) for name in _OF_ROUTER}


def bindings_of(file, **changes):
    """Flags that scale a model's file down.

    Args:
      file: such as "models/switch_base.gin".
      **changes: other values of the macros and sizes.
    """
    settings = gin_files.read([file])
    macros = {p.name for v, _ in settings.all() for p in gin_files.parts(v) if _is_macro(p)}
    macros |= set(settings.macros)
    values = {name: value for name, value in (MACROS | changes).items() if name in macros}
    sizes = SIZES | {name: value for name, value in changes.items() if name in SIZES}
    values |= {f"{_MODEL}.{name}": value for name, value in sizes.items()} | NOT_RANDOM
    return [f"{name}={value!r}" for name, value in values.items()]


def _is_macro(part):
    return isinstance(part, gin_files.Macro)


def load(file, extra=(), **changes):
    """Loads a file scaled down; returns all that gin then holds, as text, and the `Settings`."""
    bindings = [*bindings_of(file, **changes), *extra]
    config.load([file], bindings)
    bound = config.names([file], bindings)[0]
    unknown = sorted(bound - _KNOWN - _INERT - set(NOT_RANDOM))
    assert not unknown, f"{file}: the reference does not know {', '.join(unknown)}"
    return gin.config_str(), _settings()


def _value(name, default=None):
    """What gin binds to configurable.parameter."""
    try:
        # Copying a reference to a macro evaluates it.
        return copy.deepcopy(gin.query_parameter(name))
    except ValueError:
        return default


def _settings():
    router = _value("SwitchLayer.router")
    router = router.__name__ if router else "SwitchRouter"
    num_layers = _value(f"{_MODEL}.num_layers")
    frequency = _value(f"{_MODEL}.expert_frequency", 0)
    # Of frequency 2 layers 1, 3, 5...; of 1 all.
    sparse = tuple(i for i in range(num_layers) if frequency and i % frequency == frequency - 1)
    found = {
        "num_layers": num_layers,
        "activation": _value(f"{_MODEL}.activation"),
        "tied_softmax": _value(f"{_MODEL}.tied_softmax"),
        "encoder_sparse": _value(f"{_MODEL}.encoder_sparse_layers", sparse),
        "decoder_sparse": _value(f"{_MODEL}.decoder_sparse_layers", sparse),
        "choices": _ROUTERS[router],
        "group_size": _value("SwitchLayer.group_size"),
        "groups_multiple": _value("SwitchLayer.groups_multiple"),
        "bfloat16": _value(f"{_MODEL}.dtype") == "bfloat16",
    }
    for parameter, name in _OF_ROUTER.items():
        found[name] = _value(f"{router}.{parameter}", _value(f"Router.{parameter}"))
    # What no file sets has the spec's defaults.
    return Settings(**{name: value for name, value in found.items() if value is not None})


def perturbed(path, value, seed=0):
    """A weight's initial value with noise, so that nothing is one, zero, or too small to matter."""
    generator = np.random.default_rng([seed, *path.encode()])
    noise = generator.normal(size=value.shape)
    name = path.rpartition("/")[2]
    scale = {"scale": 0.3, "table": 0.7}.get(name)
    if scale is None:
        fan_in = value.size // value.shape[-1]
        if "/experts/" in path:
            fan_in //= value.shape[0]
        if name in ("query", "key", "value"):
            fan_in = value.shape[0]
        # Logits of the attention are sums over d_kv and not divided: smaller queries.
        scale = {"query": 0.4, "wo": 1.5}.get(name, 1.0) / np.sqrt(fan_in)
        scale *= 2.0 if "/router/" in path else 1.0
    return (value + scale * noise).astype(np.float32)


@dataclasses.dataclass
class Decision:
    """A Switch layer's: experts [G, S, C] (-1 for padding), kept [G, S, C], dropped tokens [G, S],
    and what it adds to the loss.
    """

    expert_GSC: np.ndarray
    kept_GSC: np.ndarray
    dropped_GS: np.ndarray
    loss: float


@dataclasses.dataclass
class Outcome:
    """Of a batch: logits [B, L, V], the loss with the routers' losses, `Decision` by layer."""

    logits_BLV: np.ndarray
    loss: float
    decisions: dict[str, Decision]


class Scaled:
    """A built model with weights of noise, and the reference with the same.

    Args:
      settings: what the reference is to know of the model that gin configures.
    """

    def __init__(self, settings):
        # Models of the same shapes have the same weights, so that their losses can be compared.
        keras.utils.set_random_seed(0)
        self._model = TransformerEncoderDecoder()
        self._model.build()
        weights = {}
        for variable in self._model.variables:
            path = variable.path.partition("/")[2]
            weights[path] = perturbed(path, mesh_lib.to_numpy(variable.value))
            put(variable, weights[path])
        self.weights, self.settings = weights, settings
        self.reference = Reference(settings, weights)
        self._run = compiled(self._forward)

    def _forward(self, features, training):
        with collect() as reports:
            logits_BLV = self._model(features, training=training)
        targets_BL = features["decoder_target_tokens"]
        loss = cross_entropy(logits_BLV, targets_BL, targets_BL > 0, Z_LOSS_COEF)[-1]
        figures = {}
        for report in reports:
            of, router_loss = report.routing, report.loss()
            loss += router_loss
            figures[report.name] = (
                of.expert_index_GKS,
                of.kept_GKS,
                of.kept_GS,
                of.nonpadding_GS,
                router_loss,
            )
        return logits_BLV, loss, figures

    def actual(self, features, training):
        """The model's `Outcome` of a batch of host arrays."""
        logits, loss, figures = self._run(place_features(features), training)
        decisions = {}
        for name, values in figures.items():
            index_GCS, kept_GCS, kept_GS, real_GS, router_loss = map(mesh_lib.to_numpy, values)
            real_GS = real_GS > 0
            expert_GCS = np.where(real_GS[:, None], index_GCS, -1)
            decisions[name.partition("/")[2]] = Decision(
                expert_GCS.transpose(0, 2, 1),
                (kept_GCS > 0).transpose(0, 2, 1),
                real_GS & ~(kept_GS > 0),
                float(router_loss),
            )
        return Outcome(mesh_lib.to_numpy(logits), float(mesh_lib.to_numpy(loss)), decisions)

    def expected(self, features, training):
        """The reference's `Outcome`."""
        logits, routed = self.reference(features, training)
        loss = self.reference.loss(logits, routed, features["decoder_target_tokens"])
        decisions = {
            name: Decision(
                layer.expert_GSC,
                layer.kept_GSC,
                layer.dropped_GS,
                float(self.reference.router_loss(layer)),
            )
            for name, layer in routed.items()
        }
        return Outcome(logits, float(loss), decisions)


@functools.cache
def _built(text, settings):
    return Scaled(settings)


def built(file, extra=(), **changes):
    """A model of a file scaled down; files that are then the same share it."""
    try:
        return _built(*load(file, extra, **changes))
    finally:
        gin.clear_config()

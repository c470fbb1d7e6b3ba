"""Loss curves of the tiny models, kept beside this module so that a change of numbers is seen.

A change that is meant to change numbers writes them anew, and says so:

    .venv/bin/python -m tests.training.loss_curves
"""

import functools
import json
import os
import platform
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "loss_curves.json"
STEPS = 200
MODELS = ("t5_tiny", "switch_tiny")
LAYOUTS = {
    "one device": ("batch:1", "batch:batch"),
    "expert_data": ("batch:8", "batch:batch,experts:batch"),
}
ROWS, ENCODER_LENGTH, DECODER_LENGTH, PIECES = 16, 32, 16, 64


def processor() -> dict:
    """What decides in which order a processor adds: its model and how many cores there are."""
    text = Path("/proc/cpuinfo").read_text()
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    return {
        "model": named.get("model name", platform.processor()),
        "flags": named.get("flags", ""),
        "cores": len(os.sched_getaffinity(0)),
    }


def _batch(step: int) -> dict[str, np.ndarray]:
    """Texts that a model can learn: each piece tells most of the next; targets repeat inputs."""
    generator = np.random.default_rng([7, step])
    tokens = np.zeros((ROWS, ENCODER_LENGTH), np.int64)
    tokens[:, 0] = generator.integers(2, PIECES, ROWS)
    for i in range(1, ENCODER_LENGTH):
        usual = 2 + (5 * tokens[:, i - 1] + 3) % (PIECES - 2)
        other = generator.integers(2, PIECES, ROWS)
        tokens[:, i] = np.where(generator.random(ROWS) < 0.8, usual, other)
    targets = tokens[:, ::2][:, :DECODER_LENGTH].copy()
    # Every fourth row is padding in its second half.
    tokens[::4, ENCODER_LENGTH // 2 :] = 0
    targets[::4, DECODER_LENGTH // 2 :] = 0
    return {"encoder": tokens, "targets": targets}


def curve(model: str, layout: str) -> list[float]:
    """Losses of `STEPS` training steps of gin/models/<model>.gin, with dropout and jitter."""
    import gin

    from switch_tf import config
    from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
    from switch_tf.optimizers.adafactor import Adafactor
    from switch_tf.optimizers.schedules import rsqrt
    from switch_tf.training.step import TrainStep
    from tests.helpers import features_of, place_features, using

    settings = [f"VOCAB_SIZE={PIECES}", "DROPOUT_RATE=0.1"]
    if model.startswith("switch"):
        settings += ["EXPERT_DROPOUT_RATE=0.2", "GROUP_SIZE=64"]
    config.load([f"models/{model}.gin", "runs/plan.gin"], settings)
    try:
        with using(LAYOUTS[layout]) as mesh:
            made = TransformerEncoderDecoder()
            made.build()
            optimizer = Adafactor(rsqrt(warmup_steps=100), min_dim_size_to_factor=16)
            optimizer.build(made.trainable_variables)
            step = TrainStep(made, optimizer, mesh, seed=3)
            losses = []
            for i in range(STEPS):
                arrays = _batch(i)
                features = features_of(arrays["encoder"], arrays["targets"])
                targets = features["decoder_target_tokens"]
                features["decoder_loss_weights"] = (targets > 0).astype(np.int32)
                losses.append(step(place_features(features), i)["loss"])
            return losses
    finally:
        gin.clear_config()


@functools.cache
def kept() -> dict:
    """The curves as they were written: `processor`, and `curves` by model and layout."""
    return json.loads(FILE.read_text())


def name_of(model: str, layout: str) -> str:
    """Of a curve in the file."""
    return f"{model}, {layout}"


def main() -> None:
    """Writes the curves of this processor."""
    from switch_tf import runtime

    runtime.start(num_devices=8)
    curves = {name_of(m, name): curve(m, name) for m in MODELS for name in LAYOUTS}
    FILE.write_text(json.dumps({"processor": processor(), "curves": curves}, indent=0) + "\n")


if __name__ == "__main__":
    main()

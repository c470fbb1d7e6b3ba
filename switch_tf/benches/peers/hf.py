"""A training step, or greedy decoding, of Hugging Face transformers, run as a script by `peer`.

Needs torch and transformers (requirements-bench.txt), and nothing of this project. The one argument
is a JSON object with the sizes of `peer.Sizes`. Each line on stdin asks for one step; the answer is
a line of JSON. The first line that it writes says that it is ready.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

# Steps before the timed ones.
_WARM_UP = 3


def main() -> None:
    """Answers until stdin ends."""
    import torch
    import transformers

    sizes = json.loads(sys.argv[1])
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(sizes["cores"])
    torch.manual_seed(0)
    model = _model(transformers, sizes)
    call = (_decoding if sizes["decodes"] else _training)(torch, transformers, model, sizes)
    for _ in range(_WARM_UP):
        call()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    _say({"versions": versions, "parameters": sum(p.numel() for p in model.parameters())})
    for _ in sys.stdin:
        call()
        _say({"peak_bytes": _peak_bytes()})


def _say(told: Mapping) -> None:
    print(json.dumps(told), flush=True)


def _model(transformers, sizes: Mapping):
    shared = {
        "vocab_size": sizes["vocab_size"],
        "d_model": sizes["d_model"],
        "d_kv": sizes["d_kv"],
        "d_ff": sizes["d_ff"],
        "num_layers": sizes["num_layers"],
        "num_decoder_layers": sizes["num_layers"],
        "num_heads": sizes["num_heads"],
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
    }
    if not sizes["num_experts"]:
        return transformers.T5ForConditionalGeneration(transformers.T5Config(**shared))
    config = transformers.SwitchTransformersConfig(
        **shared,
        num_experts=sizes["num_experts"],
        num_sparse_encoder_layers=sizes["sparse_layers"],
        num_sparse_decoder_layers=sizes["sparse_layers"],
        expert_capacity=sizes["expert_capacity"],
        router_jitter_noise=0.0,
    )
    return transformers.SwitchTransformersForConditionalGeneration(config)


def _batch(torch, sizes: Mapping) -> dict:
    def tokens(length):
        return torch.randint(3, sizes["vocab_size"], (sizes["batch_size"], length))

    return {"input_ids": tokens(sizes["inputs"]), "labels": tokens(sizes["targets"])}


def _training(torch, transformers, model, sizes: Mapping) -> Callable[[], None]:
    """A step in the dtype, with float32 weights and Adafactor, as ours."""
    batch = _batch(torch, sizes)
    optimizer = transformers.optimization.Adafactor(
        model.parameters(), lr=1e-2, relative_step=False, scale_parameter=True, warmup_init=False
    )
    model.train()
    # Without it, the load of the experts would not be balanced.
    options = {"output_router_logits": True} if sizes["num_experts"] else {}
    rounds = sizes["dtype"] == "bfloat16"

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=rounds):
            loss = model(**batch, **options).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return call


def _decoding(torch, transformers, model, sizes: Mapping) -> Callable[[], None]:
    """Greedy decoding of as many tokens as `targets`, none of which may end it."""
    batch = _batch(torch, sizes)
    model.eval()
    length = sizes["targets"]

    def call() -> None:
        with torch.no_grad():
            model.generate(
                batch["input_ids"], do_sample=False, min_new_tokens=length, max_new_tokens=length
            )

    return call


def _peak_bytes() -> int:
    told = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(told[1])


if __name__ == "__main__":
    main()

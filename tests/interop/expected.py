"""What a merged adapter must hold, computed from its inputs with the reference safetensors parser and numpy."""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

PREFIX = "base_model.model."


def read_expected(path):
    return json.loads(Path(path).read_text())


def deltas_of_inputs(inputs):
    """Module path -> weighted sum of the inputs' deltas, [out, in] in double precision.

    inputs: [{"folder": PEFT adapter in F32, "weight": number}].
    """
    total = {}
    for entry in inputs:
        folder = Path(entry["folder"])
        config = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
        for name, a in tensors.items():
            if not name.endswith(".lora_A.weight"):
                continue
            b = tensors[name.replace("lora_A", "lora_B")]
            module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            delta = entry["weight"] * config["lora_alpha"] / config["r"] * (b.astype(np.float64) @ a)
            total[module] = total.get(module, 0) + delta
    return total


def check(holds, message):
    """Unlike assert, not left out by -O."""
    if not holds:
        sys.exit(f"failed: {message}")


def check_deltas(found, wanted, tolerance):
    """Both: module path -> [out, in]. The error is relative to the largest entry of the module's delta."""
    check(found.keys() == wanted.keys(), f"modules differ: {sorted(found.keys() ^ wanted.keys())}")
    largest = 0.0
    for module, delta in wanted.items():
        check(found[module].shape == delta.shape, f"{module}: {found[module].shape}, not {delta.shape}")
        error = np.abs(found[module] - delta).max() / np.abs(delta).max()
        check(error <= tolerance, f"{module}: the delta is off by {error:.3g}, {tolerance:g} is allowed")
        largest = max(largest, error)
    print(f"ok: {len(wanted)} modules, deltas off by {largest:.2g} at most")


def check_steps(found, requests, tolerance):
    """Greedy tokens and the log probabilities of all tokens in each place, for each request."""
    largest = 0.0
    for steps, request in zip(found, requests, strict=True):
        tokens = [token for token, _ in steps]
        check(tokens == request["tokens"], f"prompt {request['prompt']}: {tokens}, not {request['tokens']}")
        rows = np.array([row for _, row in steps])
        wanted = np.array(request["logProbabilities"])
        check(rows.shape == wanted.shape, f"log probabilities of shape {rows.shape}, not {wanted.shape}")
        error = np.abs(rows - wanted).max()
        check(error <= tolerance, f"prompt {request['prompt']}: log probabilities are off by {error:.3g}, {tolerance:g} is allowed")
        largest = max(largest, error)
    print(f"ok: {len(requests)} prompts, the tokens expected, log probabilities off by {largest:.2g} at most")

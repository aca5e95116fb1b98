"""safetensors_check.py FILE EXPECTED: the reference parser reads a merged adapter.

EXPECTED, JSON: "tensors": name -> dtype, shape and SHA-256 of the values; and, where the merge is a plain weighted sum,
"inputs" (see expected.py), "alphaOverRank" and "tolerance".
"""

import hashlib
import sys

import numpy as np
from expected import PREFIX, check, check_deltas, deltas_of_inputs, read_expected
from safetensors import deserialize, safe_open


def values(tensor):
    """As doubles; numpy has no BF16."""
    data, shape = tensor["data"], tensor["shape"]
    if tensor["dtype"] == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape).astype(np.float64)
    return np.frombuffer(data, {"F64": np.float64, "F32": np.float32, "F16": np.float16}[tensor["dtype"]]).reshape(shape).astype(np.float64)


path, expected = sys.argv[1], read_expected(sys.argv[2])
with open(path, "rb") as file:
    tensors = dict(deserialize(file.read()))
for name, tensor in tensors.items():
    print(name, tensor["dtype"], list(tensor["shape"]))
check(tensors.keys() == expected["tensors"].keys(), f"names differ: {sorted(tensors.keys() ^ expected['tensors'].keys())}")
for name, wanted in expected["tensors"].items():
    found = {"dtype": tensors[name]["dtype"], "shape": list(tensors[name]["shape"]), "sha256": hashlib.sha256(tensors[name]["data"]).hexdigest()}
    check(found == wanted, f"{name} is {found}, not {wanted}")
# The way that PEFT opens it.
with safe_open(path, framework="np") as file:
    metadata = file.metadata()
    check(metadata is not None and metadata.get("format") == "pt", f"metadata without the format: {metadata}")
    check(set(file.keys()) == tensors.keys(), "safe_open finds other tensors")
print(f"ok: {len(tensors)} tensors")
if "inputs" in expected:
    modules = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    found = {
        module.removeprefix(PREFIX): expected["alphaOverRank"] * (values(tensors[f"{module}.lora_B.weight"]) @ values(tensors[f"{module}.lora_A.weight"]))
        for module in modules
    }
    check_deltas(found, deltas_of_inputs(expected["inputs"]), expected["tolerance"])

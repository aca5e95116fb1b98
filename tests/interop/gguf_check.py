"""gguf_check.py FILE EXPECTED: the reader that llama.cpp publishes as a Python package reads a GGUF adapter.

EXPECTED, JSON: "fields": key -> value; "modules": GGUF tensor -> module path; "heads" of q and k; "inputs" and
"tolerance" as in expected.py.
"""

import sys

import numpy as np
from expected import check, check_deltas, deltas_of_inputs, read_expected
from gguf import GGMLQuantizationType, GGUFReader


def with_rotary_rows(weights, heads):
    """`permute` of llama.cpp's convert_hf_to_gguf.py."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


reader, expected = GGUFReader(sys.argv[1]), read_expected(sys.argv[2])
for key, value in expected["fields"].items():
    field = reader.get_field(key)
    check(field is not None and field.contents() == value, f"{key} is {field and field.contents()}, not {value}")
for tensor in reader.tensors:
    print(tensor.name, tensor.tensor_type.name, [int(side) for side in tensor.shape])
tensors = {tensor.name: tensor for tensor in reader.tensors}
names = {f"{name}.lora_{side}" for name in expected["modules"] for side in "ab"}
check(tensors.keys() == names, f"tensors differ: {sorted(tensors.keys() ^ names)}")
print(f"ok: GGUF {reader.get_field('GGUF.version').contents()}, {len(tensors)} tensors")

dtypes = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}


def values(name):
    tensor = tensors[name]
    check(tensor.tensor_type in dtypes, f"{name} is {tensor.tensor_type.name}")
    return tensor.data.astype(np.float64)


alpha = reader.get_field("adapter.lora.alpha").contents()
wanted = deltas_of_inputs(expected["inputs"])
found = {}
for name, module in expected["modules"].items():
    a, b = values(f"{name}.lora_a"), values(f"{name}.lora_b")
    # `get_scale` of llama-adapter.h
    found[module] = (alpha / b.shape[1] if alpha else 1.0) * (b @ a)
    if module.endswith((".q_proj", ".k_proj")):
        wanted[module] = with_rotary_rows(wanted[module], expected["heads"])
check_deltas(found, wanted, expected["tolerance"])

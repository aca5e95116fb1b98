"""onnx_adapter_check.py FILE MODEL EXPECTED: ONNX Runtime reads an .onnx_adapter, and runs a model with it.

MODEL takes `<module>.lora_A` [rank, in] and `<module>.lora_B` [out, rank] as inputs. EXPECTED, JSON: "inputs" and
"deltaTolerance" for the factors, "requests" and "tolerance" for what the model says (see expected.py).
"""

import os
import sys

import numpy as np
import onnxruntime
from expected import check, check_deltas, check_steps, deltas_of_inputs, read_expected


def open_model(path):
    """Without what Debian's build writes meanwhile: a line for each operator, because it registers them twice."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


path, model, expected = sys.argv[1], sys.argv[2], read_expected(sys.argv[3])
adapter = onnxruntime.AdapterFormat.read_adapter(path)
parameters = {name: value.numpy() for name, value in adapter.get_parameters().items()}
for name, values in parameters.items():
    print(name, values.dtype, list(values.shape))
print(f"ok: format {adapter.get_format_version()}, {len(parameters)} parameters")

session = open_model(model)
names = {entry.name for entry in session.get_inputs()} - {"input_ids"}
check(parameters.keys() == names, f"the model's inputs differ: {sorted(parameters.keys() ^ names)}")
modules = [name.removesuffix(".lora_A") for name in names if name.endswith(".lora_A")]
found = {module: parameters[f"{module}.lora_B"].astype(np.float64) @ parameters[f"{module}.lora_A"] for module in modules}
check_deltas(found, deltas_of_inputs(expected["inputs"]), expected["deltaTolerance"])

loaded = onnxruntime.LoraAdapter()
loaded.Load(path)
options = onnxruntime.RunOptions()
options.add_active_adapter(loaded)


def log_probabilities(ids):
    """Of the next token. The public run() wants every input fed, and knows nothing of adapters; what it calls does."""
    (logits,) = session._sess.run(["logits"], {"input_ids": np.array([ids], np.int64)}, options)
    last = logits[0, -1].astype(np.float64)
    return last - last.max() - np.log(np.exp(last - last.max()).sum())


def generate(request):
    ids, steps = list(request["prompt"]), []
    for _ in request["tokens"]:
        row = log_probabilities(ids)
        ids.append(int(row.argmax()))
        steps.append((ids[-1], row.tolist()))
    return steps


check_steps([generate(request) for request in expected["requests"]], expected["requests"], expected["tolerance"])

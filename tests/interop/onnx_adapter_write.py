"""onnx_adapter_write.py SAFETENSORS ALPHA_OVER_RANK FILE: ONNX Runtime itself writes a PEFT adapter as .onnx_adapter."""

import sys

import numpy as np
import onnxruntime
from expected import PREFIX
from safetensors.numpy import load_file

source, scale, target = sys.argv[1], np.float32(sys.argv[2]), sys.argv[3]
parameters = {
    name.removeprefix(PREFIX).removesuffix(".weight"): values * scale if "lora_B" in name else values
    for name, values in load_file(source).items()
}
adapter = onnxruntime.AdapterFormat()
adapter.set_adapter_version(1)
adapter.set_model_version(1)
adapter.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(values) for name, values in parameters.items()})
adapter.export_adapter(target)

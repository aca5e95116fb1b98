"""kohya_hashes_check.py FILE: a kohya file's hashes are those that sd-scripts gives the same tensors.

As in its library/train_util.py, precalculate_safetensors_hashes: written by the reference library with no metadata but
what the training says of itself. FILE: factors in F16, longer than where the old hash looks.
"""

import hashlib
import sys

from expected import check
from safetensors import safe_open
from safetensors.numpy import save

LEGACY = slice(0x100000, 0x110000)

with safe_open(sys.argv[1], framework="np") as file:
    metadata = file.metadata()
    tensors = {name: file.get_tensor(name) for name in file.keys()}
written = save(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
check(len(written) >= LEGACY.stop, f"the file is too short: {len(written)} bytes")
data = written[8 + int.from_bytes(written[:8], "little") :]
expected = {
    "sshs_model_hash": hashlib.sha256(data).hexdigest(),
    "sshs_legacy_hash": hashlib.sha256(written[LEGACY]).hexdigest()[:8],
}
for key, value in expected.items():
    check(metadata.get(key) == value, f"{key} is {metadata.get(key)}, not {value}")
print(f"ok: {', '.join(expected.values())}")

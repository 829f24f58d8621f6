"""Dequantizes blocks with gguf-py and compares every value.

    check_blocks.py LIST      lines of TYPE, FILE of blocks and FILE of 32-bit floats, separated by tabs
"""
import sys
import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

count = 0
for line in open(sys.argv[1]).read().splitlines():
    kind, blocks, floats = line.split("\t")
    found = np.fromfile(floats, np.float32)
    want = dequantize(np.fromfile(blocks, np.uint8), GGMLQuantizationType[kind]).reshape(-1)
    if not np.array_equal(found, want):
        at = np.argwhere(found != want)[0][0]
        raise SystemExit(f"{kind}: value {at} is {found[at]!r}, and {want[at]!r} in gguf-py")
    count += len(want)
print(f"gguf-py: {count} values of blocks are the same")

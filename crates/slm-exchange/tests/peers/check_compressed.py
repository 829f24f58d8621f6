"""Reads compressed-tensors directories by the rules of that package and compares every layer with the checkpoint.

    check_compressed.py LIST      lines of CHECKPOINT and DIRECTORY, separated by a tab

`unpack` is what compressed-tensors' unpack_from_int32 computes; values are `(code - zero point) * scale`.
"""
import json, sys
import numpy as np
from safetensors import safe_open
from check_gguf import Checkpoint

HF = {"input_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"}


def unpack(words, bits, count):
    shifts = np.arange(32 // bits, dtype=np.uint32) * bits
    codes = (words.view(np.uint32)[..., None] >> shifts) & ((1 << bits) - 1)
    return codes.reshape(*words.shape[:-1], -1)[..., :count].astype(np.int32) - (1 << (bits - 1))


def main():
    compared = 0
    for line in open(sys.argv[1]).read().splitlines():
        path, directory = line.split("\t")
        checkpoint = Checkpoint(path)
        config = json.load(open(f"{directory}/config.json"))["quantization_config"]
        group = config["config_groups"]["group_0"]
        bits, size = group["weights"]["num_bits"], group["weights"]["group_size"]
        assert config["quant_method"] == "compressed-tensors" and config["quantization_status"] == "compressed"
        file = safe_open(f"{directory}/model.safetensors", "np")
        assert file.metadata()["format"] == "pt"
        keys = set(file.keys())
        for name in checkpoint.layers:
            module = name if name == "lm_head" else "model." + name
            if module in config["ignore"]:
                continue
            scale = file.get_tensor(f"{module}.weight_scale")
            if f"{module}.weight_packed" in keys:
                assert config["format"] == "pack-quantized" and group["input_activations"] is None
                rows, cols = (int(n) for n in file.get_tensor(f"{module}.weight_shape"))
                codes = unpack(file.get_tensor(f"{module}.weight_packed"), bits, cols)
            else:
                assert config["format"] == "int-quantized" and group["input_activations"]["num_bits"] == 8
                codes = file.get_tensor(f"{module}.weight").astype(np.int32)
                rows, cols = codes.shape
            zeros = np.zeros(scale.shape, np.int32)
            if f"{module}.weight_zero_point" in keys:
                assert not group["weights"]["symmetric"]
                zeros = file.get_tensor(f"{module}.weight_zero_point")
                if zeros.dtype == np.int32:
                    zeros = unpack(np.ascontiguousarray(zeros.T), bits, rows).T
            spread = lambda a: np.repeat(a, size or cols, axis=1)
            values = (codes - spread(zeros.astype(np.int32))).astype(np.float32) * spread(scale.astype(np.float32))
            if not np.array_equal(values, checkpoint.quantized(name)):
                raise SystemExit(f"{directory}: {module} differs")
            if "activation" in checkpoint.layers[name] and checkpoint.layers[name]["activation"]:
                static = checkpoint.layers[name]["activation"]
                assert group["input_activations"]["dynamic"] is False
                assert np.float32(static["scale"]) == file.get_tensor(f"{module}.input_scale")[0]
                assert static["zero_point"] - 128 == int(file.get_tensor(f"{module}.input_zero_point")[0])
            compared += 1
    print(f"compressed-tensors: {compared} layers are the checkpoint's, bit for bit")


main()

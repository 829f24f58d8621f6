"""Reads GGUF files with gguf-py and compares every tensor with the checkpoint that it was made of, bit for bit.

    check_gguf.py LIST      lines of CHECKPOINT and FILE, separated by a tab

The values of a checkpoint are computed here, from its codes and scales, and put into llama.cpp's order by rules that were
written down again: nothing is shared with the program under test.
"""
import json, sys
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors import safe_open

NAMES = {
    "input_norm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "attention_output_norm": "post_attention_norm", "post_attention_norm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp_output_norm": "post_ffw_norm",
}
TOP = {"embed_tokens": "token_embd", "embed_positions": "position_embd", "norm": "output_norm", "lm_head": "output"}
INTERLEAVED = {"llama", "granite", "granite_swa", "smollm3"}


class Checkpoint:
    def __init__(self, path):
        self.model = json.load(open(f"{path}/config.json"))["model"]
        self.file = safe_open(f"{path}/model.safetensors", "np")
        self.keys = set(self.file.keys())
        raw = open(f"{path}/model.safetensors", "rb").read()
        length = int.from_bytes(raw[:8], "little")
        self.header, self.data = json.loads(raw[8 : 8 + length]), memoryview(raw)[8 + length :]
        try:
            metadata = json.load(open(f"{path}/quantization_metadata.json"))
        except FileNotFoundError:
            metadata = {"layers": []}
        layers = metadata["layers"] + [metadata[k] for k in ("embedding",) if k in metadata]
        self.layers = {layer["name"]: layer for layer in layers}
        self.quantizes_inputs = metadata.get("type", "weight-only") != "weight-only"

    def float32(self, name):
        """A float tensor. The library has no BF16 for numpy, which is the upper half of F32."""
        start, end = self.header[name]["data_offsets"]
        kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[self.header[name]["dtype"]]
        values = np.frombuffer(self.data[start:end], kind).reshape(self.header[name]["shape"])
        if kind is np.uint16:
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32)

    def parts(self, layer):
        """Codes `[rows, cols]`, scales, and zero points where there are any."""
        rows, cols = self.layers[layer]["shape"]
        codes = self.file.get_tensor(f"{layer}.weight.codes")
        if self.layers[layer]["scheme"]["bits"] == 4:
            low, high = codes & 15, codes >> 4
            codes = np.stack([low, high], axis=-1).reshape(rows, -1)[:, :cols].astype(np.int8)
            codes = np.where(codes > 7, codes - 16, codes)
        scales = np.asarray(self.file.get_tensor(f"{layer}.weight.scales"), dtype=np.float32)
        zeros = None
        if f"{layer}.weight.zero_points" in self.keys:
            zeros = self.file.get_tensor(f"{layer}.weight.zero_points").astype(np.int32)
        return codes.astype(np.int32), scales, zeros

    def quantized(self, layer):
        rows, cols = self.layers[layer]["shape"]
        codes, scales, zeros = self.parts(layer)
        zeros = np.zeros(scales.shape, np.int32) if zeros is None else zeros
        granularity = self.layers[layer]["scheme"]["granularity"]
        if granularity.startswith("group:"):
            size = int(granularity[6:])
            spread = lambda a: np.repeat(a, size, axis=1)[:, :cols]
        elif granularity == "channel":
            spread = lambda a: np.broadcast_to(a[:, None], (rows, cols))
        else:
            spread = lambda a: np.broadcast_to(a.reshape(1, 1), (rows, cols))
        return (codes - spread(zeros)).astype(np.float32) * spread(scales)

    def values(self, name):
        layer = name.removesuffix(".weight")
        if name == "embed_tokens.weight" and name not in self.keys:
            layer = "lm_head" if "lm_head" in self.layers and self.model["tie_word_embeddings"] else "embed_tokens"
        if layer in self.layers:
            return self.quantized(layer)
        return self.float32(name)


def interleave(a, heads):
    rows = a.shape[0]
    return a.reshape(heads, 2, rows // heads // 2, *a.shape[1:]).swapaxes(1, 2).reshape(a.shape)


def expected(checkpoint, arch, name):
    """What tensor `name` of llama.cpp must hold; none for what has no source in the checkpoint."""
    stem, kind = name.rsplit(".", 1)
    if not stem.startswith("blk."):
        ours = {theirs: ours for ours, theirs in TOP.items()}.get(stem)
        if ours is None:
            return None
        if ours == "lm_head" and "lm_head" not in checkpoint.layers and "lm_head.weight" not in checkpoint.keys:
            ours = "embed_tokens"
        return checkpoint.values(f"{ours}.{kind}")
    _, layer, part = stem.split(".", 2)
    get = lambda ours: checkpoint.values(f"layers.{layer}.{ours}.{kind}")
    if part == "attn_qkv":
        return np.concatenate([get(f"self_attn.{x}_proj") for x in "qkv"])
    if part == "ffn_up" and arch == "phi3":
        return np.concatenate([get("mlp.gate_proj"), get("mlp.up_proj")])
    ours = {theirs: ours for ours, theirs in NAMES.items()}.get(part)
    if ours is None:
        return None
    values = get(ours)
    if arch in INTERLEAVED and part in ("attn_q", "attn_k"):
        values = interleave(values, checkpoint.model["num_heads" if part == "attn_q" else "num_kv_heads"])
    if arch == "gemma3" and part == "attn_q_norm":
        factor = checkpoint.model["attention_scale"] * checkpoint.model["head_dim"] ** 0.5
        values = values * np.float32(factor)
    return values


def main():
    compared = quantized = 0
    for line in open(sys.argv[1]).read().splitlines():
        path, file = line.split("\t")
        checkpoint, reader = Checkpoint(path), GGUFReader(file)
        arch = str(reader.fields["general.architecture"].contents())
        for tensor in reader.tensors:
            want = expected(checkpoint, arch, tensor.name)
            if want is None:
                assert tensor.name == "rope_freqs.weight" or tensor.name.endswith("attn_sinks.weight"), tensor.name
                continue
            found = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            found = found.reshape(tuple(int(n) for n in tensor.shape)[::-1])
            assert found.shape == want.shape, (file, tensor.name, found.shape, want.shape)
            # -0.0 and 0.0 are the same number.
            if not np.array_equal(found, want):
                at = np.argwhere(found != want)[0]
                raise SystemExit(f"{file}: {tensor.name} ({tensor.tensor_type.name}) at {at}: {found[tuple(at)]!r}, "
                                 f"the checkpoint has {want[tuple(at)]!r}")
            compared += 1
            quantized += tensor.tensor_type.name in ("Q8_0", "Q4_0", "Q4_1")
        del checkpoint, reader
    print(f"gguf-py: {compared} tensors are the checkpoint's, bit for bit, {quantized} of them quantized")


if __name__ == "__main__":
    main()

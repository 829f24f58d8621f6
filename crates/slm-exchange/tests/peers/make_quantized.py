"""Writes small Llama checkpoints as AutoGPTQ, AutoAWQ and compressed-tensors store them, by their own packing rules.

    make_quantized.py DIRECTORY [programs]

With `programs` the tensors are those that the programs themselves pack (packers.py), of the schemes that they can write.

Each folder of DIRECTORY is a model. Next to it `NAME.expected.safetensors` has, for each quantized layer, the integers that
were packed less their zero points (`X.q`, `[outputs, inputs]`), the scale of each value (`X.s`), and their product (`X.w`).

Packing is written down from the programs that wrote such files:
* GPTQ: `pack` of AutoGPTQ's `nn_modules/qlinear/qlinear_cuda.py`
* AWQ: `WQLinear_GEMM.from_linear` of AutoAWQ's `modules/linear/gemm.py`
* compressed-tensors: `pack_to_int32` of `compressors/pack_quantized/helpers.py`
"""
import json, os, sys
import numpy as np
from safetensors.numpy import save_file

HIDDEN, INNER, LAYERS, HEADS, KV, VOCAB = 64, 96, 2, 4, 2, 128
LINEARS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.v_proj": (HIDDEN // 2, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER),
}
CONFIG = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=INNER,
    num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV, max_position_embeddings=64,
    rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu", tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
rng = np.random.default_rng(5)
PACKERS = None
if sys.argv[2:] == ["programs"]:
    import packers as PACKERS


def gptq_words(q, bits):
    """Codes [inputs, outputs] packed along the inputs."""
    out = np.zeros((q.shape[0] // 32 * bits, q.shape[1]), np.uint32)
    i = row = 0
    while row < out.shape[0]:
        for j in range(i, i + 32 // bits):
            out[row] |= q[j].astype(np.uint32) << np.uint32(bits * (j - i))
        i += 32 // bits
        row += 1
    return out.view(np.int32)


def gptq_zeros(z, bits, version):
    """Zero points [groups, outputs] packed along the outputs; version 1 stores them less one."""
    z = ((z.astype(np.int64) - (version == 1)) & ((1 << bits) - 1)).astype(np.uint32)
    out = np.zeros((z.shape[0], z.shape[1] // 32 * bits), np.uint32)
    i = col = 0
    while col < out.shape[1]:
        for j in range(i, i + 32 // bits):
            out[:, col] |= z[:, j] << np.uint32(bits * (j - i))
        i += 32 // bits
        col += 1
    return out.view(np.int32)


def awq_words(q, bits):
    """Codes [n, outputs] packed along the outputs, interleaved."""
    order = {4: [0, 2, 4, 6, 1, 3, 5, 7], 8: [0, 2, 1, 3]}[bits]
    pack = 32 // bits
    out = np.zeros((q.shape[0], q.shape[1] // pack), np.uint32)
    for col in range(out.shape[1]):
        for i in range(pack):
            out[:, col] |= q[:, col * pack + order[i]].astype(np.uint32) << np.uint32(i * bits)
    return out.view(np.int32)


def ct_words(q, bits):
    """Signed codes packed along the last axis: code i is at bit i * bits of its row."""
    rows, cols = q.shape
    bits_of = ((q.astype(np.int64) + (1 << (bits - 1)))[:, :, None] >> np.arange(bits)) & 1
    flat = bits_of.reshape(rows, cols * bits)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 32)))
    words = (flat.reshape(rows, -1, 32).astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(-1)
    return words.astype(np.uint32).view(np.int32)


def floats(tensors):
    """Tensors that are not quantized."""
    for name, shape in [("model.embed_tokens", (VOCAB, HIDDEN)), ("lm_head", (VOCAB, HIDDEN)), ("model.norm", (HIDDEN,))]:
        tensors[f"{name}.weight"] = rng.normal(size=shape).astype(np.float16)
    for layer in range(LAYERS):
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = np.ones(HIDDEN, np.float16)


def layer(shape, bits, group, symmetric, low=0):
    """Random unsigned codes, zero points and scales of a layer: [outputs, inputs], [outputs, groups] twice."""
    outputs, inputs = shape
    groups = 1 if group == -1 else -(-inputs // group)
    q = rng.integers(0, 1 << bits, shape)
    z = np.full((outputs, groups), 1 << (bits - 1)) if symmetric else rng.integers(low, 1 << bits, (outputs, groups))
    s = rng.uniform(0.001, 0.02, (outputs, groups)).astype(np.float16)
    return q, z, s


def expect(expected, module, q, z, s, index):
    name = module.removeprefix("model.")
    wide = s.astype(np.float32)[:, index]
    expected[f"{name}.q"] = (q - z[:, index]).astype(np.int32)
    expected[f"{name}.s"] = wide
    expected[f"{name}.w"] = (q - z[:, index]).astype(np.float32) * wide


def write(root, name, tensors, expected, config, extra=None, shards=1):
    os.makedirs(f"{root}/{name}")
    tensors = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    save_file(tensors, f"{root}/{name}/model.safetensors", metadata={"format": "pt"})
    save_file({key: np.ascontiguousarray(value) for key, value in expected.items()}, f"{root}/{name}.expected.safetensors")
    json.dump(config, open(f"{root}/{name}/config.json", "w"))
    if extra:
        json.dump(extra[1], open(f"{root}/{name}/{extra[0]}", "w"))


def modules():
    for number in range(LAYERS):
        for linear, shape in LINEARS.items():
            yield f"model.layers.{number}.{linear}", shape


def gptq(root, name, bits, group, symmetric, version, order=False, in_file=False, index=True):
    tensors, expected = {}, {}
    floats(tensors)
    for module, shape in modules():
        # Version 1 cannot store zero points of 0 but by wrapping, which is tested too. AutoGPTQ does not wrap.
        q, z, s = layer(shape, bits, group, symmetric, low=1 if PACKERS else 0)
        size = shape[1] if group == -1 else group
        g_idx = np.arange(shape[1]) // size
        if order:
            g_idx = rng.permutation(g_idx)
        if PACKERS:
            packed = PACKERS.gptq(q, z, s, g_idx, bits, group)
        else:
            packed = dict(qweight=gptq_words(q.T, bits), qzeros=gptq_zeros(z.T, bits, version), scales=s.T,
                          g_idx=g_idx.astype(np.int32))
        tensors |= {f"{module}.{part}": packed[part] for part in packed if index or part != "g_idx"}
        # AutoGPTQ gives layers without a bias one of zeros.
        if module.endswith("q_proj"):
            tensors[f"{module}.bias"] = np.zeros(shape[0], np.float16)
        expect(expected, module, q, z, s, g_idx)
    description = dict(bits=bits, group_size=group, desc_act=order, sym=symmetric, quant_method="gptq",
                       checkpoint_format="gptq_v2" if version == 2 else "gptq")
    config = CONFIG if in_file else dict(CONFIG, quantization_config=description)
    write(root, name, tensors, expected, config, ("quantize_config.json", description) if in_file else None)


def awq(root, name, bits, group, zero_point=True):
    tensors, expected = {}, {}
    floats(tensors)
    for module, shape in modules():
        q, z, s = layer(shape, bits, group, not zero_point)
        size = shape[1] if group == -1 else group
        index = np.arange(shape[1]) // size
        if PACKERS:
            packed = PACKERS.awq(q, z, s, index, bits, group)
        else:
            packed = dict(qweight=awq_words(q.T, bits), qzeros=awq_words(z.T, bits), scales=s.T)
        tensors |= {f"{module}.{part}": packed[part] for part in packed}
        expect(expected, module, q, z, s, index)
    description = dict(quant_method="awq", bits=bits, group_size=group, zero_point=zero_point, version="gemm",
                       modules_to_not_convert=None)
    write(root, name, tensors, expected, dict(CONFIG, quantization_config=description))


def compressed(root, name, bits, group, symmetric, packed, inputs=None, strategy=None, targets=("Linear",), index=False):
    args = lambda **fields: dict(dict(num_bits=8, type="int", symmetric=True, dynamic=False, group_size=None,
                                      observer="minmax", observer_kwargs={}, actorder=None, block_structure=None), **fields)
    weights = args(num_bits=bits, symmetric=symmetric, strategy=strategy or ("channel" if group == -1 else "group"),
                   group_size=None if group == -1 else group)
    activations = {None: None, "dynamic": args(strategy="token", dynamic=True, observer=None),
                   "static": args(strategy="tensor", symmetric=False)}[inputs]
    tensors, expected = {}, {}
    floats(tensors)
    for module, shape in modules():
        q, z, s = layer(shape, bits, group, symmetric)
        half = 1 << (bits - 1)
        size = shape[1] if group == -1 else group
        g_idx = np.arange(shape[1]) // size
        if index:
            g_idx = rng.permutation(g_idx)
        if strategy == "tensor":
            s, z = s[:1], z[:1]
            wide = (np.repeat(s, shape[0], 0), np.repeat(z, shape[0], 0))
        else:
            wide = (s, z)
        if PACKERS:
            parts = PACKERS.compressed(q, wide[1], wide[0], g_idx, bits, weights, packed)
        else:
            parts = dict(weight_scale=s)
            if index:
                parts["weight_g_idx"] = g_idx.astype(np.int32)
            if packed:
                parts |= dict(weight_packed=ct_words(q - half, bits), weight_shape=np.array(shape, np.int64))
            else:
                parts["weight"] = (q - half).astype(np.int8)
            if not symmetric:
                parts["weight_zero_point"] = ct_words((z - half).T, bits).T if packed else (z - half).astype(np.int8)
        if strategy == "tensor":
            parts["weight_scale"] = s[0]
        tensors |= {f"{module}.{part}": value for part, value in parts.items()}
        if inputs == "static":
            tensors[f"{module}.input_scale"] = np.array([0.03125], np.float32)
            tensors[f"{module}.input_zero_point"] = np.array([-5], np.int8)
        expect(expected, module, q, wide[1], wide[0], g_idx)
    description = dict(
        quant_method="compressed-tensors", format="pack-quantized" if packed else "int-quantized",
        quantization_status="compressed", global_compression_ratio=None, kv_cache_scheme=None, version="0.10.0",
        config_groups=dict(group_0=dict(targets=list(targets), weights=weights, input_activations=activations,
                                        output_activations=None)),
        ignore=["lm_head", "re:.*embed.*"])
    write(root, name, tensors, expected, dict(CONFIG, quantization_config=description))


def main():
    root = sys.argv[1]
    gptq(root, "gptq-4-group", 4, 32, False, 1)
    gptq(root, "gptq-4-symmetric", 4, 32, True, 1, in_file=True)
    gptq(root, "gptq-8-channel", 8, -1, True, 1)
    if not PACKERS:
        gptq(root, "gptq-8-group", 8, 16, False, 2)
        gptq(root, "gptq-4-v2", 4, 16, False, 2, index=False)
    gptq(root, "gptq-4-order", 4, 32, False, 1, order=True)
    awq(root, "awq-4-group", 4, 32)
    if not PACKERS:
        awq(root, "awq-8-group", 8, 16)
        awq(root, "awq-4-channel", 4, -1, zero_point=False)
    compressed(root, "ct-8-dynamic", 8, -1, True, False, inputs="dynamic")
    compressed(root, "ct-8-static", 8, -1, False, False, inputs="static")
    compressed(root, "ct-8-tensor", 8, -1, True, False, inputs="dynamic", strategy="tensor")
    compressed(root, "ct-4-inputs", 4, 32, True, False, inputs="dynamic")
    compressed(root, "ct-4-packed", 4, 32, True, True, targets=["re:.*self_attn.*", "re:.*mlp"])
    compressed(root, "ct-4-affine", 4, 16, False, True)
    compressed(root, "ct-8-packed", 8, 32, False, True)
    if not PACKERS:
        # What compressed-tensors packs has no index of columns any more.
        compressed(root, "ct-4-order", 4, 32, False, True, index=True)


main()

"""Writes small Llama checkpoints as AutoGPTQ, AutoAWQ and compressed-tensors store them, by their own packing rules, and in FP8.

    make_quantized.py DIRECTORY [programs]

With `programs` the tensors are those that the programs themselves pack (packers.py), of the schemes that they can write.

Each folder of DIRECTORY is a model. Next to it `NAME.expected.safetensors` has, for each quantized layer, the numbers that
were packed less their zero points (`X.q`, `[outputs, inputs]`), the scale of each value (`X.s`), and their product (`X.w`).

Packing is written down from the programs that wrote such files:
* GPTQ: `pack` of AutoGPTQ's `nn_modules/qlinear/qlinear_cuda.py`
* AWQ: `WQLinear_GEMM.from_linear` of AutoAWQ's `modules/linear/gemm.py`
* compressed-tensors: `pack_to_int32` of `compressors/pack_quantized/helpers.py`
* FP8: `Fp8Dequantize` of transformers' `integrations/finegrained_fp8.py`
"""
import json, os, sys
import numpy as np

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
    """Codes [inputs, outputs] packed along the inputs. AutoGPTQ splits two of 32 codes of 3 bits between words."""
    if bits == 3:
        return dense_words(q.T, bits).T
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
    if bits == 3:
        return dense_words(z, bits)
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
    """Signed codes packed along the last axis."""
    return dense_words(q.astype(np.int64) + (1 << (bits - 1)), bits)


def dense_words(q, bits):
    """Unsigned codes packed along the last axis: code i is at bit i * bits of its row."""
    rows, cols = q.shape
    bits_of = (q.astype(np.int64)[:, :, None] >> np.arange(bits)) & 1
    flat = bits_of.reshape(rows, cols * bits)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 32)))
    words = (flat.reshape(rows, -1, 32).astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(-1)
    return words.astype(np.uint32).view(np.int32)


def float8(codes):
    """The values of E4M3 codes, without infinities."""
    exponent, mantissa = (codes >> 3 & 15).astype(np.int32), (codes & 7).astype(np.float32)
    value = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(mantissa + 8, exponent - 10))
    return np.where(codes >= 128, -value, value).astype(np.float32)


def float8_layer(shape, groups):
    """Random codes that are not NaN, and scales of the shape `groups`."""
    q = rng.integers(0, 255, shape).astype(np.uint8)
    q[q == 127] = 126
    return q, rng.uniform(0.001, 0.02, groups).astype(np.float32)


def blocks(s, block, shape):
    """The scale of each value of a matrix that is split into blocks."""
    return s.repeat(block[0], 0)[:shape[0]].repeat(block[1], 1)[:, :shape[1]]


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
    expect_values(expected, module, (q - z[:, index]).astype(np.int32), s.astype(np.float32)[:, index])


def expect_values(expected, module, numbers, wide):
    name = module.removeprefix("model.")
    expected[f"{name}.q"] = numbers
    expected[f"{name}.s"] = np.broadcast_to(wide, numbers.shape)
    expected[f"{name}.w"] = numbers.astype(np.float32) * wide


def save(path, tensors):
    """A safetensors file; bytes are floats of 8 bits, which numpy does not have."""
    types = dict(uint8="F8_E4M3", int8="I8", int32="I32", int64="I64", float16="F16", float32="F32")
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in tensors.items():
        start = len(data)
        data += np.ascontiguousarray(value).tobytes()
        header[name] = dict(dtype=types[str(value.dtype)], shape=value.shape, data_offsets=[start, len(data)])
    header = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + data)


def write(root, name, tensors, expected, config, extra=None):
    os.makedirs(f"{root}/{name}")
    save(f"{root}/{name}/model.safetensors", tensors)
    save(f"{root}/{name}.expected.safetensors", expected)
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


def compressed_blocks(root, name, block):
    """Weights of 8-bit integers with a scale for each block."""
    tensors, expected = {}, {}
    floats(tensors)
    weights = dict(num_bits=8, type="int", symmetric=True, dynamic=False, group_size=None, strategy="block", block_structure=block)
    for module, shape in modules():
        q = rng.integers(-128, 128, shape)
        s = rng.uniform(0.001, 0.02, [-(-size // step) for size, step in zip(shape, block)]).astype(np.float32)
        wide = blocks(s, block, shape)
        parts = dict(weight=q.astype(np.int8), weight_scale=s)
        if PACKERS:
            parts = PACKERS.compressed_values((q * wide).astype(np.float32), s, weights)
        tensors |= {f"{module}.{part}": value for part, value in parts.items()}
        expect_values(expected, module, q.astype(np.int32), wide)
    write(root, name, tensors, expected, dict(CONFIG, quantization_config=compressed_config("int-quantized", weights)))


def compressed_config(format, weights, activations=None):
    return dict(quant_method="compressed-tensors", format=format, quantization_status="compressed", version="0.10.0",
                config_groups=dict(group_0=dict(targets=["Linear"], weights=weights, input_activations=activations)),
                ignore=["lm_head", "re:.*embed.*"])


def compressed_float8(root, name, strategy, group=None, block=None):
    tensors, expected = {}, {}
    floats(tensors)
    weights = dict(num_bits=8, type="float", symmetric=True, dynamic=False, strategy=strategy, group_size=group,
                   block_structure=block)
    for module, (rows, cols) in modules():
        shape = {"tensor": (1,), "channel": (rows, 1), "group": (rows, cols // (group or 1)),
                 "block": [-(-size // step) for size, step in zip((rows, cols), block or (1, 1))]}[strategy]
        q, s = float8_layer((rows, cols), shape)
        wide = {"tensor": lambda: s, "channel": lambda: s, "group": lambda: s.repeat(group, 1),
                "block": lambda: blocks(s, block, q.shape)}[strategy]()
        parts = dict(weight=q, weight_scale=s)
        if PACKERS:
            parts = PACKERS.compressed_values(float8(q) * wide, s, weights)
            # A code of -0 becomes one of 0.
            assert (float8(parts["weight"]) == float8(q)).all()
            q = parts["weight"]
        tensors |= {f"{module}.{part}": value for part, value in parts.items()}
        expect_values(expected, module, float8(q), wide)
    inputs = dict(num_bits=8, type="float", strategy="token", dynamic=True)
    write(root, name, tensors, expected, dict(CONFIG, quantization_config=compressed_config("float-quantized", weights, inputs)))


def fp8(root, name, block=None, shape=None, scale="weight_scale_inv"):
    """Weights with `quant_method` fp8: a scale for each block, or scales of the shape that `shape` gives for rows."""
    tensors, expected = {}, {}
    floats(tensors)
    for module, (rows, cols) in modules():
        of_blocks = block and [-(-size // step) for size, step in zip((rows, cols), block)]
        q, s = float8_layer((rows, cols), of_blocks or shape(rows))
        wide = blocks(s, block, q.shape) if block else s.reshape(-1, 1)
        if PACKERS:
            PACKERS.check_fp8(q, s, float8(q) * wide)
        tensors |= {f"{module}.weight": q, f"{module}.{scale}": s}
        if scale == "weight_scale":
            tensors[f"{module}.input_scale"] = np.ones(1, np.float32)
        expect_values(expected, module, float8(q), wide)
    description = dict(quant_method="fp8", activation_scheme="dynamic", modules_to_not_convert=["lm_head"])
    if block:
        description |= dict(fmt="e4m3", weight_block_size=block)
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
    gptq(root, "gptq-2-group", 2, 32, False, 1)
    gptq(root, "gptq-3-group", 3, 32, False, 1)
    gptq(root, "gptq-3-order", 3, 32, True, 1, order=True)
    if not PACKERS:
        gptq(root, "gptq-3-v2", 3, 32, False, 2, index=False)
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
    compressed(root, "ct-2-packed", 2, 32, True, True)
    compressed(root, "ct-3-packed", 3, 32, False, True)
    compressed(root, "ct-6-packed", 6, -1, False, True)
    compressed_blocks(root, "ct-8-block", [32, 16])
    compressed_float8(root, "ct-float8-tensor", "tensor")
    compressed_float8(root, "ct-float8-channel", "channel")
    compressed_float8(root, "ct-float8-group", "group", group=16)
    compressed_float8(root, "ct-float8-block", "block", block=[24, 40])
    fp8(root, "fp8-block", block=[32, 16])
    if not PACKERS:
        fp8(root, "fp8-part", block=[40, 24])
        fp8(root, "fp8-tensor", shape=lambda rows: (1,), scale="weight_scale")
        fp8(root, "fp8-channel", shape=lambda rows: (rows, 1), scale="weight_scale")
    if not PACKERS:
        # What compressed-tensors packs has no index of columns any more.
        compressed(root, "ct-4-order", 4, 32, False, True, index=True)


main()

"""Loads directories with mlx-lm and compares them with the checkpoints that they were made of.

    check_mlx.py LIST      JSON: label, directory, checkpoint, ids, logits (a file of 32-bit floats), quantized (how many
                           matrices at least), exact (whether MLX's values must be the checkpoint's, bit for bit)

Of each quantized layer and embedding as mlx-lm holds them: codes, scales and biases are what the checkpoint says, and so are
the values that `mx.dequantize` makes of them. Logits are within 1e-3, in one pass and with a cache.
"""
import json, os, sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model, load_tokenizer
from check_gguf import Checkpoint

BOUND = 1e-3
# Ours of a module of theirs, in a layer and elsewhere. Several are rows that follow one another.
IN_LAYER = {
    "qkv_proj": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "gate_up_proj": ["mlp.gate_proj", "mlp.up_proj"],
    "c_attn": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "attn.c_proj": ["self_attn.o_proj"],
    "query_key_value": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "attention.dense": ["self_attn.o_proj"],
    "c_fc": ["mlp.up_proj"], "mlp.c_proj": ["mlp.down_proj"], "dense_h_to_4h": ["mlp.up_proj"],
    "dense_4h_to_h": ["mlp.down_proj"],
}
EMBEDDINGS = {"embed_tokens", "wte", "embed_in"}
HEADS = {"lm_head", "embed_out"}


def ours(checkpoint, module):
    """Names of our layers behind the module of mlx-lm."""
    last = module.rsplit(".", 1)[-1]
    if last in EMBEDDINGS:
        return ["lm_head" if checkpoint.model["tie_word_embeddings"] else "embed_tokens"]
    if last in HEADS:
        return ["lm_head"]
    _, _, index, part = module.split(".", 3)
    known = [names for end, names in IN_LAYER.items() if part.endswith(end)]
    return [f"layers.{index}.{name}" for name in (known[0] if known else [part])]


def spread(a, checkpoint, layer):
    """A scale or zero point for each value."""
    rows, cols = checkpoint.layers[layer]["shape"]
    granularity = checkpoint.layers[layer]["scheme"]["granularity"]
    if granularity.startswith("group:"):
        return np.repeat(a, int(granularity[6:]), axis=1)[:, :cols]
    return np.broadcast_to(a.reshape(-1, 1), (rows, cols))


def expected(checkpoint, module):
    """Codes, scales and zero points of each value of a module."""
    parts = []
    for layer in ours(checkpoint, module):
        codes, scales, zeros = checkpoint.parts(layer)
        zeros = np.zeros(scales.shape, np.int32) if zeros is None else zeros
        parts.append([codes, spread(scales, checkpoint, layer), spread(zeros, checkpoint, layer)])
    stacked = [np.concatenate(arrays) for arrays in zip(*parts)]
    if module.endswith("query_key_value"):
        # Head by head: its queries, keys and values.
        heads = checkpoint.model["num_heads"]
        return [a.reshape(3, heads, -1, a.shape[1]).swapaxes(0, 1).reshape(a.shape) for a in stacked]
    return stacked


def unpacked(words, bits):
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return ((words[..., None] >> shifts) & np.uint32(2**bits - 1)).reshape(len(words), -1).astype(np.int32)


def check_module(case, checkpoint, name, module):
    where = f"{case['label']}: {name}"
    codes, scales, zeros = expected(checkpoint, name)
    found = unpacked(np.array(module.weight), module.bits)
    assert np.array_equal(found - 2 ** (module.bits - 1), codes), f"{where}: codes"
    first = slice(None, None, module.group_size)
    per_group = lambda a: np.repeat(a, module.group_size, axis=1)
    assert module.scales.dtype == module.biases.dtype, where
    theirs = np.array(module.scales.astype(mx.float32))
    assert np.array_equal(per_group(theirs), scales), f"{where}: scales"
    lowest = -(zeros + 2 ** (module.bits - 1)) * scales.astype(np.float64)
    biases = np.array(module.biases.astype(mx.float32))
    assert np.abs(biases - lowest[:, first]).max() <= 1e-6 * np.abs(scales).max(), f"{where}: biases"
    values = (codes - zeros).astype(np.float32) * scales
    if module.scales.dtype == mx.float32:
        theirs = mx.dequantize(module.weight, module.scales, module.biases, group_size=module.group_size, bits=module.bits)
        theirs = np.array(theirs)
        if case["exact"]:
            assert np.array_equal(theirs, values), f"{where}: values"
        # `scale * code + bias` in 32 bits has the error of its largest term.
        assert (np.abs(theirs - values) <= 2**module.bits * 2**-23 * np.abs(scales)).all(), f"{where}: values"


def logits_of(model, ids):
    """In one pass, and half of them with a cache, one at a time."""
    ids = mx.array(ids)
    cache, length = make_prompt_cache(model), ids.shape[1]
    parts = [model(ids[:, : length // 2], cache=cache)]
    parts += [model(ids[:, i : i + 1], cache=cache) for i in range(length // 2, length)]
    return [np.array(logits.astype(mx.float32)) for logits in (model(ids), mx.concatenate(parts, axis=1))]


def main(path):
    worst, matrices, problems = 0.0, 0, []
    for case in json.load(open(path)):
        model, _ = load_model(Path(case["directory"]))
        checkpoint, count = Checkpoint(case["checkpoint"]), 0
        for name, module in model.named_modules():
            if isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
                check_module(case, checkpoint, name, module)
                count += 1
        assert count >= case["quantized"], f"{case['label']}: {count} quantized matrices"
        matrices += count
        if case["logits"] is None:
            continue
        for logits, way in zip(logits_of(model, case["ids"]), ("in one pass", "with a cache")):
            wanted = np.fromfile(case["logits"], np.float32).reshape(logits.shape)
            difference = np.abs(logits - wanted).max()
            worst = max(worst, difference if case["bound"] is None else 0.0)
            if not difference <= (case["bound"] or BOUND):
                problems.append(f"{case['label']}: logits {way} differ by {difference:.2e}")
        if case["text"] is not None:
            tokenizer = load_tokenizer(Path(case["directory"]))
            assert tokenizer.encode(case["text"]) == case["text_ids"], f"{case['label']}: ids of a text"
    if problems:
        raise SystemExit("\n".join(problems))
    print(f"mlx-lm: {matrices} matrices have the checkpoint's codes; logits differ by {worst:.1e} at most")


main(sys.argv[1])

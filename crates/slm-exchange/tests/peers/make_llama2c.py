"""Writes a Hugging Face Llama as the files of llama2.c, by the rules of its export.py and tokenizer.py.

    make_llama2c.py HF_DIRECTORY OUT

Writes v0.bin, v0-head.bin (a head of its own), v1.bin, v2.bin, the codes of v2 in expected.safetensors, and tokenizer.bin.
"""
import json, struct, sys
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


def main():
    source, out = sys.argv[1:]
    config = json.load(open(f"{source}/config.json"))
    file = safe_open(f"{source}/model.safetensors", "np")
    get = lambda name: file.get_tensor(name).astype(np.float32)
    layers, dim, heads = config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"]
    kv_heads, vocab, positions = config["num_key_value_heads"], config["vocab_size"], config["max_position_embeddings"]
    hidden = config["intermediate_size"]

    def permute_reverse(w, heads):
        rows, cols = w.shape
        return w.reshape(heads, 2, rows // heads // 2, cols).transpose(0, 2, 1, 3).reshape(rows, cols)

    layer = lambda part: [get(f"model.layers.{n}.{part}.weight") for n in range(layers)]
    embedding, norm = get("model.embed_tokens.weight"), get("model.norm.weight")
    norms1, norms2 = layer("input_layernorm"), layer("post_attention_layernorm")
    wq = [permute_reverse(w, heads) for w in layer("self_attn.q_proj")]
    wk = [permute_reverse(w, kv_heads) for w in layer("self_attn.k_proj")]
    wv, wo = layer("self_attn.v_proj"), layer("self_attn.o_proj")
    w1, w2, w3 = layer("mlp.gate_proj"), layer("mlp.down_proj"), layer("mlp.up_proj")
    write = lambda file, tensors: [file.write(np.ascontiguousarray(t, np.float32).tobytes()) for t in tensors]
    angles = np.outer(np.arange(positions), 1.0 / 10000 ** (np.arange(0, dim // heads, 2) / (dim // heads)))

    for name, shared in (("v0", True), ("v0-head", False)):
        with open(f"{out}/{name}.bin", "wb") as f:
            f.write(struct.pack("iiiiiii", dim, hidden, layers, heads, kv_heads, vocab if shared else -vocab, positions))
            write(f, [embedding, *norms1, *wq, *wk, *wv, *wo, *norms2, *w1, *w2, *w3, norm, np.cos(angles), np.sin(angles)])
            if not shared:
                write(f, [embedding])
    header = lambda version: struct.pack("<I", 0x616B3432) + struct.pack(
        "<iiiiiiii", version, dim, hidden, layers, heads, kv_heads, vocab, positions) + struct.pack("<B", 1)
    with open(f"{out}/v1.bin", "wb") as f:
        f.write(header(1).ljust(256, b"\0"))
        write(f, [*norms1, *norms2, norm, embedding, *wq, *wk, *wv, *wo, *w1, *w2, *w3])

    # The rows of w2 are 172 wide in stories260k: groups of 4.
    group = 4
    expected = {}
    with open(f"{out}/v2.bin", "wb") as f:
        f.write((header(2) + struct.pack("<i", group)).ljust(256, b"\0"))
        write(f, [*norms1, *norms2, norm])
        names = ["tok"] + [f"{part}.{n}" for part in ("q", "k", "v", "o", "gate", "down", "up") for n in range(layers)]
        for name, w in zip(names, [embedding, *wq, *wk, *wv, *wo, *w1, *w2, *w3], strict=True):
            blocks = w.reshape(-1, group)
            scale = (np.abs(blocks).max(axis=1) / 127.0).astype(np.float32)
            codes = np.round(blocks / scale[:, None]).astype(np.int8)
            f.write(codes.tobytes() + scale.tobytes())
            values = codes.astype(np.float32) * scale[:, None]
            expected[name] = values.reshape(w.shape)
    save_file(expected, f"{out}/expected.safetensors")

    tokenizer = json.load(open(f"{source}/tokenizer.json"))
    ids = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    ranks = {"".join(pair if isinstance(pair, list) else pair.split(" ")): -float(n)
             for n, pair in reversed(list(enumerate(tokenizer["model"]["merges"])))}
    tokens = []
    for text, number in ids:
        score = ranks.get(text, -1e6 if number > 2 else 0.0)
        if number in (1, 2):
            text = f"\n{text}\n"
        tokens.append((text.replace("\u2581", " ").encode(), score))
    with open(f"{out}/tokenizer.bin", "wb") as f:
        f.write(struct.pack("I", max(len(text) for text, _ in tokens)))
        for text, score in tokens:
            f.write(struct.pack("fI", score, len(text)) + text)


main()

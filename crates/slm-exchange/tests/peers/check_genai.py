"""Reads ONNX models of the profile for onnxruntime-genai, and generates with that program.

    check_genai.py LIST      a JSON list of {"label", "checkpoint", "onnx", "ids", "logits", "greedy", "text", "text_ids", "exact"}

Checked of each model:
  - codes, scales and zero points of MatMulNBits and GatherBlockQuantized are the checkpoint's;
  - where inputs are floats, ONNX Runtime computes the logits of this project, in one pass and with keys and values that are held;
  - onnxruntime-genai loads the directory, and its greedy continuation of the first sequence is this project's;
  - its tokenizer makes the same ids of a text.
"""
import json, sys
import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime_genai as genai
from onnx import numpy_helper
from check_gguf import Checkpoint

BOUND = 1e-3


def unpack(array, bits):
    if bits == 8:
        return array.astype(np.int32)
    return np.stack([array & 15, array >> 4], axis=-1).reshape(*array.shape[:-1], -1).astype(np.int32)


def compare_blocks(checkpoint, model, label):
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = {n.input[1]: n for n in model.graph.node if n.op_type == "MatMulNBits"}
    count = 0
    for layer, metadata in checkpoint.layers.items():
        tied = checkpoint.model["tie_word_embeddings"] and layer == "lm_head"
        name = "embed_tokens.weight" if tied or layer == "embed_tokens" else f"{layer}.weight"
        bits, (rows, cols) = metadata["scheme"]["bits"], metadata["shape"]
        codes, scales, zeros = checkpoint.parts(layer)
        if found[f"{name}_quantized"].dtype != np.uint8:
            continue
        offset = 1 << (bits - 1)
        blob = unpack(found[f"{name}_quantized"], bits)
        block = blob.shape[2]
        assert np.array_equal(blob.reshape(rows, -1)[:, :cols] - offset, codes), (label, name)
        granularity = metadata["scheme"]["granularity"]
        per_row = blob.shape[1]
        if granularity.startswith("group:") and int(granularity[6:]) < cols:
            at = np.arange(per_row) * block // int(granularity[6:])
            spread = lambda a: a[:, at]
        else:
            spread = lambda a: np.broadcast_to(a.reshape(-1, 1), (rows, per_row))
        assert np.array_equal(found[f"{name}_scale"], spread(scales)), (label, name, "scales")
        if zeros is None:
            assert f"{name}_zero_point" not in found
        else:
            have = unpack(found[f"{name}_zero_point"], bits)[:, :per_row] - offset
            assert np.array_equal(have, spread(zeros.reshape(scales.shape))), (label, name, "zero points")
        if f"{name}_quantized" in nodes:
            attributes = {a.name: a.i for a in nodes[f"{name}_quantized"].attribute}
            assert (attributes["N"], attributes["K"], attributes["bits"]) == (rows, cols, bits)
            assert attributes["block_size"] == block
        count += 1
    return count


def run(session, ids, cut):
    """Logits of `ids`, the first `cut` of them in one pass and the others one at a time."""
    past = {}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            past[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    names, logits, seen = [value.name for value in session.get_outputs()], [], 0
    for end in [cut, *range(cut + 1, len(ids) + 1)]:
        feed = {"input_ids": np.asarray([ids[seen:end]], np.int64), "attention_mask": np.ones((1, end), np.int64)}
        found = dict(zip(names, session.run(None, {**feed, **past})))
        past = {name: found[name.replace("past_key_values", "present")] for name in past}
        logits.append(found["logits"][0])
        seen = end
    return np.concatenate(logits)


def main():
    tensors = 0
    for case in json.load(open(sys.argv[1])):
        checkpoint, directory, label = Checkpoint(case["checkpoint"]), case["onnx"], case["label"]
        model = onnx.load(f"{directory}/model.onnx")
        assert {(o.domain, o.version) for o in model.opset_import} == {("", 21), ("com.microsoft", 1)}
        tensors += compare_blocks(checkpoint, model, label)
        words = []
        if case["exact"]:
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 3
            session = ort.InferenceSession(f"{directory}/model.onnx", options, providers=["CPUExecutionProvider"])
            want = np.fromfile(case["logits"], np.float32).reshape(len(case["ids"]), len(case["ids"][0]), -1)
            for cut in (len(case["ids"][0]), len(case["ids"][0]) // 2):
                difference = max(np.abs(run(session, ids, cut) - row).max() for ids, row in zip(case["ids"], want))
                words.append(f"{difference:.1e}")
                assert difference < BOUND, (label, difference)
        loaded = genai.Model(directory)
        settings = genai.GeneratorParams(loaded)
        settings.set_search_options(max_length=len(case["ids"][0]) + len(case["greedy"]), do_sample=False)
        generator = genai.Generator(loaded, settings)
        generator.append_tokens(np.asarray(case["ids"][0], np.int32))
        generated = []
        while len(generated) < len(case["greedy"]) and not generator.is_done():
            generator.generate_next_token()
            generated.append(int(generator.get_next_tokens()[0]))
        # It stops at an end of text, the first of ours too.
        same = generated == case["greedy"][: len(generated)] and len(generated) > 0
        assert same or not case["exact"], (label, generated, case["greedy"])
        words.append(f"{len(generated)} tokens generated" + ("" if same else ", others"))
        if case["text"] is not None:
            tokenizer = genai.Tokenizer(loaded)
            tokenizer.update_options(add_special_tokens="true")
            ids = [int(token) for token in tokenizer.encode(case["text"])]
            assert ids == case["text_ids"], (label, ids, case["text_ids"])
            words.append("tokens the same")
        print(f"{label}: {', '.join(words)}", flush=True)
    print(f"onnxruntime-genai: {tensors} quantized tensors are the checkpoint's, bit for bit")


if __name__ == "__main__":
    main()

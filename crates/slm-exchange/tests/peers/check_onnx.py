"""Reads ONNX models with the packages onnx and onnxruntime, and compares them with the checkpoints that they were made of.

    check_onnx.py LIST      a JSON list of {"checkpoint", "onnx", "ids", "logits", "exact"}

Checked of each model:
  - onnx.checker accepts it;
  - its initializers are the codes, scales, zero points, ranges and floats of the checkpoint;
  - ONNX Runtime computes the logits that this project computed (F32 in the file `logits`), with graph optimizations and
    without;
  - keys and values that are held give the logits of a pass over everything;
  - sequences of a batch do not see each other.
"""
import json, os, sys
import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from check_gguf import Checkpoint

# Largest difference of a logit.
BOUND = 1e-3
# Between two passes of one program. A code may fall on the other side of a tie.
SPLIT_BOUND = 1e-3

levels = {"disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL, "enabled": ort.GraphOptimizationLevel.ORT_ENABLE_ALL}


def open_session(path, level, **more):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in more.items():
        options.add_session_config_entry(f"session.{key}", value)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def sessions(path):
    for name, level in levels.items():
        # Products with 4-bit weights in 32 bits: by default ONNX Runtime rounds their inputs to 8 bits.
        yield name, open_session(path, level, qdq_matmulnbits_accuracy_level="1")


class Decoder:
    """Keys and values of the sequences that a session has seen."""

    def __init__(self, session, batch):
        self.session = session
        self.past = {}
        for value in session.get_inputs():
            if value.name != "input_ids":
                self.past[value.name] = np.zeros((batch, value.shape[1], 0, value.shape[3]), np.float32)
        self.names = [value.name for value in session.get_outputs()]

    def __call__(self, ids):
        outputs = self.session.run(None, {"input_ids": np.asarray(ids, np.int64), **self.past})
        found = dict(zip(self.names, outputs))
        self.past = {name: found[name.replace("past_key_values", "present")] for name in self.past}
        return found["logits"]


def compare_initializers(checkpoint, model, directory):
    """Counts of tensors, and of quantized ones among them."""
    found = {}
    for tensor in model.graph.initializer:
        found[tensor.name] = numpy_helper.to_array(tensor, directory)
    tensors = quantized = 0
    quantities = (".codes", ".scales", ".zero_points", ".input.scale", ".input.zero_point")
    names = {name for name in checkpoint.keys if not name.endswith(quantities)}
    for name in sorted(names):
        want, have = checkpoint.float32(name), found[name].astype(np.float32)
        # Weights of linear layers lie as MatMul takes them.
        if want.ndim == 2 and not name.startswith("embed_"):
            want = want.T
        assert have.shape == want.shape and np.array_equal(have, want), (directory, name)
        tensors += 1
    tied = checkpoint.model["tie_word_embeddings"]
    for layer, metadata in checkpoint.layers.items():
        codes, scales, zeros = checkpoint.parts(layer)
        table = layer == "embed_tokens" or (tied and layer == "lm_head")
        name = "embed_tokens.weight" if table else f"{layer}.weight"
        turn = (lambda a: a) if table else (lambda a: a.T)
        initializer = next(t for t in model.graph.initializer if t.name == f"{name}_quantized")
        kind = onnx.TensorProto.INT4 if metadata["scheme"]["bits"] == 4 else onnx.TensorProto.INT8
        assert initializer.data_type == kind, (directory, name)
        have = found[f"{name}_quantized"].astype(np.int32)
        assert np.array_equal(have, turn(codes)), (directory, name, "codes")
        have = found[f"{name}_scale"]
        # One value a row, and none for a matrix as a whole, in ONNX.
        want = scales.reshape(()) if metadata["scheme"]["granularity"] == "tensor" else scales
        want = turn(want)
        if want.ndim == 2 and 1 in want.shape and have.ndim == 1:
            want = want.reshape(-1)
        assert have.dtype == np.float32 and have.shape == want.shape, (directory, name, have.shape, want.shape)
        assert np.array_equal(have, want), (directory, name, "scales")
        if zeros is None:
            assert f"{name}_zero_point" not in found
        else:
            have = found[f"{name}_zero_point"].astype(np.int32)
            assert np.array_equal(have.reshape(-1), turn(zeros.reshape(scales.shape)).reshape(-1)), (directory, name)
        tensors += 1
        quantized += 1
    return tensors, quantized


def compare_ranges(checkpoint, model, directory):
    """Every layer with a static range reads its input through QuantizeLinear with that range."""
    makers = {output: node for node in model.graph.node for output in node.output}
    found = {t.name: numpy_helper.to_array(t, directory) for t in model.graph.initializer}
    count = 0
    for layer, metadata in checkpoint.layers.items():
        static = metadata.get("activation")
        if not static:
            continue
        tied = checkpoint.model["tie_word_embeddings"] and layer == "lm_head"
        kind = "Gemm" if tied else "MatMul"
        product = next(n for n in model.graph.node if n.op_type == kind and n.name == f"{layer}/{kind}")
        x = product.input[0]
        if tied:
            x = makers[x].input[0]
        dequantize = makers[x]
        quantize = makers[dequantize.input[0]]
        assert (quantize.op_type, dequantize.op_type) == ("QuantizeLinear", "DequantizeLinear"), (directory, layer)
        assert list(quantize.input[1:]) == list(dequantize.input[1:])
        scale, zero = found[quantize.input[1]], found[quantize.input[2]]
        assert scale == np.float32(static["scale"]), (directory, layer)
        assert int(zero) == static["zero_point"] - (128 if zero.dtype == np.int8 else 0), (directory, layer)
        assert zero.dtype == np.uint8 or int(zero) == 0
        count += 1
    return count


def integer_products(session_path):
    """Products of integers in the graph that ONNX Runtime makes of the model."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = session_path + ".optimized"
    ort.InferenceSession(session_path, options, providers=["CPUExecutionProvider"])
    model = onnx.load(options.optimized_model_filepath, load_external_data=False)
    os.remove(options.optimized_model_filepath)
    if os.path.exists(session_path + ".optimized.data"):
        os.remove(session_path + ".optimized.data")
    wanted = ("QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits", "QGemm")
    return {op: n for op in wanted if (n := sum(node.op_type == op for node in model.graph.node))}


def main():
    totals = [0, 0, 0]
    import shutil
    shutil.rmtree("/tmp/exch/keep", ignore_errors=True)
    shutil.copytree(os.path.dirname(sys.argv[1]), "/tmp/exch/keep")
    for case in json.load(open(sys.argv[1])):
        checkpoint, directory = Checkpoint(case["checkpoint"]), case["onnx"]
        path = f"{directory}/model.onnx"
        onnx.checker.check_model(path, full_check=True)
        model = onnx.load(path)
        assert {(o.domain, o.version) for o in model.opset_import} == {("", 21)}
        assert any(entry.key == "slm.weights_sha256" for entry in model.metadata_props)
        if case["exact"]:
            tensors, quantized = compare_initializers(checkpoint, model, directory)
            ranges = compare_ranges(checkpoint, model, directory)
            totals = [a + b for a, b in zip(totals, (tensors, quantized, ranges))]
        want = np.fromfile(case["logits"], np.float32).reshape(len(case["ids"]), -1, checkpoint.model["vocab_size"])
        ids = np.asarray(case["ids"], np.int64)
        words = []
        for level, session in sessions(path):
            passes = [Decoder(session, 1)(ids[i : i + 1])[0] for i in range(len(ids))]
            difference = max(np.abs(found - wanted).max() for found, wanted in zip(passes, want))
            cut = ids.shape[1] // 2
            decoder = Decoder(session, 1)
            parts = [decoder(ids[:1, :cut])] + [decoder(ids[:1, i : i + 1]) for i in range(cut, ids.shape[1])]
            split = np.abs(np.concatenate(parts, axis=1)[0] - passes[0]).max()
            batch = np.abs(Decoder(session, len(ids))(ids) - np.stack(passes)).max()
            words.append(f"optimizations {level}: ours {difference:.1e}, cached {split:.1e}, batch {batch:.1e}")
            per_tensor = "dynamic:tensor" in case["label"]
            ok = difference < BOUND and (per_tensor or max(split, batch) < SPLIT_BOUND)
            if not ok:
                words.append("TOO MUCH")
        products = integer_products(path)
        if "MatMulNBits" in products:
            rounded = Decoder(open_session(path, levels["enabled"]), 1)(ids[:1])[0]
            words.append(f"inputs rounded by ONNX Runtime: {np.abs(rounded - want[0]).max():.1e}")
        print(f"{case['label']}: {'; '.join(words)}; {products}")
        if "TOO MUCH" in words:
            raise SystemExit(f"{case['label']}: differs by more than {BOUND}")
    print(f"onnx: {totals[0]} tensors are the checkpoint's, bit for bit, {totals[1]} of them quantized; {totals[2]} ranges")


if __name__ == "__main__":
    main()

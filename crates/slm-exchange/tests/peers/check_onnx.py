"""Reads ONNX models with the packages onnx and onnxruntime, and compares them with the checkpoints that they were made of.

    check_onnx.py LIST      a JSON list of {"label", "checkpoint", "onnx", "ids", "logits", "inputs", "exact"}

Checked of each model:
  - onnx.checker accepts it;
  - its initializers are the codes, scales, zero points, ranges and floats of the checkpoint;
  - ONNX Runtime computes the logits that this project computed (F32 in the file `logits`), with graph optimizations and
    without, in one pass and with keys and values that are held;
  - sequences of a batch do not see each other.

Where inputs are quantized, positions that follow a tie are left out: see ties.py.
"""
import json, os, sys
import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from check_gguf import Checkpoint
from ties import first_ties

# Largest difference of a logit.
BOUND = 1e-3
# Largest share of positions that follow a tie. With one range for all tokens a tie takes a whole sequence along.
LEFT_OUT, LEFT_OUT_PER_TENSOR = 0.25, 0.75

LEVELS = {"plain": ort.GraphOptimizationLevel.ORT_DISABLE_ALL, "optimized": ort.GraphOptimizationLevel.ORT_ENABLE_ALL}


class Decoder:
    """Keys and values of the sequences that a session has seen."""

    def __init__(self, session, batch):
        self.session = session
        self.past = {}
        for value in session.get_inputs():
            if value.name.startswith("past_key_values"):
                self.past[value.name] = np.zeros((batch, value.shape[1], 0, value.shape[3]), np.float32)
        self.names = [value.name for value in session.get_outputs()]

    def __call__(self, ids):
        """All outputs but keys and values."""
        outputs = self.session.run(None, {"input_ids": np.asarray(ids, np.int64), **self.past})
        found = dict(zip(self.names, outputs))
        self.past = {name: found.pop(name.replace("past_key_values", "present")) for name in self.past}
        return found


def whole(session, ids):
    """Each sequence in one pass of its own."""
    passes = [Decoder(session, 1)(ids[i : i + 1]) for i in range(len(ids))]
    return {name: np.concatenate([found[name] for found in passes]) for name in passes[0]}


def in_parts(session, ids):
    """Half of the sequences in one pass, then one position at a time."""
    decoder, cut = Decoder(session, len(ids)), ids.shape[1] // 2
    passes = [decoder(ids[:, :cut])] + [decoder(ids[:, i : i + 1]) for i in range(cut, ids.shape[1])]
    return {name: np.concatenate([found[name] for found in passes], axis=1) for name in passes[0]}


def codes_behind(x, makers):
    """The tensor of codes that `x` is dequantized from, by `DequantizeLinear` or by `Sub` and `Mul`."""
    maker = makers.get(x)
    if maker is not None and maker.op_type == "DequantizeLinear":
        return maker.input[0]
    if maker is not None and maker.op_type == "Mul" and maker.input[0] in makers:
        centered = makers[maker.input[0]]
        if centered.op_type == "Sub" and centered.input[0] in makers:
            codes = makers[centered.input[0]]
            return {"Clip": lambda: codes.output[0], "Cast": lambda: codes.input[0]}.get(codes.op_type, lambda: None)()
    return None


def code_tensors(model):
    """The tensor of input codes of each layer that quantizes its inputs."""
    makers = {output: node for node in model.graph.node for output in node.output}
    found = {}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "MatMulInteger") or not node.name.endswith("/" + node.op_type):
            continue
        layer, x = node.name.removesuffix("/" + node.op_type), node.input[0]
        codes = x if node.op_type == "MatMulInteger" else codes_behind(x, makers)
        if codes is not None:
            found[layer] = codes
    return found


def codes_of(found, traced):
    """Codes 0 to 255 of the inputs of layers."""
    codes = {layer: found[tensor] for layer, tensor in traced.items()}
    return {layer: a.astype(np.int32) + (128 if a.dtype == np.int8 else 0) for layer, a in codes.items()}


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
        product = next(n for n in model.graph.node if n.name == f"{layer}/MatMul")
        x = product.input[0]
        quantize = makers[codes_behind(x, makers)]
        assert quantize.op_type == "QuantizeLinear", (directory, layer)
        if makers[x].op_type == "DequantizeLinear":
            assert list(makers[x].input[1:]) == list(quantize.input[1:]), (directory, layer)
        scale, zero = found[quantize.input[1]], found[quantize.input[2]]
        assert scale == np.float32(static["scale"]), (directory, layer)
        assert int(zero) == static["zero_point"] - (128 if zero.dtype == np.int8 else 0), (directory, layer)
        assert zero.dtype == np.uint8 or int(zero) == 0
        count += 1
    return count


def open_session(model, level, **more):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if "optimized" in more:
        options.optimized_model_filepath = more.pop("optimized")
    for key, value in more.items():
        options.add_session_config_entry(f"session.{key}", value)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def integer_products(path, directory):
    """Products of integers in the graph that ONNX Runtime makes of the model."""
    optimized = f"{directory}/optimized.onnx"
    open_session(path, LEVELS["optimized"], optimized=optimized)
    model = onnx.load(optimized, load_external_data=False)
    wanted = ("QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits", "QGemm")
    return {op: n for op in wanted if (n := sum(node.op_type == op for node in model.graph.node))}


def traced_model(model, path, traced):
    """The model with the codes of inputs among its outputs."""
    if not traced:
        return path
    makers = {output: node for node in model.graph.node for output in node.output}
    zeros = {t.name: t.data_type for t in model.graph.initializer}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name in sorted(set(traced.values())):
        node = makers[name]
        kind = {"QuantizeLinear": lambda: zeros[node.input[2]], "Cast": lambda: onnx.TensorProto.UINT8,
                "Clip": lambda: onnx.TensorProto.FLOAT}[node.op_type]()
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    return copy.SerializeToString()


def saturates():
    """Whether ONNX Runtime's products of UINT8 and INT8 do: on x86 processors without instructions for them."""
    try:
        flags = next(line for line in open("/proc/cpuinfo") if line.startswith("flags"))
    except (OSError, StopIteration):
        return False
    return "vnni" not in flags


def main():
    totals, rows, left_out = [0, 0, 0], 0, 0
    cases = json.load(open(sys.argv[1]))
    for case in cases:
        checkpoint, directory, label = Checkpoint(case["checkpoint"]), case["onnx"], case["label"]
        path = f"{directory}/model.onnx"
        onnx.checker.check_model(path, full_check=True)
        model = onnx.load(path)
        assert {(o.domain, o.version) for o in model.opset_import} == {("", 21)}
        assert any(entry.key == "slm.weights_sha256" for entry in model.metadata_props)
        if case["exact"]:
            tensors, quantized = compare_initializers(checkpoint, model, directory)
            ranges = compare_ranges(checkpoint, model, directory)
            totals = [a + b for a, b in zip(totals, (tensors, quantized, ranges))]
        ids = np.asarray(case["ids"], np.int64)
        want = np.fromfile(case["logits"], np.float32).reshape(*ids.shape, -1)
        inputs = {layer: np.fromfile(file, np.float32).reshape(ids.size, -1) for layer, file in case["inputs"]}
        traced = code_tensors(model)
        assert set(traced) <= set(inputs), label
        words = []
        integers = any(node.op_type == "MatMulInteger" for node in model.graph.node)
        # Products with 4-bit weights in 32 bits: by default ONNX Runtime rounds their inputs to 8 bits.
        options = {"qdq_matmulnbits_accuracy_level": "1"} | ({"x64quantprecision": "1"} if integers else {})
        for level, setting in LEVELS.items():
            # Without VNNI a product of integers that the model has itself is exact only after the optimization that
            # widens its codes; those that ONNX Runtime makes of `MatMul` are not: that optimization fails on some of them.
            if traced and saturates() and (level == "plain") == integers:
                words.append(f"{level} skipped: without VNNI its integer products saturate")
                continue
            session = open_session(traced_model(model, path, traced), setting, **options)
            # A range over all tokens of a pass depends on what is in the pass.
            per_tensor = case.get("per_tensor", False)
            for way in (whole,) if per_tensor else (whole, in_parts):
                found = way(session, ids)
                first = first_ties(f"{label}, {level}", codes_of(found, traced), inputs, checkpoint, ids.shape, per_tensor)
                kept = np.arange(ids.shape[1])[None, :] < first[:, None]
                difference = np.abs(found["logits"] - want).max(axis=2)[kept].max(initial=0)
                rows, left_out = rows + kept.size, left_out + kept.size - int(kept.sum())
                words.append(f"{level} {way.__name__} {difference:.1e} on {int(kept.sum())} of {kept.size}")
                if difference > BOUND:
                    raise SystemExit(f"{label}: {'; '.join(words)}: more than {BOUND}")
            if not traced:
                together = Decoder(session, len(ids))(ids)["logits"]
                assert np.abs(together - want).max() < BOUND, label
        products = integer_products(path, os.path.dirname(sys.argv[1]))
        if "MatMulNBits" in products:
            rounded = whole(open_session(path, LEVELS["optimized"]), ids)["logits"]
            words.append(f"inputs rounded by ONNX Runtime: {np.abs(rounded - want).max():.1e}")
        print(f"{label}: {'; '.join(words)}; {products}", flush=True)
    print(f"onnx: {totals[0]} tensors are the checkpoint's, bit for bit, {totals[1]} of them quantized; {totals[2]} ranges")
    print(f"onnxruntime: within {BOUND} of {rows} positions, of which {left_out} follow a tie")
    assert left_out <= (LEFT_OUT_PER_TENSOR if any("per_tensor" in case for case in cases) else LEFT_OUT) * rows


if __name__ == "__main__":
    main()

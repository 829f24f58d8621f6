"""Layers packed by the programs themselves: AutoGPTQ, AutoAWQ, compressed-tensors and transformers. Needs torch.

Each function takes unsigned codes `q` `[outputs, inputs]`, zero points `z` and scales `s` `[outputs, groups]`, makes a linear
layer of the values that they stand for, and has the program quantize it with these scales.
"""
import importlib, importlib.util, sys, types
import torch


def part(name):
    """A module of a package, without what the package's own files import: models of other versions of transformers."""
    parents = name.split(".")[:-1]
    if parents[0] not in sys.modules:
        top = importlib.util.find_spec(parents[0]).submodule_search_locations[0]
        for depth in range(1, len(parents) + 1):
            package = types.ModuleType(".".join(parents[:depth]))
            package.__path__ = ["/".join([top, *parents[1:depth]])]
            sys.modules[package.__name__] = package
    return importlib.import_module(name)


def linear(q, z, s, index):
    q, z, s, index = (torch.from_numpy(x.copy()) for x in (q, z, s.astype("float32"), index))
    layer = torch.nn.Linear(q.shape[1], q.shape[0], bias=False)
    layer.weight.data = (q - z[:, index]) * s[:, index]
    return layer, z, s


def gptq(q, z, s, index, bits, group):
    layer, z, s = linear(q, z, s, index)
    packed = part("auto_gptq.nn_modules.qlinear.qlinear_cuda").QuantLinear(bits, group, q.shape[1], q.shape[0], False)
    packed.pack(layer.half(), s, z, torch.from_numpy(index).int())
    return {name: getattr(packed, name).numpy() for name in ("qweight", "qzeros", "scales", "g_idx")}


def awq(q, z, s, index, bits, group):
    layer, z, s = linear(q, z, s, index)
    packed = part("awq.modules.linear.gemm").WQLinear_GEMM.from_linear(layer, bits, group, False, s.t().contiguous(), z.t().contiguous())
    return {name: getattr(packed, name).numpy() for name in ("qweight", "qzeros", "scales")}


def compressed(q, z, s, index, bits, weights, packed):
    from compressed_tensors.compressors.naive_quantized import IntQuantizationCompressor
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    layer, z, s = linear(q, z, s, index)
    tensors = {"weight": layer.weight.data, "weight_scale": s, "weight_zero_point": (z - (1 << (bits - 1))).to(torch.int8)}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
    kind = PackedQuantizationCompressor if packed else IntQuantizationCompressor
    parts = kind.compress(tensors, scheme)
    # What it unpacks again are the values.
    assert torch.equal(kind.decompress(parts, scheme)["weight"], layer.weight.data)
    found = {name: value.numpy() for name, value in parts.items()}
    if weights["symmetric"]:
        found.pop("weight_zero_point", None)
    return found | {"weight_scale": found["weight_scale"].astype("float16")}


def compressed_values(values, s, weights):
    """A layer with the values `values`, quantized with the scales `s`. Floats of 8 bits are returned as bytes."""
    from compressed_tensors.compressors.naive_quantized import FloatQuantizationCompressor, IntQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    kind = FloatQuantizationCompressor if weights["type"] == "float" else IntQuantizationCompressor
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
    values, s = torch.from_numpy(values.copy()), torch.from_numpy(s)
    parts = kind.compress({"weight": values, "weight_scale": s}, scheme)
    assert torch.equal(kind.decompress(parts, scheme)["weight"], values)
    weight = parts["weight"]
    return {"weight": (weight.view(torch.uint8) if weights["type"] == "float" else weight).numpy(), "weight_scale": s.numpy()}


def check_fp8(q, s, values):
    """Checks that transformers and PyTorch convert codes in FP8 to the values `values`."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    weight = torch.from_numpy(q).view(torch.float8_e4m3fn)
    found = Fp8Dequantize(None)._dequantize_one(weight, torch.from_numpy(s))
    assert torch.equal(found, torch.from_numpy(values))

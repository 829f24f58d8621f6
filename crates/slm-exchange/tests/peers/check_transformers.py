"""Loads directories with transformers and compares the logits with slm's.

    check_transformers.py LIST      JSON: label, directory, checkpoint, ids, logits (a file of 32-bit floats), inputs

Logits of all positions are within 1e-3. Where inputs are quantized, the codes of each layer's input are slm's too. A code that
differs must be a tie (see ties.py), and transformers goes on with slm's, so that nothing is left out of the comparison.
"""
import json, os, sys

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
from compressed_tensors.quantization.lifecycle import forward
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from transformers import AutoModelForCausalLM, logging
from check_gguf import Checkpoint
from ties import own_codes, rows_with_ties

logging.set_verbosity_warning()
logging.disable_progress_bar()
torch.set_num_threads(2)
# Largest difference of a logit, and largest share of codes that are ties.
BOUND, TIES = 1e-3, 1e-4


class Inputs:
    """The inputs that compressed-tensors quantizes while this is entered, held against ours."""

    def __init__(self, label, model, checkpoint, inputs):
        self.label, self.checkpoint, self.inputs = label, checkpoint, inputs
        self.names = {id(module): name.removeprefix("model.") for name, module in model.named_modules()}
        self.layers, self.codes, self.ties = set(), 0, 0

    def __enter__(self):
        self.plain, forward.forward_quantize = forward.forward_quantize, self.quantize
        return self

    def __exit__(self, *_):
        forward.forward_quantize = self.plain

    def quantize(self, module, value, base_name, args):
        rounded = self.plain(module, value, base_name, args)
        if base_name != "input":
            return rounded
        if args.dynamic:
            scale, zero_point = compute_dynamic_scales_and_zp(value=value, args=args, module=module)
        else:
            scale, zero_point = module.input_scale, getattr(module, "input_zero_point", None)
        theirs = forward.quantize(value, scale, zero_point, args, dtype=torch.int32).flatten(0, 1).numpy() + 128
        layer = self.names[id(module)]
        codes, to_tie, values = own_codes(self.inputs[layer], self.checkpoint.layers[layer].get("activation"))
        rows = rows_with_ties(f"{self.label}: {layer}", theirs, codes, to_tie)
        rounded.view(theirs.shape)[torch.tensor(rows)] = torch.tensor(values[rows])
        self.layers.add(layer)
        self.codes += codes.size
        self.ties += int((theirs != codes).sum())
        return rounded


def main(path):
    worst, codes, ties, problems = 0.0, 0, 0, []
    for case in json.load(open(path)):
        label, checkpoint = case["label"], Checkpoint(case["checkpoint"])
        try:
            model = AutoModelForCausalLM.from_pretrained(case["directory"], dtype=torch.float32).eval()
        except Exception as error:
            raise SystemExit(f"{label}: {error}")
        ids = torch.tensor(case["ids"])
        inputs = {layer: np.fromfile(file, np.float32).reshape(ids.numel(), -1) for layer, file in case["inputs"]}
        with torch.no_grad(), Inputs(label, model, checkpoint, inputs) as quantized:
            found = model(ids).logits.numpy()
        wanted = set(checkpoint.layers) if checkpoint.quantizes_inputs else set()
        assert quantized.layers == wanted, f"{label}: inputs of {sorted(quantized.layers ^ wanted)}"
        codes, ties = codes + quantized.codes, ties + quantized.ties
        difference = np.abs(found - np.fromfile(case["logits"], np.float32).reshape(found.shape)).max()
        worst = max(worst, difference)
        if not difference < BOUND:
            problems.append(f"{label}: logits differ by {difference:.2e}")
        del model
    if problems:
        raise SystemExit("\n".join(problems))
    print(f"transformers: logits differ by {worst:.1e} at most")
    if codes:
        print(f"transformers: of {codes} codes of inputs {ties} are ties that it rounds the other way")
        assert ties <= TIES * codes


main(sys.argv[1])

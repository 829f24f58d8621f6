"""Loads directories with transformers and compares the logits with slm's.

    check_transformers.py LIST      JSON: label, directory, ids, logits (a file of 32-bit floats), float_inputs

Float inputs: within 1e-3. Where inputs are quantized, a value may fall on the other side of a tie between two codes, and the
logits from there on are those of another code: eight in ten positions must be within 1e-3, and none further than 0.5.
"""
import json, os, sys

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
from transformers import AutoModelForCausalLM, logging

logging.set_verbosity_warning()
logging.disable_progress_bar()
torch.set_num_threads(2)


def main(path):
    worst, near, positions, problems = {}, 0, 0, []
    for case in json.load(open(path)):
        try:
            model = AutoModelForCausalLM.from_pretrained(case["directory"], dtype=torch.float32).eval()
        except Exception as error:
            raise SystemExit(f"{case['label']}: {error}")
        with torch.no_grad():
            found = model(torch.tensor([case["ids"]])).logits[0].numpy()
        wanted = np.fromfile(case["logits"], np.float32).reshape(found.shape)
        difference = np.abs(found - wanted).max(axis=1)
        kind = case["float_inputs"]
        worst[kind] = max(worst.get(kind, 0), difference.max())
        if not kind:
            near, positions = near + (difference < 1e-3).sum(), positions + len(difference)
        if not difference.max() < (1e-3 if kind else 0.5):
            problems.append(f"{case['label']}: logits differ by {difference.max():.2e}")
        del model
    if problems:
        raise SystemExit("\n".join(problems))
    assert near >= 0.8 * positions, f"{near} of {positions} positions with quantized inputs are within 1e-3"
    print(f"transformers: logits differ by {worst[True]:.1e} at most with float inputs")
    if positions:
        print(f"transformers: with quantized inputs {near} of {positions} positions within 1e-3, the others by {worst[False]:.1e}")


main(sys.argv[1])

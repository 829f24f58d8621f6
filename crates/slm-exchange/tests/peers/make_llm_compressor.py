"""Quantizes a model with llm-compressor.

    make_llm_compressor.py MODEL OUT      OUT gets a directory for each recipe
"""
import os, sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from transformers import AutoModelForCausalLM

LENGTH, COUNT = 64, 16


def groups(weights, inputs=None):
    return {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}}


def recipes():
    group = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    channel = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    token = {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "token", "dynamic": True}
    yield "gptq-w4a16", GPTQModifier(config_groups=groups(group), ignore=["lm_head"])
    yield "w8a16", QuantizationModifier(config_groups=groups(channel), ignore=["lm_head"])
    yield "w8a8", QuantizationModifier(config_groups=groups(channel, token), ignore=["lm_head"])
    tensor = {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "tensor", "dynamic": False}
    yield "w8a8-static", QuantizationModifier(config_groups=groups(channel, tensor), ignore=["lm_head"])


def main(source, out):
    for name, recipe in recipes():
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        vocabulary = model.config.vocab_size
        rows = torch.randint(3, vocabulary, (COUNT, LENGTH), generator=torch.Generator().manual_seed(1))
        data = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows]
        data = torch.utils.data.DataLoader(data, batch_size=1)
        oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=LENGTH, num_calibration_samples=COUNT)
        model.save_pretrained(out / name, save_compressed=True)


main(sys.argv[1], Path(sys.argv[2]))

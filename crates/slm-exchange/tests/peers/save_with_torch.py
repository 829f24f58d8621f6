"""Writes the weights of a Hugging Face directory with torch.save.

    save_with_torch.py HF_DIRECTORY OUT

OUT gets a folder each: `archive`, `legacy` (the format before PyTorch 1.6), `shards` (two archives and an index) and `module` (the
state_dict of a torch.nn.Module with parameters, a buffer and a tied weight, in a trainer's dictionary).
"""
import json, os, shutil, sys
import torch
from safetensors.torch import load_file


def main(source, out):
    tensors = load_file(f"{source}/model.safetensors")
    names = sorted(tensors)

    def folder(name, save):
        os.makedirs(f"{out}/{name}")
        for file in os.listdir(source):
            if file.startswith("tokenizer") or file in ("config.json", "generation_config.json"):
                shutil.copy(f"{source}/{file}", f"{out}/{name}")
        save(f"{out}/{name}")

    def shards(path):
        files = {name: f"pytorch_model-0000{1 + index % 2}-of-00002.bin" for index, name in enumerate(names)}
        for file in set(files.values()):
            torch.save({name: tensors[name] for name in names if files[name] == file}, f"{path}/{file}")
        json.dump({"metadata": {}, "weight_map": files}, open(f"{path}/pytorch_model.bin.index.json", "w"))

    def module(path):
        root = torch.nn.Module()
        for name in names:
            *parents, leaf = name.split(".")
            at = root
            for parent in parents:
                if not hasattr(at, parent):
                    at.add_module(parent, torch.nn.Module())
                at = getattr(at, parent)
            at.register_parameter(leaf, torch.nn.Parameter(tensors[name]))
        root.model.rotary_emb = torch.nn.Module()
        root.model.rotary_emb.register_buffer("inv_freq", torch.ones(8))
        state = {"epoch": 3, "state_dict": root.state_dict(), "hyper_parameters": {"lr": 1e-3, "betas": (0.9, 0.95), "names": ["a", None]}}
        torch.save(state, f"{path}/pytorch_model.bin")

    folder("archive", lambda path: torch.save(tensors, f"{path}/pytorch_model.bin"))
    folder("legacy", lambda path: torch.save(tensors, f"{path}/pytorch_model.bin", _use_new_zipfile_serialization=False))
    folder("shards", shards)
    folder("module", module)


main(*sys.argv[1:])

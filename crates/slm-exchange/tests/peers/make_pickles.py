"""Writes files as torch.save does, without torch: its modules are stood in for by empty ones of their names.

    make_pickles.py HF_DIRECTORY OUT

OUT gets a folder each: `single` (an archive), `legacy` (the format before PyTorch 1.6), `shards` (two archives and an index),
`lightning` (weights under state_dict, with a wrapper's prefix), and `evil-*` (pickles that call functions).
"""
import io, json, os, pickle, shutil, struct, sys, types, zipfile
from collections import OrderedDict
import numpy as np
from safetensors import safe_open


def module(name):
    made = types.ModuleType(name)
    sys.modules[name] = made
    return made


torch, utils = module("torch"), module("torch._utils")
torch._utils = utils


def stand_in(owner, name):
    kind = type(name, (), {"__module__": owner.__name__})
    setattr(owner, name, kind)
    return kind


FLOAT, HALF = stand_in(torch, "FloatStorage"), stand_in(torch, "HalfStorage")


def rebuild(*arguments):
    raise AssertionError("only its name is pickled")


rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = "torch._utils", "_rebuild_tensor_v2", "_rebuild_tensor_v2"
utils._rebuild_tensor_v2 = rebuild


class Storage:
    def __init__(self, key, kind, values):
        self.key, self.kind, self.values = key, kind, values


class Tensor:
    """A view of a storage, pickled as torch does."""

    def __init__(self, storage, shape, stride, offset=0):
        self.parts = (storage, offset, shape, stride, False, OrderedDict())

    def __reduce_ex__(self, protocol):
        return rebuild, self.parts


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            return ("storage", value.kind, value.key, "cpu", value.values.size)


def dump(value):
    out = io.BytesIO()
    Pickler(out, 2).dump(value)
    return out.getvalue()


def state(arrays, transposed=()):
    """The tensors of a state_dict and their storages. Some lie with columns for rows, as after `.t()`."""
    storages, tensors = [], OrderedDict()
    for name, array in arrays.items():
        kind = HALF if array.dtype == np.float16 else FLOAT
        if name in transposed:
            storage = Storage(str(len(storages)), kind, np.ascontiguousarray(array.T))
            tensors[name] = Tensor(storage, array.shape, (1, array.shape[0]))
        else:
            storage = Storage(str(len(storages)), kind, np.ascontiguousarray(array))
            stride = tuple(int(np.prod(array.shape[at + 1 :])) for at in range(array.ndim))
            tensors[name] = Tensor(storage, array.shape, stride)
        storages.append(storage)
    return tensors, storages


def archive(path, value, storages, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", dump(value))
        file.writestr("archive/byteorder", "little")
        for storage in storages:
            file.writestr(f"archive/data/{storage.key}", storage.values.tobytes())
        file.writestr("archive/version", "3\n")


def legacy(path, value, storages):
    with open(path, "wb") as file:
        for head in (0x1950A86A20F9469CFC6C, 1001, dict(protocol_version=1001, little_endian=True, type_sizes=dict(short=2, int=4, long=4))):
            pickle.dump(head, file, 2)
        file.write(dump(value))
        pickle.dump([storage.key for storage in storages], file, 2)
        for storage in storages:
            file.write(struct.pack("<q", storage.values.size) + storage.values.tobytes())


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def main():
    source, out = sys.argv[1:]
    with safe_open(f"{source}/model.safetensors", "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}

    def folder(name):
        os.makedirs(f"{out}/{name}")
        for file in ("config.json", "tokenizer.json"):
            shutil.copy(f"{source}/{file}", f"{out}/{name}/{file}")
        return f"{out}/{name}"

    matrices = [name for name in arrays if name.endswith("_proj.weight")]
    tensors, storages = state(arrays, transposed=matrices[:3])
    archive(f"{folder('single')}/pytorch_model.bin", tensors, storages)
    tensors, storages = state(arrays)
    archive(f"{folder('packed')}/pytorch_model.bin", tensors, storages, zipfile.ZIP_DEFLATED)
    legacy(f"{folder('legacy')}/pytorch_model.bin", tensors, storages)
    wrapped, storages = state({f"module.{name}": array for name, array in arrays.items()})
    archive(f"{folder('lightning')}/pytorch_model.bin", wrapped, storages)

    where = folder("shards")
    names = sorted(arrays)
    index = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        tensors, storages = state({name: arrays[name] for name in part})
        archive(f"{where}/{file}", tensors, storages)
        index.update({name: file for name in part})
    json.dump(dict(metadata={}, weight_map=index), open(f"{where}/pytorch_model.bin.index.json", "w"))

    for name, call in [("system", Evil(os.system, f"touch {out}/called")), ("eval", Evil(eval, "1")),
                       ("loads", Evil(pickle.loads, b"N."))]:
        tensors, storages = state(arrays)
        tensors["model.norm.extra"] = call
        archive(f"{folder('evil-' + name)}/pytorch_model.bin", tensors, storages)
        legacy(f"{folder('evil-legacy-' + name)}/pytorch_model.bin", tensors, storages)


main()

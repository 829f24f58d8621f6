"""Rotary frequencies as transformers computes them, for src/rotary_tests.rs: python3 rope.py TRANSFORMERS > rope.json

TRANSFORMERS is the directory of the package (5.24.0 made the file here). Its modeling_rope_utils.py is run as it is, the
rules for absent and doubled fields included, with numpy in place of torch: the functions need only float32 arrays.
"""
import json, pathlib, sys, types
import numpy as np


class Array(np.ndarray):
    def to(self, device=None, dtype=None):
        return self.astype(dtype).view(Array) if dtype else self

    def float(self):
        return self.to(dtype=np.float32)


def array(value, dtype=np.float32):
    return np.asarray(value, dtype).view(Array)


torch = types.ModuleType("torch")
torch.float = torch.float32 = np.float32
torch.int64 = np.int64
torch.Tensor = Array
torch.tensor = lambda value, dtype=np.float32, device=None: array(value, dtype)
torch.arange = lambda *a, dtype=np.int64, device=None: array(np.arange(*a), dtype)
torch.where = lambda c, a, b: array(np.where(c, a, b))
torch.clamp = lambda x, a, b: array(np.clip(x, a, b))
torch.maximum = np.maximum
sys.modules["torch"] = torch
package, utils = types.ModuleType("t"), types.ModuleType("t.utils")
package.__path__ = []
utils.is_torch_available = lambda: True
utils.logging = types.SimpleNamespace(get_logger=lambda _: types.SimpleNamespace(warning=lambda *_: None, warning_once=lambda *_: None))
sys.modules.update({"t": package, "t.utils": utils})
rope = types.ModuleType("t.rope")
rope.__package__ = "t"
exec((pathlib.Path(sys.argv[1]) / "modeling_rope_utils.py").read_text(), rope.__dict__)


class Config(rope.RotaryEmbeddingConfigMixin):
    """A config class as far as rotary positions need it: fields of the class first, then those that it has no names for."""

    def __init__(self, fields, own):
        self.rope_parameters = fields.pop("rope_parameters", None)
        for name in ("hidden_size", "num_attention_heads", "max_position_embeddings", *own):
            setattr(self, name, fields.pop(name, own.get(name)))
        for name, value in self.convert_rope_params_to_dict(**fields).items():
            setattr(self, name, value)


class Phi3(Config):
    """Phi3Config.convert_rope_params_to_dict."""

    def convert_rope_params_to_dict(self, **kwargs):
        self.rope_parameters = kwargs.pop("rope_scaling", None) or self.rope_parameters or {}
        self.rope_parameters.setdefault("rope_theta", kwargs.pop("rope_theta", 10000.0))
        self.rope_parameters.setdefault("partial_rotary_factor", kwargs.get("partial_rotary_factor", 1.0))
        self.standardize_rope_params()
        if self.rope_parameters.get("rope_type") in ("su", "yarn"):
            self.rope_parameters["rope_type"] = "longrope"
        return kwargs


def default(config, **_):
    parameters = config.rope_parameters
    share = parameters.get("partial_rotary_factor", 1.0) if isinstance(config, Phi3) else 1.0
    dim = int(config.hidden_size // config.num_attention_heads * share)
    return 1.0 / (parameters["rope_theta"] ** (torch.arange(0, dim, 2).float() / dim)), 1.0


def case(name, architecture="LlamaForCausalLM", lengths=(16,), **fields):
    fields = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 256, **fields}
    kind, own = (Phi3, {"original_max_position_embeddings": 4096}) if architecture == "Phi3ForCausalLM" else (Config, {})
    results = []
    for length in lengths:
        config = kind(json.loads(json.dumps(fields)), own)
        compute = rope.ROPE_INIT_FUNCTIONS.get(config.rope_parameters["rope_type"], default)
        frequencies, factor = compute(config, seq_len=length)
        results.append({"length": length, "frequencies": [float(f) for f in frequencies], "attention_factor": float(factor)})
    return {"name": name, "config": {"architectures": [architecture], **fields}, "results": results}


yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
short, long = [1.0 + 0.1 * i for i in range(8)], [2.0 + 3.0 * i for i in range(8)]
longrope = {"type": "longrope", "short_factor": short, "long_factor": long}
llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
print(json.dumps([
    case("no scaling", rope_theta=5e5),
    case("the default base"),
    case("transformers 5", rope_parameters={"rope_type": "default", "rope_theta": 3e4}),
    case("linear", rope_scaling={"type": "linear", "factor": 3}),
    case("linear with a key of another type", rope_scaling={"type": "linear", "factor": 3, "beta_fast": 2}),
    case("dynamic within max_position_embeddings", rope_scaling={"type": "dynamic", "factor": 2.0}, lengths=(16, 256)),
    case("llama3", rope_theta=5e5, rope_scaling={**llama3, "original_max_position_embeddings": 64}),
    case("llama3, original positions nowhere", rope_theta=5e5, rope_scaling=llama3),
    case("llama3, original positions beside", rope_theta=5e5, original_max_position_embeddings=128, rope_scaling={**llama3, "original_max_position_embeddings": 64}),
    case("yarn", rope_theta=1e6, rope_scaling=yarn),
    case("yarn by its old key", rope_scaling={**{k: v for k, v in yarn.items() if k != "rope_type"}, "type": "yarn"}),
    case("yarn in transformers 5", rope_parameters={**yarn, "rope_theta": 1e6}),
    case("yarn, factor null", rope_scaling={**yarn, "factor": None}),
    case("yarn, original positions nowhere", rope_scaling={"rope_type": "yarn", "factor": 4.0}),
    case("yarn, original positions beside", original_max_position_embeddings=32, rope_scaling=yarn),
    case("yarn with betas", rope_scaling={**yarn, "beta_fast": 16, "beta_slow": 2}),
    case("yarn, betas 0 and null", rope_scaling={**yarn, "beta_fast": 0, "beta_slow": None}),
    case("yarn, not truncated", rope_scaling={**yarn, "truncate": False}),
    case("yarn with an attention factor", rope_scaling={**yarn, "attention_factor": 0.7}),
    case("yarn with mscale", rope_scaling={**yarn, "mscale": 0.707, "mscale_all_dim": 1.2}),
    case("yarn with mscale only", rope_scaling={**yarn, "mscale": 0.707}),
    case("yarn, factor 1", rope_scaling={**yarn, "factor": 1.0}),
    case("yarn of a short original context", rope_scaling={**yarn, "original_max_position_embeddings": 4}),
    case("longrope", "Phi3ForCausalLM", (16, 64, 65, 256), original_max_position_embeddings=64, rope_scaling=longrope),
    case("longrope called su", "Phi3ForCausalLM", (16, 65), original_max_position_embeddings=64, rope_scaling={**longrope, "type": "su"}),
    case("longrope called yarn", "Phi3ForCausalLM", (16, 65), original_max_position_embeddings=64, rope_scaling={**longrope, "type": "yarn"}),
    case("longrope of part of a head", "Phi3ForCausalLM", (16, 65), original_max_position_embeddings=64, partial_rotary_factor=0.75, rope_scaling={**longrope, "short_factor": short[:6], "long_factor": long[:6]}),
    case("longrope in transformers 5", "Phi3ForCausalLM", (16, 65), original_max_position_embeddings=64, rope_parameters={"rope_type": "longrope", "rope_theta": 1e5, "partial_rotary_factor": 1.0, "short_factor": short, "long_factor": long}),
    case("longrope, original positions inside only", "Phi3ForCausalLM", (16, 100), max_position_embeddings=8192, rope_scaling={**longrope, "original_max_position_embeddings": 64}),
    case("longrope with factors", "Phi3ForCausalLM", (16, 65), original_max_position_embeddings=64, rope_scaling={**longrope, "factor": 8.0}),
    case("longrope with an attention factor", "Phi3ForCausalLM", (16, 65), original_max_position_embeddings=64, rope_scaling={**longrope, "attention_factor": 1.5}),
    case("longrope of a Llama", "LlamaForCausalLM", (16, 65), rope_scaling={**longrope, "original_max_position_embeddings": 64}),
    case("rope_scaling and rope_parameters", rope_scaling={"type": "linear", "factor": 3}, rope_parameters={"rope_type": "default", "rope_theta": 2e4}),
    case("rope_scaling empty", rope_scaling={}, rope_parameters={"rope_type": "linear", "rope_theta": 2e4, "factor": 2.0}),
    case("two bases", rope_theta=1e4, rope_parameters={"rope_type": "default", "rope_theta": 2e4}),
    case("rope_type and type", rope_scaling={"rope_type": "linear", "type": "yarn", "factor": 2.0}),
    case("a base beside an object without one", rope_theta=3e4, rope_parameters={"rope_type": "linear", "factor": 2.0}),
], indent=1))

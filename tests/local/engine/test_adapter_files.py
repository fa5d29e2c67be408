"""Checkpoints as the files of PEFT."""

import json
import struct

import numpy as np
import pytest
from engine_data import CONFIG, randomized_model

from tinkex_sync.local.engine import adapter_files


def read_safetensors(data):
    """Return the metadata and the tensors of a file."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.pop("__metadata__")
    return metadata, {
        name: np.frombuffer(body[slice(*one["data_offsets"])], "<f4").reshape(one["shape"])
        for name, one in header.items()
    }


@pytest.fixture
def model():
    return randomized_model()


def files_of(model, optimizer=False):
    return adapter_files(model.meta(), model.arrays(optimizer))


def test_adapter_added_to_the_base_weights_gives_the_weights_of_the_sampler(model):
    files = files_of(model)
    config = json.loads(files["adapter_config.json"])
    _, tensors = read_safetensors(files["adapter_model.safetensors"])
    weights = model.snapshot()._weights
    scale = config["lora_alpha"] / config["r"]
    modules = {
        "layers.1.qkv": "model.layers.1.self_attn.qkv_proj",
        "layers.0.out": "model.layers.0.self_attn.o_proj",
        "layers.0.up": "model.layers.0.mlp.up_proj",
        "layers.1.down": "model.layers.1.mlp.down_proj",
        "unembed": "lm_head",
    }
    for name, module in modules.items():
        a, b = (tensors[f"base_model.model.{module}.lora_{matrix}.weight"] for matrix in "AB")
        inputs, outputs = CONFIG.shapes()[name]
        assert (a.shape, b.shape) == ((config["r"], inputs), (outputs, config["r"]))
        np.testing.assert_allclose(model.base.weights[name].T + scale * b @ a, weights[name].T, atol=1e-5)
        assert module.rpartition(".")[2] in config["target_modules"]


def test_config_describes_a_lora_adapter_of_the_base_model(model):
    config = json.loads(files_of(model)["adapter_config.json"])
    assert (config["peft_type"], config["task_type"], config["bias"]) == ("LORA", "CAUSAL_LM", "none")
    assert (config["base_model_name_or_path"], config["r"]) == (model.base.name, model.rank)
    assert len(config["target_modules"]) == 5


def test_optimizer_state_is_not_part_of_the_adapter(model):
    assert files_of(model, optimizer=True) == files_of(model)


def test_file_can_be_read_by_the_library(model):
    safetensors = pytest.importorskip("safetensors.numpy")
    data = files_of(model)["adapter_model.safetensors"]
    _, tensors = read_safetensors(data)
    loaded = safetensors.load(data)
    assert loaded.keys() == tensors.keys()
    assert all((loaded[name] == tensors[name]).all() for name in tensors)

"""The adapters of a checkpoint as the files of PEFT: ``adapter_model.safetensors`` and ``adapter_config.json``.

Scripts that merge or serve adapters read these files (huggingface.co/docs/peft, "PEFT checkpoint format"). The models
of the embedded server exist nowhere else, so the names of their maps follow those of Llama.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Dict, List, Mapping

import numpy as np

from .adapters import ALPHA

__all__ = ["adapter_files"]

#: The module of PEFT for each kind of linear map.
_MODULES = {"qkv": "self_attn.qkv_proj", "out": "self_attn.o_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
#: The start of the data in a safetensors file is a multiple of this.
_ALIGNMENT = 8


def adapter_files(meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> Dict[str, bytes]:
    """Return the files of PEFT for a checkpoint.

    Args:
        meta: The description of the checkpoint.
        arrays: Its arrays. Those of the optimizer are ignored.

    Returns:
        The contents by file name. Equal checkpoints have equal bytes.
    """
    tensors: Dict[str, Any] = {}
    modules: Dict[str, None] = {}
    for name, array in arrays.items():
        group, _, adapter = name.partition(".")
        if group == "lora":
            linear_map, _, matrix = adapter.rpartition(".")
            module = _module(linear_map)
            modules[module.rpartition(".")[2]] = None
            # PEFT stores the weights of torch.nn.Linear, of shape (outputs, inputs).
            key = f"base_model.model.{module}.lora_{matrix}.weight"
            tensors[key] = np.ascontiguousarray(array.T, "<f4")
    return {
        "adapter_config.json": json.dumps(_config(meta, [*modules]), indent=2).encode(),
        "adapter_model.safetensors": _safetensors(tensors),
    }


def _module(linear_map: str) -> str:
    """Return the module of a linear map, such as ``model.layers.0.mlp.up_proj`` of ``layers.0.up``."""
    if linear_map == "unembed":
        return "lm_head"
    prefix, _, kind = linear_map.rpartition(".")
    return f"model.{prefix}.{_MODULES[kind]}"


def _config(meta: Mapping[str, Any], modules: List[str]) -> Dict[str, Any]:
    return {
        "base_model_name_or_path": meta["base_model"],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": meta["rank"],
        "revision": None,
        "target_modules": modules,
        "task_type": "CAUSAL_LM",
    }


def _safetensors(tensors: Mapping[str, Any]) -> bytes:
    """Encode tensors in the format safetensors: length of the header, header in JSON, data."""
    header: Dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in tensors.items():
        end = position + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    return b"".join([struct.pack("<Q", len(encoded)), encoded, *(tensor.tobytes() for tensor in tensors.values())])

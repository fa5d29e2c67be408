"""Arguments of the service client, checked and made ready before anything is sent."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

from .. import types
from ..config import LOCAL_KEY, Config
from ..errors import ConfigError, MissingExtraError
from ..http.auth import check_credential
from ..http.endpoints import PROMISES
from ..polling.poller import Promise

__all__ = ["asked", "model_body", "optimizer_config", "promise_of", "ready"]

#: Rows of ``endpoints.PROMISES`` that methods call by other names.
_PROMISE_NAMES = {
    "sample": "asample",
    "compute_logprobs": "asample",
    "save_state": "save_weights",
    "load_state": "load_weights",
    "load_state_with_optimizer": "load_weights",
    "create_lora_training_client": "create_model",
}


def promise_of(request_id: str, kind: str) -> Promise:
    name = _PROMISE_NAMES.get(kind, kind)
    if name not in PROMISES:
        known = sorted({*PROMISES, *_PROMISE_NAMES} - {"asample"})
        raise ValueError(f"kind {kind!r} is none of {', '.join(known)}")
    if not isinstance(request_id, str) or not request_id:
        raise ValueError(f"request_id must be a text that is not empty, not {request_id!r}")
    return Promise(request_id, name)


def model_body(
    base_model: str,
    rank: int,
    seed: Optional[int],
    train_mlp: bool,
    train_attn: bool,
    train_unembed: bool,
    user_metadata: Optional[Mapping[str, str]],
    optimizer: Optional[types.OptimizerConfig] = None,
) -> Dict[str, Any]:
    if not isinstance(base_model, str) or not base_model:
        raise ValueError(f"base_model must be the name of a model, not {base_model!r}")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank must be a whole number of at least 1, not {rank!r}")
    if not (train_mlp or train_attn or train_unembed):
        raise NothingToTrainError("at least one of train_mlp, train_attn and train_unembed must be True")
    config = types.LoraConfig(
        rank=rank, seed=seed, train_unembed=train_unembed, train_mlp=train_mlp, train_attn=train_attn
    )
    return {
        "base_model": base_model,
        "user_metadata": dict(user_metadata or {}),
        "lora_config": config.to_wire(),
        **asked(optimizer_config=optimizer_config(optimizer)),
    }


def optimizer_config(optimizer: Optional[types.OptimizerConfig]) -> Optional[Dict[str, Any]]:
    if optimizer is None:
        return None
    if not isinstance(optimizer, (types.AdamOptimizerConfig, types.DimuonOptimizerConfig)):
        raise TypeError(
            "optimizer must be types.AdamOptimizerConfig() or types.DimuonOptimizerConfig(), not"
            f" {type(optimizer).__name__}"
        )
    return optimizer.to_wire()


class NothingToTrainError(ValueError, AssertionError):
    """No layer is to get an adapter; the official client asserts that."""


#: What a checkpoint may live, in seconds.
_TTL = (3600, 10 * 365 * 86400)


def asked(**fields: Any) -> Dict[str, Any]:
    """The fields that were given: what came after 0.7.0 is sent only when it is asked for.

    Raises:
        ValueError, TypeError: ``ttl_seconds`` or ``user_metadata`` is not what the server can take.
    """
    ttl, labels = fields.get("ttl_seconds"), fields.get("user_metadata")
    if ttl is not None and (
        isinstance(ttl, bool) or not isinstance(ttl, int) or not _TTL[0] <= ttl <= _TTL[1]
    ):
        raise ValueError(
            f"ttl_seconds must be a whole number from {_TTL[0]} to {_TTL[1]} or None, not {ttl!r}"
        )
    if labels is not None:
        fields["user_metadata"] = labels = dict(labels)
        for key, value in labels.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise TypeError(f"user_metadata maps text to text, not {key!r} to {value!r}")
    return {name: value for name, value in fields.items() if value is not None}


def ready(config: Config) -> Config:
    """Settings complete enough to connect: a key, and the address of the embedded server."""
    if config.base_url == "local":
        try:
            from ..local import local_base_url
        except ImportError as error:
            raise MissingExtraError(
                f'base_url="local" needs the embedded server: pip install "tinkex-sync[local]" ({error})'
            ) from error
        return config.replace(base_url=local_base_url(), api_key=config.api_key or LOCAL_KEY)
    if config.api_key is None and config.credential_command is None:
        raise ConfigError('no API key: give api_key= or set TINKER_API_KEY (base_url="local" needs none)')
    check_credential(config.api_key)
    return config

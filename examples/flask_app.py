"""Serve completions from Flask: ``flask --app flask_app run`` or ``gunicorn -w 2 --threads 8 flask_app:app``."""

import functools
import os

from flask import Flask, jsonify, request

from tinkex_sync import DeadlineExceeded, SamplingClient, ServiceClient, types

BASE_URL = os.environ.get("TINKER_BASE_URL", "local")
MODEL = os.environ.get("MODEL", "tinkex/tiny")

app = Flask(__name__)


@functools.cache
def sampler() -> SamplingClient:
    """Return the client of this worker process, made at its first request and shared by its threads."""
    return ServiceClient(base_url=BASE_URL).create_sampling_client(base_model=MODEL)


@app.post("/complete")
def complete():
    body = request.get_json()
    tokenizer = sampler().get_tokenizer()
    prompt = types.ModelInput.from_ints(tokenizer.encode(body["prompt"]))
    params = types.SamplingParams(max_tokens=int(body.get("max_tokens", 16)))
    try:
        response = sampler().sample(prompt, 1, params, timeout=20.0)
    except DeadlineExceeded as error:
        return jsonify(error=str(error)), 504
    return jsonify(text=tokenizer.decode(response.sequences[0].tokens))

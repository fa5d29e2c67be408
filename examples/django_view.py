"""Serve completions from a Django view, in one file: ``python django_view.py runserver``."""

import functools
import json
import os
import sys

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from tinkex_sync import DeadlineExceeded, SamplingClient, ServiceClient, types

BASE_URL = os.environ.get("TINKER_BASE_URL", "local")
MODEL = os.environ.get("MODEL", "tinkex/tiny")

settings.configure(DEBUG=False, ALLOWED_HOSTS=["127.0.0.1", "localhost"], ROOT_URLCONF=__name__, USE_TZ=True)
django.setup()


@functools.cache
def sampler() -> SamplingClient:
    """Return the client of this worker process, made at its first request and shared by its threads."""
    return ServiceClient(base_url=BASE_URL).create_sampling_client(base_model=MODEL)


@csrf_exempt
@require_POST
def complete(request: HttpRequest) -> JsonResponse:
    body = json.loads(request.body)
    tokenizer = sampler().get_tokenizer()
    prompt = types.ModelInput.from_ints(tokenizer.encode(body["prompt"]))
    params = types.SamplingParams(max_tokens=int(body.get("max_tokens", 16)))
    try:
        response = sampler().sample(prompt, 1, params, timeout=20.0)
    except DeadlineExceeded as error:
        return JsonResponse({"error": str(error)}, status=504)
    return JsonResponse({"text": tokenizer.decode(response.sequences[0].tokens)})


urlpatterns = [path("complete", complete)]
application = get_wsgi_application()  # for gunicorn

if __name__ == "__main__":
    execute_from_command_line(sys.argv)

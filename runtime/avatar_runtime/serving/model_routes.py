"""`GET /v1/models` and `/v1/models/{id}`: the service of this pod in the form of OpenAI's API."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from avatar_runtime.errors import Rejection, quoted, shown
from avatar_runtime.serving import admission, rejections

if TYPE_CHECKING:
    from avatar_runtime.serving.runtime import Runtime

LOCAL_MODEL: Final = "local/avatar"
"""The name of a runtime without a service, which accepts sessions for any name."""


class ModelRoutes:
    """The handlers."""

    def __init__(self, runtime: Runtime) -> None:
        self._tokens = runtime.tokens
        name = runtime.settings.identity.service or LOCAL_MODEL
        self._model = {
            "id": name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": name.partition("/")[0],
        }

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/v1/models", self.list, response_model=None)
        router.add_api_route("/v1/models/{name:path}", self.retrieve, response_model=None)
        return router

    async def list(self, request: Request) -> Response:
        """Return the list with the one model."""
        try:
            admission.check_headers(request.scope["headers"], self._tokens)
        except Rejection as rejection:
            return rejections.answer(rejection)
        return JSONResponse({"object": "list", "data": [self._model]})

    async def retrieve(self, request: Request, name: str) -> Response:
        """Return the model of a name."""
        try:
            admission.check_headers(request.scope["headers"], self._tokens)
            if name != self._model["id"]:
                message = f"model is {quoted(name)}, this pod serves {self._model['id']}"
                raise Rejection(
                    404, 4404, "model_not_found", message, param="model", value=shown(name)
                )
        except Rejection as rejection:
            return rejections.answer(rejection)
        return JSONResponse(self._model)

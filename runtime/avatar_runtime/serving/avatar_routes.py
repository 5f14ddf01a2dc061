"""The routes of avatars on the sessions port: their list, and with `--prepare` how to make one."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.requests import ClientDisconnect

from avatar_contracts import answer_limits, upstream
from avatar_runtime.avatars import field_rules, work_folder
from avatar_runtime.errors import AssetError, Rejection
from avatar_runtime.serving import admission, page_origin, prepare_process, rejections, upload
from avatar_runtime.serving.avatar_pictures import AvatarPictures
from avatar_runtime.serving.idle_loop import IdleLoop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_runtime.protocol.session_config import Character
    from avatar_runtime.serving.runtime import Runtime

PREVIEW: Final = "preview.jpg"
_NO_STORE: Final = {"Cache-Control": "no-store"}
_PICTURE_HEADERS: Final = {
    **_NO_STORE,
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_IMMUTABLE: Final = {"Cache-Control": answer_limits.IMMUTABLE}
_WAIT_S: Final = 3600.0  # until the wait for the end of the process is repeated

_log = logging.getLogger(__name__)


class AvatarRoutes:
    """The handlers; at most one preparation runs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._folder = Path(runtime.settings.engine.avatars)
        self._pictures = AvatarPictures(self._folder)
        self._idle_loop = IdleLoop(runtime)
        self._progress: str | None = None

    def router(self) -> APIRouter:
        """Return the routes; those that prepare exist only with `--prepare`."""
        router = APIRouter()
        router.add_api_route("/v1/avatars", self.list, methods=["GET", "HEAD"], response_model=None)
        for path, handler in (
            ("/v1/avatars/{name}/picture.jpg", self.picture),
            ("/v1/avatars/{name}/idle/{frame}.jpg", self.idle_picture),
        ):
            router.add_api_route(path, handler, methods=["GET", "HEAD"], response_model=None)
        if self._runtime.settings.prepare:
            router.add_api_route("/v1/avatars", self.prepare, methods=["POST"], response_model=None)
            router.add_api_route(
                "/v1/avatars/{name}/preview.jpg", self.preview, response_model=None
            )
        return router

    async def list(self, request: Request) -> Response:
        """Return the avatars, what the service does, and the progress of a preparation."""
        prepares = self._runtime.settings.prepare
        try:
            admission.check_headers(request.scope["headers"], self._runtime.tokens)
            if prepares:
                page_origin.check_host(request.headers)
        except Rejection as rejection:
            return rejections.answer(rejection)
        avatars = [
            {
                "name": name,
                "version": _version(character),
                "width": character.width,
                "height": character.height,
                "disclosure": character.disclosure,
            }
            for name, character in self._runtime.avatars.items()
        ]
        document = {
            "avatars": avatars,
            **upstream.describe(self._runtime.settings.upstream.upstream),
            "preparation": prepares,
            "progress": self._progress,
        }
        return JSONResponse(document, headers=_NO_STORE)

    async def picture(self, request: Request, name: str) -> Response:
        """Return a picture of an avatar in silence."""
        try:
            admission.check_headers(request.scope["headers"], self._runtime.tokens)
            if self._runtime.settings.prepare:
                page_origin.check_host(request.headers)
            character = self._runtime.avatars.get(name)
            if character is None:
                raise admission.avatar_not_found(name, self._runtime.avatars)
            picture = await self._pictures.read(name, _version(character))
        except Rejection as rejection:
            return rejections.answer(rejection)
        except AssetError:  # the folder has just been removed
            return rejections.answer(admission.avatar_not_found(name, self._runtime.avatars))
        return Response(picture, media_type="image/jpeg", headers=_PICTURE_HEADERS)

    async def idle_picture(self, request: Request, name: str, frame: str) -> Response:
        """Return a picture of the loop in silence; with a version, it never changes."""
        try:
            admission.check_headers(request.scope["headers"], self._runtime.tokens)
            if self._runtime.settings.prepare:
                page_origin.check_host(request.headers)
            caller = admission.caller_of(
                request.headers,
                request.client.host if request.client is not None else "",
                is_from_gateway=self._runtime.tokens.session_is_required,
            )
            picture = await self._idle_loop.read(
                name, frame, request.query_params, caller, request.is_disconnected
            )
        except Rejection as rejection:
            return rejections.answer(rejection)
        if picture is None:
            return Response(status_code=400)  # nobody reads it
        kept = _IMMUTABLE if "version" in request.query_params else {}
        return Response(picture, media_type="image/jpeg", headers=_PICTURE_HEADERS | kept)

    async def preview(self, request: Request, name: str) -> Response:
        """Return the contact sheet of an avatar."""
        try:
            admission.check_headers(request.scope["headers"], self._runtime.tokens)
            page_origin.check_host(request.headers)
            _check_name(name)
            path = self._folder / name / PREVIEW
            if not await asyncio.to_thread(path.is_file):
                raise Rejection(404, 1008, "not_found", f"the avatar {name} has no preview")
        except Rejection as rejection:
            return rejections.answer(rejection)
        return FileResponse(path, media_type="image/jpeg", headers=_PICTURE_HEADERS)

    async def prepare(self, request: Request) -> Response:
        """Make an avatar of the file in the body and return the report."""
        try:
            page_origin.check_origin(request.headers)
            admission.check_headers(request.scope["headers"], self._runtime.tokens)
            return await self._admit(request)
        except Rejection as rejection:
            return rejections.answer(rejection)
        except ClientDisconnect:
            _log.info("client left during its upload")
            return Response(status_code=400)  # nobody reads it
        except OSError as error:
            _log.warning("upload failed: %s", error)
            fault = f"the file cannot be stored: {error.strerror or error}"
            return rejections.answer(Rejection(507, 1011, "not_stored", fault))

    async def _admit(self, request: Request) -> Response:
        name, consent = _named(request)
        upload.check_length(request.headers.get("content-length"))
        with upload.reserved(self._folder) as path:
            source = path.resolve()
            size = await upload.store(request.stream(), source)
            _log.info("preparation started avatar=%s bytes=%d", name, size)
            command = prepare_process.arguments(
                self._runtime.settings.engine, source, name, consent
            )
            result = await self._run(request, command)
            if result is None and not self._runtime.stopping:
                # Nobody may come back for what is finished, and the user of a page sees no folders.
                await asyncio.to_thread(work_folder.discard, self._folder.resolve() / name)
        if result is None:
            _log.info("preparation killed avatar=%s", name)
            raise Rejection(503, 1012, "stopped", "the preparation was stopped")
        _log.info("preparation ended avatar=%s status=%d", name, result.status)
        status, report = prepare_process.report_of(result, str(source))
        return JSONResponse(report, status, headers=_NO_STORE)

    async def _run(self, request: Request, command: Sequence[str]) -> prepare_process.Result | None:
        """Run a command until it ends, the client leaves or the process stops; then `None`."""
        task = asyncio.create_task(prepare_process.run(command, self._show), name="preparation")
        ends = [
            asyncio.create_task(_left(request), name="client left"),
            asyncio.create_task(self._stopping(), name="process stops"),
        ]
        try:
            await asyncio.wait([task, *ends], return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            self._progress = None
            for each in (task, *ends):
                each.cancel()
            await asyncio.gather(task, *ends, return_exceptions=True)

    async def _stopping(self) -> None:
        while not self._runtime.stopping:
            await self._runtime.changes.wait(self._runtime.changes.count, _WAIT_S)

    def _show(self, line: str) -> None:
        self._progress = line


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _version(character: Character) -> str:
    return character.key.removeprefix(f"{character.name}@")


def _named(request: Request) -> tuple[str, str]:
    """Return the name and the consent of a request.

    Raises:
        Rejection: with status 400, if one is missing or wrong.
    """
    name, consent = (request.query_params.get(key, "") for key in ("name", "consent"))
    _check_name(name)
    if not consent.strip():
        message = "consent is empty, must say who allowed the use of the face"
        raise Rejection(400, 1008, "invalid_value", message, param="consent")
    if not field_rules.is_note(consent):
        message = f"consent must be text of at most {field_rules.MAX_TEXT} characters"
        raise Rejection(400, 1008, "invalid_value", message, param="consent")
    return name, consent


def _check_name(name: str) -> None:
    if not field_rules.is_folder_name(name):
        message = f"the name {name[:80]!r} {field_rules.FOLDER_NAME_LIMIT}"
        raise Rejection(400, 1008, "invalid_value", message, param="name")

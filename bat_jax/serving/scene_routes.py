"""The routes of pictures that are sent, or named, once: /v1/scenes."""

import dataclasses
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from bat_jax.io.areas import footprint
from bat_jax.pipeline import Scene
from bat_jax.serving.chat_routes import unless_gone
from bat_jax.serving.client_pictures import SCENE_SCHEME, ClientPicture
from bat_jax.serving.errors import ApiError
from bat_jax.serving.service import AnswerService
from bat_jax.serving.tiles import TilePyramids
from bat_jax.serving.worker import Job


class NamedFile(BaseModel):
    """The JSON body that names a file below the scene root instead of sending it."""

    file: str


def scene_record(picture: ClientPicture, scene: Scene) -> dict[str, Any]:
    """Return what /v1/scenes says about a picture."""
    width, height = scene.image_size
    return {
        "id": picture.id,
        "object": "scene",
        "url": f"{SCENE_SCHEME}{picture.id}",
        "name": picture.name,
        "bytes": picture.num_bytes,
        "created": picture.created,
        "width": width,
        "height": height,
        "note": scene.note,
        "footprint": footprint(scene.georeference, (0, 0, *scene.image_size)),
        "scales_px": list(scene.scales_px),
    }


def scene_routes(service: AnswerService) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/scenes")
    pictures = service.pictures
    pyramids = TilePyramids(pictures, dict(service.settings.read))

    async def encoded(picture: ClientPicture) -> dict[str, Any]:
        """Encode a picture, and know it by its id from then on."""
        try:
            served = await service.run(Job(pictures=(picture,)))
            record = await run_in_threadpool(scene_record, picture, served.scenes[0])
        except BaseException:
            pictures.discard(picture)
            raise
        pictures.remember(dataclasses.replace(picture, about=record))
        return record

    async def sent(request: Request) -> ClientPicture:
        """Return the picture that a request's body is, or names."""
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            async with request.form(max_files=1, max_fields=8) as form:
                file = form.get("file")
                if not isinstance(file, UploadFile):
                    raise ApiError(400, "file: the form has no file of this name", param="file", code="missing")
                return await run_in_threadpool(pictures.upload, file.file, file.filename or "")
        try:
            named = NamedFile.model_validate_json(await request.body())
        except ValidationError:
            raise ApiError(
                400,
                'file: send a form with a file, or {"file": "name below the scene root"}',
                param="file",
                code="missing",
            ) from None
        return await run_in_threadpool(pictures.file, named.file)

    @routes.post("")
    async def add(request: Request) -> JSONResponse:
        picture = await sent(request)
        return JSONResponse(await unless_gone(request, encoded(picture)), 201)

    @routes.get("")
    async def known() -> dict[str, Any]:
        return {"object": "list", "data": [picture.about for picture in pictures.pictures[::-1]]}

    @routes.get("/{scene_id}")
    async def one(scene_id: str) -> Any:
        return pictures.get(scene_id).about

    @routes.delete("/{scene_id}")
    async def remove(scene_id: str) -> Response:
        pictures.remove(scene_id)
        service.shelf.remove(scene_id)
        return JSONResponse({"id": scene_id, "object": "scene", "deleted": True})

    @routes.get("/{scene_id}/tiles")
    def levels(scene_id: str) -> dict[str, int]:
        return pyramids.plan(pictures.get(scene_id)).record()

    @routes.get("/{scene_id}/tiles/{level}/{x}/{y}")
    def tile(scene_id: str, level: int, x: int, y: int) -> Response:
        content = pyramids.tile(pictures.get(scene_id), level, x, y)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    return routes

"""What people see of the gateway in a browser: `/docs`, an interactive page of the API, and `/openapi.json`.

Decides: the pages' paths, and that nothing comes from another host.  The look is Swagger UI's, from its package.
"""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from kvnode.dapr.answers import Answer

_ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>kvnode: Dapr's state API</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true, tryItOutEnabled: true});
"""
_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
_HEADERS = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff"}


def make(document: dict[str, Any], not_found: Answer) -> Starlette:
    """Return the application of the pages; `not_found` is the answer to any other path."""

    async def other(request: Request, error: Exception) -> Response:
        return _response(not_found)

    async def docs(request: Request) -> Response:
        return HTMLResponse(_PAGE, headers=_HEADERS)

    async def start(request: Request) -> Response:
        return Response(_START, media_type="text/javascript", headers=_HEADERS)

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _ASSETS:
            return _response(not_found)
        return FileResponse(_swagger() / name, media_type=_ASSETS[name], headers=_HEADERS)

    async def openapi(request: Request) -> Response:
        return JSONResponse(document)

    async def home(request: Request) -> Response:
        return RedirectResponse("/docs")

    routes = [
        Route("/", home),
        Route("/docs", docs),
        Route("/docs/start.js", start),
        Route("/docs/{name}", asset),
        Route("/openapi.json", openapi),
    ]
    return Starlette(routes=routes, exception_handlers={404: other, 405: other})


def _response(answer: Answer) -> Response:
    response = Response(answer.body, answer.status)
    response.raw_headers = list(answer.headers)
    return response


def _swagger() -> Any:
    from swagger_ui_bundle import swagger_ui_path

    return swagger_ui_path

"""The plugin's HTTP face: reads bodies, calls the tables of `driver` and `ipam`, turns errors into statuses.

Knows flask and no network. `plugin.app` gives it the methods as soon as they can work; until then a call waits a
bounded time, and the constant answers need nothing at all. Source: moby pkg/plugins/client.go (no Content-Type; a
retried call has an empty body; errors are `Err` for any status but 200, `Error` for IPAM on 200: both are sent).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import flask
from gunicorn.http import errors as server_errors
from werkzeug import exceptions as http_errors

from overlay import faults, fields
from plugin import server

log = logging.getLogger(__name__)

BODY_LIMIT = 16 << 20
"""Bytes. Docker lists every published port: all 65,535 of one protocol at an IPv6 address have 9.4 MB."""

SMALL_BODY = 1 << 20
"""Bytes. Bodies above are read and answered one at a time: parsed, they take ten times their size."""

LARGE_WAIT_S = 25.0
"""For another large body's answer, above the longest that a call waits for the lease."""

MESSAGE_LIMIT = 2000
"""Characters of an error: what it quotes may be as long as the body."""

DIAGNOSE_LIMIT = 8
"""Peers in one request: they are asked at the same time, and a handler waits for the slowest."""

SETTLE_S = 3.0
"""Between two looks of an audit, all of which must agree."""

SETTLE_LIMIT_S = 30.0

IMPLEMENTS = {"Implements": ["NetworkDriver", "IpamDriver"]}

Answer = Mapping[str, Any]
Method = Callable[[fields.JsonObject], Answer]


class Core(Protocol):
    """What the composition root has built."""

    def methods(self) -> Mapping[str, Method]:
        """The methods by name; waits a bounded time for the core. Raises an error with a `status`."""
        ...

    def observe(self, name: str, seconds: float, status: int) -> None:
        """One call was answered."""
        ...

    def status(self) -> Answer:
        """What /status shows."""
        ...

    def peers(self) -> Answer:
        """What /peers shows."""
        ...

    def examine(self, subnets: frozenset[str]) -> Answer:
        """What /diagnose finds out about the peers with these subnets; takes some seconds."""
        ...

    def audit(self, settle_s: float, *, repair: bool) -> Answer:
        """What /audit shows; takes some seconds where anything differs. Raises an error with a `status`."""
        ...

    def uninstall(self) -> Answer:
        """Removes everything of ours from the host: what is left, a line each. Raises an error with a `status`."""
        ...

    def missing(self) -> tuple[str, ...]:
        """What /readyz waits for; nothing when ready."""
        ...

    def metrics(self) -> tuple[bytes, str]:
        """Prometheus' text and its content type."""
        ...


def make_app(core: Core, constants: Mapping[str, Answer]) -> flask.Flask:
    """The WSGI application. `constants` answers what must work before anything else does."""
    app = flask.Flask("flannelpy", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT + 1  # a body in chunks is cut there and not refused: see _body
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # another verb is an error, this one too
    fixed = {"Plugin.Activate": IMPLEMENTS, **constants}
    large = threading.Lock()

    @app.post("/<method>")
    def call(method: str) -> flask.Response:
        started = time.monotonic()
        with faults.within(method):
            faults.reached("handler.before")
            response = _in_turn(large, lambda: _answer(core, fixed, method))
            faults.reached("handler.after")
        core.observe(method, time.monotonic() - started, response.status_code)
        return response

    @app.get("/healthz")
    def healthz() -> flask.Response:
        return _text("ok\n", 200)

    @app.get("/readyz")
    def readyz() -> flask.Response:
        missing = core.missing()
        return _text("".join(f"{line}\n" for line in missing) or "ready\n", 503 if missing else 200)

    @app.get("/status")
    def status() -> flask.Response:
        return flask.jsonify(core.status())

    @app.get("/peers")
    def peers() -> flask.Response:
        return flask.jsonify(core.peers())

    @app.get("/diagnose")
    def diagnose() -> flask.Response:
        subnets = frozenset(flask.request.args.getlist("peer"))
        if not 0 < len(subnets) <= DIAGNOSE_LIMIT:
            return _error(f"/diagnose: expected 1 to {DIAGNOSE_LIMIT} times peer=SUBNET, got {len(subnets)}", 400)
        return flask.jsonify(core.examine(subnets))

    _add_orders(app, core)

    @app.get("/metrics")
    def metrics() -> flask.Response:
        text, content_type = core.metrics()
        return flask.Response(text, content_type=content_type)

    @app.errorhandler(http_errors.HTTPException)
    def refuse(error: http_errors.HTTPException) -> flask.Response:
        what = f"the body has more than {BODY_LIMIT} bytes" if error.code == 413 else error.name
        return _error(f"{flask.request.method} {flask.request.path[:80]}: {what}", error.code or 500)

    return app


def _add_orders(app: flask.Flask, core: Core) -> None:
    """What an operator has the plugin do."""

    @app.post("/uninstall")
    def uninstall() -> flask.Response:
        return _guarded("/uninstall", lambda: flask.jsonify(core.uninstall()))

    @app.route("/audit", methods=["GET", "POST"])
    def audit() -> flask.Response:
        asked = flask.request.args.get("settle", default=f"{SETTLE_S}")
        settle = _seconds(asked)
        if not 0 <= settle <= SETTLE_LIMIT_S:
            return _error(f"/audit: expected settle=SECONDS from 0 to {SETTLE_LIMIT_S:g}, got {asked[:80]}", 400)
        return _guarded("/audit", lambda: flask.jsonify(core.audit(settle, repair=flask.request.method == "POST")))


def _seconds(text: str) -> float:
    """A number; what is none is not a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _in_turn(large: threading.Lock, answer: Callable[[], flask.Response]) -> flask.Response:
    """The answer; to a large body, or one of unknown size, when no other such is being answered."""
    size = flask.request.content_length
    if size <= SMALL_BODY if size is not None else "Transfer-Encoding" not in flask.request.headers:
        return answer()
    if not large.acquire(timeout=LARGE_WAIT_S):
        return _error(f"{flask.request.path[:80]}: other calls with more than {SMALL_BODY} bytes take too long", 503)
    try:
        return answer()
    finally:
        large.release()


def _answer(core: Core, fixed: Mapping[str, Answer], name: str) -> flask.Response:
    def answer() -> flask.Response:
        if name in fixed:
            return _json(fixed[name], 200)
        method = core.methods().get(name)
        if method is None:
            return _error(f"{name[:80]}: no such method of NetworkDriver or IpamDriver", 404)
        return _json(method(_body()), 200)

    return _guarded(name, answer)


def _guarded(name: str, answer: Callable[[], flask.Response]) -> flask.Response:
    """The answer, or the status that an error has."""
    try:
        return answer()
    except fields.FieldError as exc:
        return _error(str(exc), 400)
    except http_errors.HTTPException:
        raise
    except Exception as exc:
        status = getattr(exc, "status", None)
        if not isinstance(status, int):
            log.exception("bug: unexpected error in %s", name)
            return _error(f"{name}: unexpected {type(exc).__name__}; see the plugin's log", 500)
        message = str(exc)[:MESSAGE_LIMIT]
        log.warning("refused call=%s status=%d reason=%s", name, status, message)
        return _error(message, status)


def _body() -> fields.JsonObject:
    try:
        data = flask.request.get_data(cache=False)
    except server_errors.ParseException as exc:  # chunks that are none
        raise fields.FieldError(f"the body cannot be read: {exc}") from exc
    if len(data) > BODY_LIMIT:
        raise http_errors.RequestEntityTooLarge
    if not data.strip():
        # dockerd repeats a broken call without its body (moby#35459); a success here would be a lie
        raise fields.FieldError("expected a JSON object, got an empty body: the engine's repeat of a broken call")
    return fields.parse_object(data)


def _json(answer: Answer, status: int) -> flask.Response:
    return flask.Response(flask.json.dumps(answer) + "\n", status=status, mimetype=server.MIMETYPE)


def _error(message: str, status: int) -> flask.Response:
    return _json(server.format_error(message[:MESSAGE_LIMIT]), status)


def _text(text: str, status: int) -> flask.Response:
    return flask.Response(text, status=status, mimetype="text/plain")

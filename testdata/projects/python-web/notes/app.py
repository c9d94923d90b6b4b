"""The service's routes."""

import threading

import bottle


def make_app():
    """Make an application with no notes."""
    app = bottle.Bottle()
    notes = {}
    lock = threading.Lock()

    @app.get("/")
    def greeting():
        return {"service": "notes", "count": len(notes)}

    @app.get("/notes/<name:re:[a-z]{1,32}>")
    def read(name):
        with lock:
            if name not in notes:
                bottle.abort(404, "no such note")
            return {"name": name, "text": notes[name]}

    @app.put("/notes/<name:re:[a-z]{1,32}>")
    def write(name):
        text = bottle.request.body.read(10_000).decode("utf-8", "replace")
        with lock:
            notes[name] = text
        bottle.response.status = 201
        return {"name": name, "text": text}

    return app

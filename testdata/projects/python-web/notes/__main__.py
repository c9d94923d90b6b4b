"""Serve on the port the environment names."""

import os

import waitress

from notes.app import make_app

waitress.serve(make_app(), host=os.environ.get("HOST", "0.0.0.0"), port=int(os.environ["PORT"]))

"""`kling-receiver db`: looking after the store's file."""

from cyclopts import App

db = App(name="db", help="Look after the store.")

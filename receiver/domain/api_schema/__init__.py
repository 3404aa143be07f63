"""The one definition of the JSON that the admin API and the destinations receive.

``/openapi.json`` is generated from these dataclasses, the API's responses are built from them, and the values of the
Python client extend them. ``web/requests`` defines the JSON and the parameters that the API accepts.
"""

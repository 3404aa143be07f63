"""The HTTP servers: uvicorn, limits and connections."""

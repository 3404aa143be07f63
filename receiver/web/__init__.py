"""The two faces of the service over HTTP: what Kling posts to, and what people and programs of the operator's use."""

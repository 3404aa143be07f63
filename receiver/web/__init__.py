"""The two HTTP apps of the service: the public one receives Kling's callbacks, the admin one serves the operator."""
